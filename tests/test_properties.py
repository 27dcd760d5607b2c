"""Settings drawn at random from whatever is registered: refused in a clear line, or they work."""

import random
from collections import Counter

import pytest

import avmixup_kit as av
from avmixup_kit.methods import METHODS
from avmixup_kit.methods.attacks import ATTACKS
from avmixup_kit.models.zoo import NETWORKS
from tests import properties
from tests.properties import KINDS, Draw, judge, tally

KNOWN = {
    "method": METHODS,
    "attack": ATTACKS,
    "network": NETWORKS,
    "stage": properties.stages(),
}


def test_each_draw_is_refused_in_one_clear_line_or_goes_on_bit_for_bit():
    counts, failed = tally(270, seed=3)
    assert failed == []
    verdicts = Counter(verdict for _, verdict in counts.elements())
    assert verdicts["refused"] > 50
    assert verdicts["survived"] > 50
    assert {kind for kind, verdict in counts if verdict == "survived"} == KINDS.keys()


@pytest.mark.parametrize("kind", KNOWN)
def test_everything_that_is_registered_is_drawn_whoever_registered_it(kind, monkeypatch):
    for registry in (METHODS, ATTACKS, NETWORKS):
        monkeypatch.setitem(registry.entries, "newest", next(reversed(registry.entries.values())))
    seen = {KINDS[kind](random.Random(n)).name for n in range(15 * len(KNOWN[kind]))}
    assert seen == set(KNOWN[kind])


def broken(make) -> str:
    return judge(Draw("method", "x", {"gamma": 2}, make))[0]


def test_the_judge_sees_what_is_unclear_and_what_is_lost():
    def raising(error):
        def made():
            raise error

        return made

    assert broken(raising(ValueError("gamma = 2 is not allowed: more"))) == "refused"
    assert broken(raising(TypeError("gamma = 2 is not allowed: more"))) == "refused"
    for error in (
        ValueError("2 is not allowed"),
        ValueError("gamma\nis wrong"),
        ValueError("gamma " * 1000),
        TypeError("'<=' not supported between gamma and int"),
        AttributeError("gamma is not allowed: 2"),
        OverflowError("gamma is not allowed: 2"),
    ):
        assert broken(raising(error)) == "failed"

    def forgetful():
        seeds = iter((4, 5))
        return lambda: properties.training(av.standard(), seed=next(seeds), steps=4)

    assert broken(lambda: lambda: properties.training(av.standard())) == "survived"
    assert broken(forgetful) == "failed"
