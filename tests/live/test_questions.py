"""What a notebook asks: a guess before a figure, an exercise that it checks."""

from html import unescape
from typing import Any

import pytest

pytest.importorskip("ipywidgets")

import ipywidgets as widgets

from avmixup_kit import live
from avmixup_kit.live.controls import inside


def buttons(question: live.Question) -> dict[str, widgets.Button]:
    found = [one for one in inside(question) if isinstance(one, widgets.Button)]
    return {one.description: one for one in found}


def asked() -> live.Question:
    return live.predict("Which falls?", ["train", "test"], "train", "For it <sees> the sample.")


def test_answer_is_shown_only_after_a_guess() -> None:
    question = asked()
    assert question.said.value == ""
    assert [one.button_style for one in buttons(question).values()] == ["", ""]


@pytest.mark.parametrize(("guess", "verdict"), [("train", "Right."), ("test", "Not so: train.")])
def test_each_guess_is_answered_with_the_reason(guess: str, verdict: str) -> None:
    question = asked()
    buttons(question)[guess].click()
    assert verdict in question.said.value
    assert "For it &lt;sees&gt; the sample." in question.said.value
    assert buttons(question)["train"].button_style == "success"


@pytest.mark.parametrize(
    ("options", "answer", "words"),
    [
        (["a"], "a", "options = .'a'. is not allowed: two or more different answers"),
        (["a", "b"], "c", "answer = 'c' is not allowed"),
    ],
)
def test_question_that_cannot_be_asked_is_refused(
    options: list[str], answer: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        live.predict("?", options, answer, "")


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (0.3, "Right."),
        (0.1, "Not yet."),
        (..., "Yours to do."),
        ("a", "Not yet."),
    ],
)
def test_exercise_is_checked(answer: Any, verdict: str) -> None:
    question = live.check(answer, lambda epsilon: epsilon > 0.28, ["Look at η."], "ε ≥ η.")
    assert verdict in question.said.value
    assert ("ε ≥ η." in question.said.value) == (verdict == "Right.")
    assert ("Hint" in buttons(question)) == (verdict != "Right.")


def test_hints_come_one_by_one_an_unusable_answer_first_among_them() -> None:
    question = live.check("a", lambda epsilon: epsilon > 0.28, ["one", "two"])
    button = buttons(question)["Hint"]
    for words in ("The answer could not be used: '>' not supported", "one", "two"):
        assert not button.disabled
        button.click()
        assert words in unescape(question.said.value)
    assert button.disabled


def test_question_is_stored_as_the_same_text_every_run() -> None:
    first, second = (
        asked()._repr_mimebundle_()  # pyright: ignore[reportPrivateUsage]
        for _ in range(2)
    )
    assert first["text/plain"] == second["text/plain"]
