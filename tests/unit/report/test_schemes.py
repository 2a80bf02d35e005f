from __future__ import annotations

import pytest

from edgellm.report.overview import as_json, make_report
from tests.unit.report.conftest import Document, Write, accuracy, results_document, scheme_record
from tests.unit.report.test_overview import shown


def document(*records: Document) -> Document:
    return results_document("quality_schemes", {"scheme": "baseline", "perplexity": []}, *records)


def test_schemes_stand_side_by_side_most_bits_first(write: Write) -> None:
    written = shown(write, document(scheme_record("ternary", bits=1.75, ratio=3.0, file_bytes=50_000_000), scheme_record()))
    assert "int4-g64 edgellm wikitext2_test 4.50 90 20.80 1.040 [1.035, 1.045] 20.80 1.040 [1.035, 1.045]" in written
    assert "int4-g64 edgellm tinyshakespeare 0.250 [0.200, 0.300] 0.250 0.250 0.250 102 n/a" in written
    assert written.index("int4-g64 edgellm wikitext2_test") < written.index("ternary edgellm wikitext2_test")
    assert "Baseline: dequantised" in written


def test_accuracies_beside_size_perplexity_and_speed(write: Write) -> None:
    four = scheme_record(accuracy=accuracy(hellaswag=0.46875, all=0.48))
    ternary = scheme_record("ternary", bits=1.75, ratio=3.0, file_bytes=50_000_000, accuracy=accuracy(hellaswag=0.25, all=0.3))
    peer = scheme_record("TQ2_0", bits=2.0, accuracy={"tasks": None, "why_not": "asked of edgellm alone"})
    written = shown(write, document(four, ternary, peer))
    for line in (
        "scheme engine bits MB wikitext2_test tinyshakespeare hellaswag all tg64 J/token",
        "baseline n/a n/a n/a 20 20 0.500 0.500 n/a n/a",
        "int4-g64 edgellm 4.50 90 20.80 20.80 0.469 0.480 102 n/a",
        "TQ2_0 edgellm 2 90 20.80 20.80 n/a n/a 102 n/a",
        "ternary edgellm 1.75 50 60 60 0.250 0.300 102 n/a",
        "int4-g64 edgellm -0.0312 [-0.0625, 0] -0.0200 [-0.0513, 0.0112]",
    ):
        assert line in written
    assert "hellaswag 200, all 200" in " ".join(written.split())


def test_files_without_accuracies_have_no_such_table(write: Write) -> None:
    assert "BitNet" not in shown(write, document(scheme_record()))


@pytest.mark.parametrize(
    ("ratio", "file_bytes", "said"),
    [
        (1.04, 50_000_000, ("interval: x.", "than FP16: x.", "Both: x.")),
        (1.046, 50_000_000, ("interval: none.", "than FP16: x.", "Both: none.", "x is the best: up to 1.051 times")),
        (1.04, 60_000_000, ("interval: x.", "than FP16: none.", "Both: none.")),
    ],
)
def test_goals_are_judged_by_the_interval_s_upper_end(write: Write, ratio: float, file_bytes: int, said: tuple[str, ...]) -> None:
    written = " ".join(shown(write, document(scheme_record("x", ratio=ratio, file_bytes=file_bytes))).split())
    for words in said:
        assert words in written


def test_one_bad_text_is_enough_to_miss_the_goal(write: Write) -> None:
    record = scheme_record("x", ratio=1.01)
    record["perplexity"][3] |= {"ratio": 1.2, "ratio_interval": [None, None]}
    assert "interval: none." in " ".join(shown(write, document(record)).split())


def test_matrices_of_another_type_are_named(write: Write) -> None:
    assert "TQ2_0: 180 of 210 matrices are Q4_0" in shown(
        write, document(scheme_record("TQ2_0", substituted="180 of 210 matrices are Q4_0"))
    )


def test_rows_as_json(write: Write) -> None:
    report = make_report([write("schemes.json", document(scheme_record()))])
    (row,) = as_json(report)["rows"]
    assert row["name"] == "int4-g64"
    assert row["ratios"][1]["bos"] is True
    assert [source.remarks for source in report.sources] == [("1 of 2 records are summarised",)]


@pytest.mark.parametrize(
    "wrong",
    [{"perplexity": [{"ratio": "good"}]}, {"divergence": [{}]}, {"file_bytes": -1}, {"accuracy": {"tasks": [{"task": "piqa"}]}}],
    ids=str,
)
def test_what_is_no_record_is_named(write: Write, wrong: Document) -> None:
    report = make_report([write("schemes.json", document(scheme_record(**wrong)))])
    assert len(report.problems) == 1
    assert "schemes.json: records[1]" in report.problems[0]
