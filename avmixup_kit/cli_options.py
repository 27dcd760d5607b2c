"""What commands share: which images, and the settings of the chosen method."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from avmixup_kit import methods
from avmixup_kit._base import check, distributed
from avmixup_kit._base.distributed import choose_device
from avmixup_kit._base.registry import Registry
from avmixup_kit.data import DATASETS, Augmentation, Data, load
from avmixup_kit.methods.attacks import ATTACKS, Norm
from avmixup_kit.models import NETWORKS
from avmixup_kit.training import runs

try:
    import tyro
except ImportError:
    raise SystemExit(
        "the command line needs tyro, which is not installed: pip install 'avmixup-kit[cli]'"
    ) from None


def _choice(registry: Registry, default: str, *aliases: str) -> object:
    """Return the choice of a name as the registry stands when words are parsed, plugins loaded."""

    def names() -> Any:
        return Literal[*registry]

    hint = f"(default: {default})"
    return tyro.conf.arg(aliases=aliases, constructor_factory=names, help_behavior_hint=hint)


def _or_the_runs() -> Any:
    return Literal["run", *DATASETS]


DataName = Annotated[str, _choice(DATASETS, "digits", "--dataset")]
NetworkName = Annotated[str, _choice(NETWORKS, "small_cnn")]
AttackNames = tuple[Annotated[str, _choice(ATTACKS, "fgsm pgd cw")], ...]
Plugins = Annotated[
    tuple[Path, ...],
    tyro.conf.arg(
        help="Python files of your own that register methods, attacks, networks or data sets."
    ),
]
EPSILON = 8 / 255


@dataclass(frozen=True)
class DataOptions:
    """Which images."""

    data: DataName = "digits"
    """The data set."""
    root: Path | None = None
    """Where it lies, or is downloaded to; for image_folder the folder or archive itself."""
    pad: int | None = None
    """Zeros around each side before a random crop; the data set's own where left out."""
    flip: bool | None = None
    """Mirror images at random; the data set's own where left out."""
    validation: float | None = None
    """Part of the training images held out for validation; the data set's own where left out."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where images, network and attacks live; auto is CUDA where there is one."""

    def load(self, *, name: str | None = None, recalled: Mapping[str, Any] | None = None) -> Data:
        """Return the data set on its device.

        ``name`` and ``recalled`` are in place of ``data`` and below the other options, where given.
        """
        device, name = choose_device(self.device), name or self.data
        path = DATASETS.entries[name].settings.get("path")
        options: dict[str, Any] = dict(recalled or {})
        if self.root is not None:
            options["path" if path else "root"] = self.root
        elif path and path.default is path.empty and "path" not in options:
            raise ValueError("--root is missing: the folder or archive of images")
        if self.validation is not None:
            options["validation"] = self.validation
        if self.pad is not None or self.flip is not None:
            options["augmentation"] = Augmentation(self.pad or 0, bool(self.flip))
        if distributed.world() > 1:
            # One process downloads and decodes; the others find it done.
            distributed.from_rank_0(lambda: bool(load(name, **options)))
        return load(name, **options).to(device)


@dataclass(frozen=True)
class RunDataOptions(DataOptions):
    """Which images; the run's own, as its training loaded them, where not said."""

    data: Annotated[
        str,
        tyro.conf.arg(
            aliases=("--dataset",),
            constructor_factory=_or_the_runs,
            help_behavior_hint="(default: run)",
        ),
    ] = "run"
    """The data set; run is the run's own."""

    def of(self, folder: Path) -> Data:
        """Return the data set on its device.

        Raises:
            ValueError: the run does not say what it was trained on.
        """
        if self.data != "run":
            return self.load()
        name, recalled = runs.images_of(folder)
        return self.load(name=name, recalled=recalled)


def radius(given: float | None, usual: float, norm: Norm) -> float:
    """Return the radius that was given, or the data set's own, which is one of l-infinity."""
    allowed = "an l2 ball needs a radius of its own, such as --epsilon 0.5"
    check.that(norm == "linf" or given is not None, "epsilon", given, allowed)
    return usual if given is None else given


@dataclass(frozen=True)
class MethodOptions:
    """What is trained."""

    method: str = "avmixup"

    def build(self, epsilon: float) -> methods.Method:
        """Return the method, at this epsilon unless it has another of its own or was given one."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "method"}
        if "epsilon" in given:
            given["epsilon"] = radius(given["epsilon"], epsilon, given.get("norm", "linf"))
        if "attack_steps" in given:
            given["steps"] = given.pop("attack_steps")
        return methods.build(self.method, **given)


def _said(annotation: Any) -> bool:
    """Return whether a command line can give values of this type."""
    inner = get_args(annotation)
    if get_origin(annotation) is Literal or annotation in (int, float, bool, str, NoneType, ...):
        return True
    return bool(inner) and all(map(_said, inner))


def method_options(name: str) -> type[MethodOptions]:
    """Return the options of one method: its own settings, with its own defaults."""
    entry = methods.METHODS.entries[name]
    about = tyro.conf.arg(help=f"The training method. This one: {entry.summary}")
    shown: list[Any] = [
        ("method", Annotated[Literal[*methods.METHODS], about], field(default=name))
    ]
    for key, setting in entry.settings.items():
        kind, default = setting.annotation, setting.default
        if not _said(kind) or key == "average":  # each command has an --average of its own
            continue
        hint = None
        if default is None:
            hint = "(default: from epsilon)" if key == "step_size" else "(default: none)"
        if key == "epsilon" and default == EPSILON:
            kind, default, hint = float | None, None, "(default: the data set's own)"
        called = "attack_steps" if key == "steps" else key
        about = tyro.conf.arg(help=methods.SETTINGS.get(key), help_behavior_hint=hint)
        shown.append((called, Annotated[kind, about], field(default=default)))
    about = {"__doc__": MethodOptions.__doc__}
    return make_dataclass(
        "MethodOptions", shown, bases=(MethodOptions,), frozen=True, namespace=about
    )
