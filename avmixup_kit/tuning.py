"""The name that ``search`` had in version 0.1."""

from avmixup_kit.search import *  # noqa: F403
