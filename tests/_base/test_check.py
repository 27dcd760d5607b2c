"""One check for numbers: type, then range, the argument named; and texts that are parsed only."""

import enum
import sys
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import avmixup_kit as av
from avmixup_kit._base import check, plugins

NO_NUMBERS: tuple[Any, ...] = (
    True, "0.5", b"0.5", 0.5j, None, (0.5,), [0.5], {}, float("nan"), float("inf"), 10**400,
    10**5000, Fraction(1, 2), Decimal("0.5"), np.array([0.5]), torch.tensor([0.5]), object,
    np.float64("nan"), torch.tensor(float("inf")), np.complex64(1), np.longdouble(0.5),
)  # fmt: skip


class Few(enum.IntEnum):
    ONE = 1


class Names(str, enum.Enum):  # noqa: UP042 (str() of it is no "linf")
    LINF = "linf"


@pytest.mark.parametrize(
    "given",
    [
        0.5, np.float64(0.5), np.float32(0.5), np.float16(0.5), np.array(0.5), torch.tensor(0.5),
        torch.tensor(0.5, dtype=torch.bfloat16), torch.nn.Parameter(torch.tensor(0.5)),
    ],
)  # fmt: skip
def test_numbers_of_numpy_and_torch_become_pythons(given):
    assert type(check.number("x", given, "(0, 1)", "")) is float
    assert check.number("x", given, "(0, 1)", "") == 0.5
    assert repr(check.plain((given, "a"))) == "(0.5, 'a')"


def test_whole_numbers_flags_and_texts_become_pythons():
    for given in (3, np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)):
        assert type(check.whole("n", given)) is int
    for given in (True, np.bool_(True), torch.tensor(True)):
        assert check.flag("f", given) is True
    assert repr(check.plain((Few.ONE, Names.LINF, np.str_("l2")))) == "(1, 'linf', 'l2')"
    array = np.zeros(2)
    assert check.plain(array) is array


@pytest.mark.parametrize("given", NO_NUMBERS, ids=lambda given: type(given).__name__)
def test_whatever_is_no_number_is_refused_by_name_in_one_short_line(given):
    for refuse in (
        lambda: check.number("x", given, "[0, 1]", "from 0 to 1"),
        lambda: check.whole("x", given),
        lambda: av.avmixup(given),
        lambda: av.pgd(epsilon=given),
        lambda: av.trades(beta=given),
        lambda: av.Settings(5, lr=given),
        lambda: av.Settings(given),
        lambda: av.methods.losses.TransportDistance(regularisation=given),
    ):
        with pytest.raises(ValueError, match=r"^\w+ = .* is not allowed: ") as caught:
            refuse()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600


def test_the_type_is_told_before_the_range():
    with pytest.raises(ValueError, match="x = '2' is not allowed: a number; 1 or more"):
        check.number("x", "2", "[1, inf)", "1 or more")
    with pytest.raises(ValueError, match="x = 0 is not allowed: 1 or more"):
        check.number("x", 0, "[1, inf)", "1 or more")
    with pytest.raises(ValueError, match="seed = 18446744073709551616 is not allowed: .* at most"):
        av.Settings(5, seed=2**64)
    with pytest.raises(ValueError, match="nesterov = 'no' is not allowed: True or False"):
        av.Settings(5, nesterov="no")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1]", (0, 1, 0.5), (-1e-9, 1.001)),
        ("(0, 1]", (1, 5e-324), (0, -0.0, 2)),
        ("[0, 1)", (0, 1 - 2**-53), (1, np.float32(1))),
        ("(0, inf)", (3.4e38, 2**63 - 1), (float("inf"), 10**309, 2**64, 3.5e38, 0)),
    ],
)
def test_an_interval_holds_its_ends_or_not(interval, inside, outside):
    for value in inside:
        assert check.number("x", value, interval, "") == value
    for value in outside:
        with pytest.raises(ValueError, match="x = "):
            check.number("x", value, interval, "")
    assert check.number("x", None, interval, "", none=True) is None
    assert check.whole("x", None, none=True) is None


def test_a_choice_is_made_by_a_text_of_its_own_type():
    check.one_of("norm", np.str_("l2"), ("linf", "l2"))
    for given in (np.array(["l2"]), torch.tensor([1.0]), ["l2"], None, 1, {}):
        with pytest.raises(ValueError, match="is not allowed: one of linf, l2"):
            check.one_of("norm", given, ("linf", "l2"))


@dataclass(frozen=True)
class Record:
    a: Any
    b: Any = 0


def test_a_record_is_settled_and_its_repr_gives_it_back():
    record = Record(torch.tensor(2), np.float32(0.5))
    check.settle(record)
    assert repr(record) == "Record(a=2, b=0.5)"


@pytest.mark.parametrize(
    "code",
    ["-" * 200_000, "-" * 90_000, "(" * 90_000, "[" * 5000, "1+" * 30_000 + "1", "x" * 10**6,
     "f(" * 3000, "1" * 50_000, "\x00", "a b", 5, None, b"1"],
    ids=lambda code: f"{type(code).__name__} {str(code)[:3]!r}",
)  # fmt: skip
def test_text_that_no_repr_gives_is_refused_in_one_short_line(code):
    for read in (check.expression, av.methods.parse, av.models.from_architecture):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            read(code)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1000
    with pytest.raises(ValueError, match="runs/a: method was"):
        check.same({"method": code}, {"method": "Method()"}, "runs/a")


class Outer:
    class Inner:
        pass


from os import getcwd as theirs  # noqa: E402


def ours() -> None:
    pass


def test_what_a_file_names_is_found_under_its_own_name_and_what_one_holds_under_any(monkeypatch):
    assert plugins.found(f"{__name__}:ours") is ours
    assert plugins.found(f"{__name__}:Outer.Inner") is Outer.Inner
    for home, value in (
        (f"{__name__}:theirs", theirs),
        ("os:getcwd", theirs),
        ("pathlib:Path", sys.modules["pathlib"].Path),
        ("torch.random:seed", torch.random.seed),
    ):
        assert plugins.found(home) is None
        assert plugins.found(home, value) is value
        assert plugins.found(home, ours) is None
    assert plugins.found("torch.optim.sgd:SGD") is torch.optim.SGD
    for owner in (ours, Outer):
        monkeypatch.setattr(owner, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "ours", ours, raising=False)
    assert plugins.found("__main__:ours") is ours
