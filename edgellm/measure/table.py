"""Tables for terminals that Markdown reads too."""

from __future__ import annotations

from collections.abc import Sequence


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Right-aligned columns under their heads."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    shown = ["| " + " | ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([shown[0], "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|", *shown[1:]])


def shown(value: float, form: str) -> str:
    """The number in this format; nothing for 0, which stands for what is not there."""
    return format(value, form) if value else ""
