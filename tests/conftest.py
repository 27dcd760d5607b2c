"""What every test has: its threads, real images where there are any, no skips in CI."""

import getpass
import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import avmixup_kit as av
from avmixup_kit.data import samples
from avmixup_kit.evaluation.record import card

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


def made_mirror(folder: Path, train: int, test: int) -> Path:
    """Write an archive like the JPEG mirror's, so many noisy images of each class."""
    draw = np.random.RandomState(0)
    with tarfile.open(folder / samples.MIRROR, "w:xz") as archive:
        for split, count in (("train", train), ("test", test)):
            for label in range(10):
                for number in range(count):
                    buffer = io.BytesIO()
                    pixels = draw.randint(0, 256, (32, 32, 3), np.uint8)
                    Image.fromarray(pixels).save(buffer, "JPEG")
                    info = tarfile.TarInfo(f"{split}/class{label}/{number}.jpg")
                    info.size = buffer.tell()
                    buffer.seek(0)
                    archive.addfile(info, buffer)
    return folder / samples.MIRROR


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive like the JPEG mirror's, three test images of each class."""
    return made_mirror(tmp_path_factory.mktemp("mirror"), 10, 3).parent


@pytest.fixture
def zoo_of_photographs(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo with an untrained network of the mirror's images beside those of digits."""
    folder = tmp_path / "zoo"
    shutil.copytree(av.zoo.HERE / "digits", folder / "digits")
    monkeypatch.setattr(av.zoo, "HERE", folder)
    size = "num_classes=10, in_channels=3, base_channels=2, stem_stride=2"
    network = av.models.from_architecture(f"preact_resnet18({size})").half().float().eval()
    found = av.evaluate(network, av.cifar10_sample(20, root=mirror), [av.pgd(steps=2)])
    about = card(found, name="AVmixup", dataset="cifar10-jpeg")
    (folder / "cifar10-jpeg").mkdir()
    av.export(network, about, tmp_path / "exported", half=True)
    for suffix in (".safetensors", ".json"):
        written = (tmp_path / "exported").with_suffix(suffix)
        shutil.copy(written, folder / "cifar10-jpeg" / f"avmixup{suffix}")
    return folder
