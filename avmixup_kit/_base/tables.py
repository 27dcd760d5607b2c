"""Tables as aligned text and as Markdown."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return cells as wide as their columns, text of the first to the left, else to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned text, the first column to the left, the others to the right."""
    head, *body = aligned(rows)
    rule = ["-" * len(cell) for cell in head]
    return "\n".join("  ".join(line).rstrip() for line in (head, rule, *body))


def markdown_table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return rows, the first being the heading, as Markdown: ``left`` columns to the left."""
    rule = ["---"] * left + ["--:"] * (len(rows[0]) - left)
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, f"|{'|'.join(rule)}|", *body])
