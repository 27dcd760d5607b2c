"""Every method and attack keeps the shapes its signature states, checked at run time."""

import subprocess
import sys

# A process of its own: the hook rewrites modules as they are first imported.
CHECKED = """
import torch
from jaxtyping import install_import_hook

MODULES = ("asked", "attacks", "balls", "batch", "beyond", "labels", "losses", "method", "mixing")
MODULES += ("named", "weights")
CORE = [f"avmixup_kit.methods.{module}" for module in MODULES]
with install_import_hook(CORE, "beartype.beartype"):
    import avmixup_kit as av
    from avmixup_kit import methods
    from avmixup_kit.methods import labels, losses
torch.set_num_threads(1)
data = av.digits()
x, y = data.train.batch(torch.arange(6))
for build in methods.BY_NAME.values():
    options = {"batch_size": 8, "teacher": av.small_cnn(data)}
    training = av.Training(av.small_cnn(data), data.train, build(), 1, **options)
    next(training)
for attack in (av.fgsm(0.1), av.pgd(steps=2, restarts=2), av.cw(steps=2)):
    attack(training.model, x, y, torch.Generator())
    av.evaluate(training.model, data.test.subset(9), [attack], batch_size=4)

wrong = [
    lambda: losses.soft_cross_entropy(y, y[:3]),
    lambda: losses.margin(y, y[0]),
    lambda: labels.smooth(y[0], 0.5),
    lambda: av.Batch(x, y, delta=x[:3]),
    lambda: av.Batch(x, y, x_hat=x, y_hat=y[:3]),
    lambda: av.Batch(x[0], y),
    lambda: av.ascend(lambda z: z.sum(), x, x[0], 0.1, 0.1, 1),
    lambda: av.pgd(steps=2)(training.model, x[0], y, torch.Generator()),
]
for number, call in enumerate(wrong):
    try:
        call()
    except Exception as error:
        assert type(error).__name__ == "TypeCheckError", (number, error)
    else:
        raise AssertionError(f"wrong shape {number} was accepted")
print("checked", len(wrong))
"""


def test_shapes_are_checked_at_run_time():
    done = subprocess.run(
        [sys.executable, "-c", CHECKED], capture_output=True, text=True, timeout=600
    )
    assert done.stdout.strip() == "checked 8", done.stderr[-3000:]
