"""What every test has: its threads, real images where there are any, no skips in CI."""

import getpass
import os
import tempfile
from pathlib import Path

import pytest
import torch

import avmixup_kit as av

# One is fastest on images this small; `make portable` asks for two as well.
torch.set_num_threads(int(os.environ.get("AVMIXUP_TEST_THREADS", "1")))

# Code that inductor compiled for other instructions lies in the same cache and is wrong for these.
ISA = "-".join(os.environ.get(key, "own") for key in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"))
CACHE = Path(tempfile.gettempdir()) / f"avmixup-inductor-{getpass.getuser()}-{ISA}"
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(CACHE))


@pytest.fixture(autouse=True)
def threads():
    """Undo what the shell's commands, which some tests call, choose of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def skip(reason: str) -> None:
    """Skip with a reason; in CI, where everything is at hand, fail instead."""
    if os.environ.get("AVMIXUP_REQUIRE_ALL"):
        pytest.fail(f"not allowed to skip here: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def real_images() -> Path:
    """The folder of real images, named by AVMIXUP_TEST_DATA."""
    folder = os.environ.get("AVMIXUP_TEST_DATA")
    if not folder:
        skip("AVMIXUP_TEST_DATA is unset: it names a folder with cifar10-jpeg.tar.xz")
    return Path(str(folder))


@pytest.fixture(scope="session")
def digits() -> av.Data:
    return av.digits()


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def batch(digits: av.Data) -> tuple[torch.Tensor, torch.Tensor]:
    """32 real digits and their one-hot labels."""
    return digits.train.batch(torch.arange(32))


@pytest.fixture
def network(digits: av.Data) -> torch.nn.Module:
    """An untrained small network with batch norm, whose running statistics are no identity."""
    model = av.small_cnn(digits, seed=3)
    model.train()
    with torch.no_grad():
        for start in range(0, 256, 64):
            model(digits.train.batch(torch.arange(start, start + 64))[0])
    return model


@pytest.fixture(scope="session")
def trained(digits: av.Data) -> torch.nn.Module:
    """A small network trained for 150 steps with PGD-3: somewhat robust, fast to attack."""
    model = av.small_cnn(digits, seed=1)
    method = av.methods.pgd(epsilon=digits.epsilon, steps=3)
    for _ in av.Training(model, digits.train, method, 150, seed=1, batch_size=64):
        pass
    return model.eval()
