"""Blocks as text for a terminal, as Markdown, and as LaTeX that compiles by itself and whose tables a paper can take."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence

from edgellm.measure.table import markdown as markdown_table
from edgellm.report.blocks import Block, Heading, Notes, Table

WIDTH = 120
UNDERLINES = {1: "=", 2: "-"}
SECTIONS = {1: "section*", 2: "subsection*", 3: "subsubsection*"}

LATEX_HEAD = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage[a4paper, landscape, margin=15mm]{geometry}
\usepackage{booktabs}
\setlength{\parindent}{0pt}
\begin{document}
\footnotesize
"""
LATEX_FOOT = r"\end{document}"

ROWS_OF_A_PAGE = 40
"""A tabular does not break across pages."""

LATEX_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        "[": "{[}",  # after \\ it would begin an optional argument
        "]": "{]}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)
"""What means something else in LaTeX; what is no ASCII either is not in every font, and becomes "?"."""


def text(blocks: Sequence[Block]) -> str:
    """For a terminal of WIDTH columns."""
    return _joined(blocks, _text_block)


def markdown(blocks: Sequence[Block]) -> str:
    """For whatever reads Markdown with tables."""
    return _joined(blocks, _markdown_block)


def latex(blocks: Sequence[Block]) -> str:
    """A document, its tables with booktabs' rules."""
    return f"{LATEX_HEAD}\n{_joined(blocks, _latex_block)}\n{LATEX_FOOT}\n"


def _joined(blocks: Sequence[Block], written: Callable[[Block], str]) -> str:
    return "\n\n".join(written(block) for block in blocks) + "\n"


def _text_block(block: Block) -> str:
    match block:
        case Heading(level, title):
            return f"{title}\n{UNDERLINES[level] * len(title)}" if level in UNDERLINES else title
        case Notes(lines):
            mark = "- " if len(lines) > 1 else ""
            return "\n".join(textwrap.fill(mark + line, WIDTH, subsequent_indent=" " * len(mark)) for line in lines)
        case Table(head, rows, names):
            widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
            ruled = [head, tuple("-" * width for width in widths), *rows]
            return "\n".join(_text_row(row, widths, names) for row in ruled)


def _text_row(cells: Sequence[str], widths: Sequence[int], names: int) -> str:
    aligned = [
        cell.ljust(width) if index < names else cell.rjust(width) for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(aligned).rstrip()


def _markdown_block(block: Block) -> str:
    match block:
        case Heading(level, title):
            return f"{'#' * level} {_markdown_escaped(title)}"
        case Notes(lines):
            mark = "- " if len(lines) > 1 else ""
            return "\n".join(mark + _markdown_escaped(line) for line in lines)
        case Table(head, rows):
            return markdown_table([_markdown_escaped(cell) for cell in head], [[_markdown_escaped(cell) for cell in row] for row in rows])


def _markdown_escaped(cell: str) -> str:
    """Without what would be a tag, a mark or a link; `_` within words and `[` alone mean nothing."""
    return "".join(f"\\{character}" if character in "\\|<*`~" else character for character in cell).replace("](", "]\\(")


def _latex_block(block: Block) -> str:
    match block:
        case Heading(level, title):
            return rf"\{SECTIONS[level]}{{{_latex_escaped(title)}}}"
        case Notes(lines):
            if len(lines) == 1:
                return _latex_escaped(lines[0])
            items = "\n".join(rf"\item {_latex_escaped(line)}" for line in lines)
            return f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}"
        case Table(head, rows, names):
            pages = [rows[start : start + ROWS_OF_A_PAGE] for start in range(0, len(rows), ROWS_OF_A_PAGE)]
            return "\n\n".join(_tabular(head, page, names) for page in pages)


def _tabular(head: Sequence[str], rows: Sequence[Sequence[str]], names: int) -> str:
    columns = "l" * names + "r" * (len(head) - names)
    body = "\n".join(_latex_row(row) for row in rows)
    return f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{_latex_row(head)}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_latex_escaped, cells)) + r" \\"


def _latex_escaped(cell: str) -> str:
    return cell.encode("ascii", "replace").decode().translate(LATEX_ESCAPES).replace("--", "-{}-")  # which would become a dash


FORMATS: Mapping[str, Callable[[Sequence[Block]], str]] = {"text": text, "markdown": markdown, "latex": latex}
"""By the names that the command line gives them."""
