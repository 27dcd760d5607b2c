"""Settings drawn at random: each is refused in one clear line, or trains, is saved and goes on.

    python -m tests.properties --draws 10000 --seed 0

What is drawn from are the registries, the vocabulary of stages, and the fields and signatures of
``Settings``, ``Training`` and ``Plan``, so that whatever is registered later is drawn as well. Half
of the values are of the setting's own kind, plain or as numpy and torch hold them; the others are
whatever a notebook may hold. ``judge`` tells what became of a draw, ``tally`` of many.
"""

import argparse
import functools
import inspect
import io
import json
import random
import re
import sys
import traceback
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from functools import cache, partial
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch

import avmixup_kit as av
from avmixup_kit import methods, models, runs
from avmixup_kit._base import check
from avmixup_kit.evaluation.autoattack import AutoAttack
from avmixup_kit.evaluation.random_search import RandomSearch
from avmixup_kit.methods import losses
from avmixup_kit.methods import method as texts
from avmixup_kit.methods.attacks import ATTACKS
from avmixup_kit.methods.method import networks_of, parse
from avmixup_kit.models.zoo import NETWORKS
from avmixup_kit.search import Plan

STEPS = 4
ADAMW = partial(torch.optim.AdamW, lr=torch.tensor(0.001))
# What keeps a draw cheap, by the setting's name.
CHEAP = {"base_channels": 2, "depth": 10, "width": 1}
SKIPPED = {"data", "model", "split", "settings", "method"}  # of these signatures, drawn elsewhere


class Two(IntEnum):
    TWO = 2


@dataclass(frozen=True)
class Draw:
    """One thing to make: ``make(**given)``, where ``drawn`` were chosen at random."""

    kind: str
    name: str
    drawn: Mapping[str, Any]
    made: Callable[[], "Callable[[], av.Training]"]

    def __str__(self) -> str:
        words = ", ".join(f"{name}={_shown(value)}" for name, value in self.drawn.items())
        return f"{self.kind} {self.name}({words})"


def _shown(value: Any) -> str:
    try:
        return " ".join(repr(value).split())[:60]
    except ValueError:
        return "int of thousands of digits"


# ------------------------------------------------------------------------------------- the data


@cache
def digits() -> av.Data:
    data = av.digits(validation=0.25)
    return replace(data, train=data.train.subset(48), validation=data.validation.subset(16))


def network(seed: int = 0) -> torch.nn.Module:
    return av.small_cnn(digits(), base_channels=2, seed=seed)


def training(method: Any, **options: Any) -> av.Training:
    given: dict[str, Any] = {"steps": STEPS, "batch_size": 8, "teacher": network(7)} | options
    if "settings" in given:
        given = {k: v for k, v in given.items() if k not in ("steps", "batch_size")}
    return av.Training(given.pop("model", None) or network(), digits().train, method, **given)


# ------------------------------------------------------------------------------------- the values


def _own_kind(rng: random.Random, kind: Any, default: Any) -> Any:
    """Return a value of the kind that a setting asks for."""
    options = (
        get_args(kind) if isinstance(kind, types.UnionType) or get_origin(kind) is Union else ()
    )
    if options:
        kind = rng.choice(options)
    if get_origin(kind) is Literal:
        return rng.choice(get_args(kind))
    if kind is bool or isinstance(default, bool):
        return rng.random() < 0.5
    if kind is int:
        return rng.choice((0, 1, 1, 2, 2, 3, 5))
    if kind is float:
        return rng.choice((0.0, 0.1, 0.3, 0.5, 0.9, 1.0, 1.5, 3.0, rng.random(), 8 / 255))
    if get_origin(kind) is tuple or isinstance(default, tuple):
        inner = get_args(kind)[:1] or (float,)
        held = [_own_kind(rng, inner[0], None) for _ in range(rng.choice((0, 1, 2, 2, 2, 3)))]
        return tuple(sorted(held) if all(isinstance(each, float) for each in held) else held)
    return default


def _as_held(rng: random.Random, value: Any) -> Any:
    """Return a number or text as numpy, torch or a subclass holds it."""
    if isinstance(value, bool):
        return rng.choice((np.bool_, torch.tensor, np.array))(value)
    if isinstance(value, int):
        return rng.choice((np.int64, np.int8, np.uint16, torch.tensor, np.array))(value)
    if isinstance(value, float):
        kinds = np.float64, np.float32, np.float16, np.longdouble, torch.tensor, np.array
        return rng.choice(kinds)(value)
    return np.str_(value) if isinstance(value, str) else value


@cache
def strange() -> list[Any]:
    """Return whatever a notebook may hold in place of a setting."""
    return [
        None, True, False, 0, -1, -0.0, 2**63, 2**64, 2**70, 10**400, 10**5000, -(10**400),
        1.5, 8.0, 1e-300, 5e-324, 1e300, float("nan"), float("inf"), -float("inf"), 2j, "x", "",
        "0.5", "1", b"1", "x" * 10**5, (), (1,), (1, 2), (0.1, float("nan")), [], [0.5], {},
        {"a": 1}, {1},
        Fraction(1, 2), Decimal("0.5"), Two.TWO, object(), object, len, lambda *_: None, network(),
        np.float64("nan"), np.float32(0.3), np.int64(2), np.bool_(True), np.str_("linf"),
        np.array(0.4), np.array([0.4, 0.5]), np.array([]), np.longdouble(0.5), np.complex64(1),
        np.array("x"), np.datetime64("2020-01-01"), torch.tensor(0.6), torch.tensor(2),
        torch.tensor([0.5, 0.6]), torch.tensor(float("nan")), torch.tensor(2j), torch.tensor([]),
        torch.nn.Parameter(torch.tensor(0.5)), torch.tensor(0.5, dtype=torch.bfloat16),
        av.AVmixup(), av.AVmixup, av.pgd(steps=1), av.avmixup(), av.Settings(3), range(3),
        np.random.default_rng(0), ..., NotImplemented,
    ]  # fmt: skip


def value(rng: random.Random, kind: Any, default: Any) -> Any:
    if rng.random() < 0.4:
        return rng.choice(strange())
    drawn = _own_kind(rng, kind, default)
    return _as_held(rng, drawn) if rng.random() < 0.5 else drawn


# ----------------------------------------------------------------------------------- the subjects


def parameters(make: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Return (kind, default) of what a function or class takes, by name."""
    if is_dataclass(make):
        kinds = get_type_hints(make)
        return {
            f.name: (kinds.get(f.name), None if f.default is MISSING else f.default)
            for f in fields(make)
            if f.init and f.name not in SKIPPED
        }
    try:
        named = inspect.signature(make, eval_str=True).parameters.values()
    except NameError:  # of a type that is imported for checkers alone
        named = inspect.signature(make).parameters.values()
    ends = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
    return {
        p.name: (p.annotation, None if p.default is p.empty else p.default)
        for p in named
        if p.kind not in ends and p.name not in SKIPPED
    }


def _drawn(rng: random.Random, make: Callable[..., Any]) -> dict[str, Any]:
    takes = parameters(make)
    names = rng.sample(sorted(takes), min(len(takes), rng.choice((1, 1, 1, 2, 3))))
    return {name: value(rng, *takes[name]) for name in names}


def _cheap(make: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    takes = parameters(make)
    cheap = {name: number for name, number in CHEAP.items() if name in takes}
    if "steps" in takes and isinstance(takes["steps"][1], int):
        cheap["steps"] = 1
    return cheap | given


def _fixed(method: av.Method) -> Callable[[], av.Training]:
    """Return what makes a training of the method as its text gives it back."""
    found = parse(repr(method), networks=networks_of(method).values())
    assert found == method, f"{method!r} is another than {found!r}"
    return lambda: training(av.Dial(found))


def of_a_method(rng: random.Random) -> Draw:
    name = rng.choice(sorted(methods.METHODS))
    make = methods.METHODS[name]
    given = _drawn(rng, make)
    needed = _needed(make)
    return Draw("method", name, given, lambda: _fixed(make(**needed | _cheap(make, given))))


def _needed(make: Callable[..., Any]) -> dict[str, Any]:
    """Return networks for the arguments that have no default."""
    named = inspect.signature(make).parameters.values()
    return {
        p.name: network(7) for p in named if p.default is p.empty and p.kind is not p.VAR_KEYWORD
    }


def of_an_attack(rng: random.Random) -> Draw:
    name = rng.choice(sorted(ATTACKS))
    make, given = ATTACKS[name], {}
    given = _drawn(rng, make)
    return Draw("attack", name, given, lambda: _fixed(av.Method(make(**_cheap(make, given)))))


def stages() -> dict[str, type]:
    every = texts._vocabulary()  # pyright: ignore[reportPrivateUsage]
    found = {name: kind for name, kind in every.items() if isinstance(kind, type)}
    return {
        name: kind
        for name, kind in found.items()
        if kind is av.Method or any("__call__" in vars(each) for each in kind.__mro__[:-1])
    }


def of_a_stage(rng: random.Random) -> Draw:
    """A stage where it belongs: by what it has and by what its call returns."""
    name = rng.choice(sorted(stages()))
    kind = stages()[name]
    given = _drawn(rng, kind)

    def made() -> Callable[[], av.Training]:
        stage = kind(**_needed(kind) | _cheap(kind, given))
        if isinstance(stage, av.Method):
            return _fixed(stage)
        if hasattr(stage, "reference"):
            return _fixed(av.Method(av.Attack(stage, steps=1)))
        returned = str(inspect.signature(kind.__call__).return_annotation)
        scalar = str(inspect.signature(losses.CrossEntropy.__call__).return_annotation)
        slots = {"tuple": "mix", scalar: "loss", "None": "around"}
        slot = next((slots[word] for word in slots if word in returned), "perturb")
        return _fixed(replace(av.pgd_training(steps=1), **{slot: stage}))

    return Draw("stage", name, given, made)


def of_a_network(rng: random.Random) -> Draw:
    name = rng.choice(sorted(NETWORKS))
    make = NETWORKS[name]
    make = make.func if isinstance(make, functools.partial) else make  # of a size that is cheap
    given = _drawn(rng, make)

    def made() -> Callable[[], av.Training]:
        first = make(data=digits(), **_cheap(make, given))
        again = models.from_architecture(first.architecture, seed=0)
        assert again.architecture == first.architecture
        return lambda: training(av.standard(), model=models.from_architecture(first.architecture))

    return Draw("network", name, given, made)


def of_settings(rng: random.Random) -> Draw:
    given = _drawn(rng, av.Settings)

    def made() -> Callable[[], av.Training]:
        words: dict[str, Any] = {"steps": STEPS, "batch_size": 8} | given
        settings = av.Settings(**words)
        assert not re.search(r"np\.|tensor\(|array\(|\bnan|\binf", repr(settings)), settings
        return lambda: training(av.standard(), settings=settings)

    return Draw("settings", "Settings", given, made)


def of_a_training(rng: random.Random) -> Draw:
    given = _drawn(rng, av.Training)
    for name, options in {
        "optimizer": ("adam", np.str_("sgd"), ADAMW),
        "schedule": (
            "cyclic",
            np.str_("cosine"),
            "linear",
            partial(_halved, start=np.float64(0.1)),
        ),
        "device": ("cpu", "tpu", np.str_("cpu")),
    }.items():
        if name in given and rng.random() < 0.7:
            given[name] = rng.choice(options)
    if check.plain(given.get("compile")) is True:
        del given["compile"]  # it takes a minute
    optimizer = given.get("optimizer")
    if isinstance(optimizer, str) and optimizer in ("adam", "adamw"):
        given["lr"] = rng.choice((0.001, np.float64(0.001), torch.tensor(0.001)))

    def made() -> Callable[[], av.Training]:
        return lambda: training(av.standard(), **given)

    return Draw("training", "Training", given, made)


def _halved(step: int, start: float) -> float:
    return start / 2 ** (step // 2)


def of_a_turn(rng: random.Random) -> Draw:
    name = rng.choice(sorted(methods.METHODS))
    method = methods.METHODS[name](**_needed(methods.METHODS[name]))
    if "steps" in method.parameters:
        method = method.replace(steps=1)
    known = {**method.parameters, "perturb": None, "mix": None, "loss": None, "method": None}
    names = rng.sample(sorted(known), rng.choice((1, 1, 2)))
    change = {k: value(rng, type(known[k]), known[k]) for k in names}

    def made() -> Callable[[], av.Training]:
        dial = av.Dial(method)
        dial.turn(**change)
        turns = [
            av.Turn.from_json(json.loads(json.dumps(t.to_json())), dial.networks)
            for t in dial.turns
        ]
        assert turns == list(dial.turns)
        return lambda: training(av.Dial(method, turns, dial.networks))

    return Draw("turn", name, change, made)


def of_a_plan(rng: random.Random) -> Draw:
    given = _drawn(rng, Plan)
    if "ranges" in given or rng.random() < 0.2:
        names = sorted(methods.METHODS.entries["avmixup"].settings)
        limits = value(rng, tuple[float, float], (0.1, 0.5))
        given["ranges"] = rng.choice(({rng.choice(names): limits}, given.get("ranges")))
    if rng.random() < 0.1:
        given["method"] = rng.choice((*methods.METHODS, "x", 5))
    if rng.random() < 0.1:
        given["settings"] = rng.choice((av.Settings(2, batch_size=8), None, 5, "x"))
    cheap = {"settings": av.Settings(STEPS, batch_size=8), "base_channels": 2, "attack_steps": 1}

    def made() -> Callable[[], av.Training]:
        plan = Plan(**cheap | given)
        data = digits()
        plan.check(data)
        json.dumps(plan.identity(data))
        plan.published(data.name)
        method = plan.build({}, plan.epsilon_on(data))
        return lambda: plan.training(data.train, method, seed=0)

    return Draw("plan", "Plan", given, made)


def of_a_judge(rng: random.Random) -> Draw:
    kind = rng.choice((AutoAttack, RandomSearch))
    given = _drawn(rng, kind)

    def made() -> Callable[[], av.Training]:
        judge = kind(**given)
        plain = repr(judge)
        assert not re.search(r"np\.|tensor\(|array\(|nan|inf\b|<", plain), plain
        return lambda: training(av.standard())

    return Draw("judge", kind.__name__, given, made)


KINDS: dict[str, Callable[[random.Random], Draw]] = {
    "method": of_a_method,
    "attack": of_an_attack,
    "stage": of_a_stage,
    "network": of_a_network,
    "settings": of_settings,
    "training": of_a_training,
    "turn": of_a_turn,
    "plan": of_a_plan,
    "judge": of_a_judge,
}


def draws(count: int, seed: int = 0) -> Iterator[Draw]:
    """Yield draws, the kinds in turn; draw number n depends on the seed and n alone."""
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        yield list(KINDS.values())[number % len(KINDS)](rng)


# ------------------------------------------------------------------------------------- the verdict


def judge(draw: Draw) -> tuple[str, str]:
    """Return "refused", "diverged", "survived" or "failed", and the words that go with it."""
    try:
        begin = draw.made()
        first = begin()
    except (ValueError, TypeError, FileNotFoundError) as error:
        return _clear(draw, error)
    except Exception as error:
        return "failed", _where(error)
    try:
        for _ in range(2):
            next(first, None)
        after = _goes_on(begin, first)
    except FloatingPointError as error:
        return ("diverged", str(error)) if "\n" not in str(error) else ("failed", str(error))
    except Exception as error:
        return "failed", _where(error)
    return ("survived", "") if after else ("failed", "it goes on with other weights")


def _clear(draw: Draw, error: Exception) -> tuple[str, str]:
    words = str(error)
    names = {*draw.drawn} | {n for v in draw.drawn.values() if isinstance(v, dict) for n in v}
    names |= {"mean", "std"} if "normalisation" in names else set()
    names |= {"average"} if "label" in names else set()
    if isinstance(error, FileNotFoundError):  # it names the file instead
        names = {v for v in map(check.plain, draw.drawn.values()) if isinstance(v, str)} - {""}
    named = any(re.search(rf"\b{re.escape(str(name))}\b", words) for name in names)
    fine = "\n" not in words and len(words) < 1500 and named
    if isinstance(error, TypeError):
        fine = fine and "is not allowed" in words
    return ("refused", words) if fine else ("failed", _where(error))


def _where(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    said = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {said} ({last.filename.split('/')[-1]}:{last.lineno})"


def _goes_on(begin: Callable[[], av.Training], first: av.Training) -> bool:
    """Return whether the saved and loaded training goes on as the first one does, bit for bit."""
    json.dumps(runs.describe(first), allow_nan=False)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    again = begin()
    next(again, None)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    losses = [[record.loss for record in each] for each in (first, again)]
    mine, other = (each.state_dict()["model"] for each in (first, again))
    return losses[0] == losses[1] and all(torch.equal(mine[name], other[name]) for name in mine)


def tally(
    count: int, seed: int = 0, say: Callable[[str], object] = lambda _: None
) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Return how often what became of draws of each kind, and the draws that failed.

    ``say`` is told of each failure at once.
    """
    counts: Counter[tuple[str, str]] = Counter()
    failed = []
    for number, draw in enumerate(draws(count, seed)):
        verdict, words = judge(draw)
        counts[draw.kind, verdict] += 1
        if verdict == "failed":
            failed.append(f"{number}: {draw}: {words}")
            say(failed[-1])
    return counts, failed


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--draws", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    torch.set_num_threads(1)
    counts, failed = tally(given.draws, given.seed, partial(print, flush=True))
    for kind in KINDS:
        said = ", ".join(f"{counts[kind, v]} {v}" for v in ("refused", "survived", "diverged"))
        print(f"{kind}: {said}, {counts[kind, 'failed']} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
