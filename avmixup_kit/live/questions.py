"""What a notebook asks of its reader: a guess before a figure, and an exercise that it checks."""

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from avmixup_kit._base import check as checks
from avmixup_kit._base import html
from avmixup_kit._base.plots import COLOURS
from avmixup_kit.live.controls import row, stored
from avmixup_kit.live.drawing import ALARM
from avmixup_kit.live.figures import Names

_WELL = COLOURS[2]


class Question(widgets.VBox):
    """A question in a notebook, with what is said to its answer."""

    def __init__(self, name: str, *parts: widgets.Widget):
        self.name, self.said = name, widgets.HTML()
        super().__init__([*parts, self.said, Names()])  # every notebook asks, not every one plays

    def say(self, well: bool, verdict: str, text: str = "") -> None:
        """Show a verdict, coloured by whether it is a good one, and a text after it."""
        colour = _WELL if well else ALARM
        words = '<p role="status"><b style="border-bottom:3px solid {}">{}</b> {}</p>'
        self.said.value = html.markup(words, colour, verdict, text)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return stored(super()._repr_mimebundle_(**kwargs), self.name, "the question")


def predict(question: str, options: Sequence[str], answer: str, why: str) -> Question:
    """Return a question whose answer the reader picks before seeing it.

    Args:
        question: one sentence.
        options: two or more answers, each a button.
        answer: the right one of them.
        why: what is said once one was picked, whichever it was.

    Raises:
        ValueError: fewer than two options, or an answer that is none of them.
    """
    checks.that(len(set(options)) > 1, "options", list(options), "two or more different answers")
    checks.one_of("answer", answer, tuple(options))
    buttons = [widgets.Button(description=one, layout={"width": "auto"}) for one in options]
    asked = Question("predict", widgets.HTML(html.markup("<b>{}</b>", question)), row(*buttons))

    def pick(button: widgets.Button) -> None:
        well = button.description == answer
        asked.say(well, "Right." if well else f"Not so: {answer}.", why)
        for one in buttons:
            one.button_style = "success" if one.description == answer else ""

    for button in buttons:
        button.on_click(pick)
    return asked


def check(
    answer: Any, right: Callable[[Any], bool], hints: Sequence[str] = (), well: str = ""
) -> Question:
    """Return the verdict on an exercise, with a button for a hint where it is not solved.

    Args:
        answer: what the reader found; ``...`` while nothing was entered.
        right: whether an answer is right; one that it cannot take is not.
        hints: shown one by one, as often as the button is pressed.
        well: what is said to a right answer.
    """
    try:
        solved = answer is not ... and bool(right(answer))
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        solved, hints = False, [f"The answer could not be used: {error}", *hints]
    button = widgets.Button(description="Hint")
    left = list(hints)
    asked = Question("check", *([] if solved or not left else [button]))
    if solved:
        asked.say(True, "Right.", well)
    elif answer is ...:
        asked.say(False, "Yours to do.", "Put your answer in place of ... and run the cell again.")
    else:
        asked.say(False, "Not yet.", "Change the answer and run the cell again.")

    def hint(_: widgets.Button) -> None:
        asked.say(False, "Hint:", left.pop(0))
        button.disabled = not left

    button.on_click(hint)
    return asked
