"""avmixup_kit: understand, train and honestly evaluate Adversarial Vertex mixup (CVPR 2020).

import avmixup_kit as av
"""

import lazy_loader

__version__ = "0.2.0"

# Public names and their homes stand in __init__.pyi; each is loaded when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
