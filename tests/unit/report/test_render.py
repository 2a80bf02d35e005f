from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgellm.report.blocks import Block, Heading, Notes, Table
from edgellm.report.render import ROWS_OF_A_PAGE, WIDTH, latex, markdown, text

TABLE = Table(("", "p50", "95%"), (("edgellm 1t", "3.50", "[3.4, 3.6]"), ("llama.cpp", "12.0", "")))
SPECIAL = r"50% of $x_1 & {#2} ~ a^b \ <c> | d -- [e]"


def test_text() -> None:
    blocks: list[Block] = [Heading(1, "Title"), Heading(3, "Small"), Notes(("alone",)), Notes(("word " * 40, "second")), TABLE]
    assert text(blocks) == (
        "Title\n=====\n\n"
        "Small\n\n"
        "alone\n\n"
        f"- {'word ' * 22}word\n  {'word ' * 16}word\n- second\n\n"
        "             p50         95%\n"
        "----------  ----  ----------\n"
        "edgellm 1t  3.50  [3.4, 3.6]\n"
        "llama.cpp   12.0\n"
    )


def test_markdown() -> None:
    assert markdown([Heading(2, "a*b"), Notes(("x", "[y](z) <b>")), TABLE]) == (
        "## a\\*b\n\n"
        "- x\n- [y]\\(z) \\<b>\n\n"
        "|            |  p50 |        95% |\n"
        "|-----------:|-----:|-----------:|\n"
        "| edgellm 1t | 3.50 | [3.4, 3.6] |\n"
        "|  llama.cpp | 12.0 |            |\n"
    )
    assert r"a\|b" in markdown([Table(("h",), (("a|b",),))])


def test_latex_tables_are_booktabs() -> None:
    (tabular,) = re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", latex([TABLE]), re.DOTALL)
    assert tabular.split("\n") == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r" & p50 & 95\% \\",
        r"\midrule",
        r"edgellm 1t & 3.50 & {[}3.4, 3.6{]} \\",
        r"llama.cpp & 12.0 &  \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_latex_document_is_whole_and_escaped() -> None:
    written = latex([Heading(1, SPECIAL), Notes((SPECIAL, SPECIAL)), Table((SPECIAL,), ((SPECIAL,), ("naïve \u2028",)))])
    assert written.startswith(r"\documentclass")
    assert written.rstrip().endswith(r"\end{document}")
    begun, ended = (re.findall(rf"\\{word}\{{(\w+)\}}", written) for word in ("begin", "end"))
    assert sorted(begun) == sorted(ended)
    body = written.split(r"\begin{document}")[1]
    assert re.sub(r"\\[&%$#_{}]", "", body).count("{") == re.sub(r"\\[&%$#_{}]", "", body).count("}")
    assert not re.search(r"(?<!\\)[%$#^~]|--", body)
    assert "na?ve ?" in body
    assert body.isascii()


def test_a_long_latex_table_goes_on_under_its_head() -> None:
    rows = tuple((str(number), "1") for number in range(2 * ROWS_OF_A_PAGE + 1))
    assert latex([Table(("name", "value"), rows)]).count(r"name & value \\") == 3


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path: Path) -> None:
    (tmp_path / "report.tex").write_text(latex([Heading(1, SPECIAL), Notes((SPECIAL, SPECIAL)), TABLE]))
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_prose_fits_the_terminal() -> None:
    assert max(map(len, text([Notes(("word " * 100,))]).split("\n"))) <= WIDTH
