from __future__ import annotations

import json
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgellm.measure import results
from edgellm.measure.results import ResultsError
from edgellm.report.overview import as_json, blocks, make_report
from edgellm.report.reading import read, read_all
from edgellm.report.render import FORMATS
from tests.unit.report.conftest import (
    FINGERPRINT,
    Write,
    backend,
    bench_record,
    journal,
    latency_document,
    latency_test,
    quality_record,
    results_document,
    round_of,
)


def test_latency(write: Write) -> None:
    source = read(write("latency.json", latency_document(latency_test(), latency_test(prompt="short", rounds=7))))
    assert (source.kind, source.summarised, source.created) == ("latency", True, "2026-11-23T18:00:00+00:00")
    medium, short = source.measurements
    assert (medium.test, medium.situation) == ("test_latency[medium]", "medium prompt of 128 tokens, 100 rounds")
    assert (short.prompt, short.prompt_tokens, short.rounds) == ("short", 8, 7)
    assert medium.subject.title == "edgellm, 1 thread"
    assert medium.figures["ttft_p95_ms"] == 90.25
    assert medium.intervals["ttft_p99_ms"] == (91, None)
    assert medium.rounds_needed == {"ttft_p99_ms": 299}
    assert medium.noise == {"spin_p99_over_p50": 1.75}
    assert source.origin.machine == "Cortex-A76, 4 CPUs, 8.0 GiB, aarch64"
    assert source.origin.system == "Linux 6.6.1, governor performance, container docker"
    assert source.remarks == ("of the processors' time, other processes had 3% meanwhile, other guests of the machine 0%",)


def test_a_test_may_name_no_engine_and_no_prompt(write: Write) -> None:
    test = {"schema": "edgellm-latency", "version": 2, "test": "test_cold_start", "samples_ns": [4, 5]}
    (measurement,) = read(write("latency.json", latency_document(test))).measurements
    assert measurement.subject.title == "no engine named"
    assert (measurement.prompt, measurement.rounds, measurement.provenance) == ("", 2, "unknown")


def test_benchmarks_of_others_are_left_out_and_counted(write: Write) -> None:
    foreign = write("foreign.json", latency_document({"isa": "neon"}, {}))
    mixed = write("mixed.json", latency_document({"isa": "neon"}, latency_test(), bystanders=None))
    assert (read(foreign).kind, read(foreign).summarised) == ("pytest-benchmark", False)
    assert read(mixed).remarks == ("1 of 2 benchmarks are of schema edgellm-latency",)


def test_records(write: Write) -> None:
    bench = read(write("bench.json", results_document("bench", bench_record(), {"test": "bystanders"})))
    quality = read(write("quality.json", results_document("quality", quality_record(), quality_record(reference=None))))
    (throughput,) = bench.throughputs
    assert (throughput.test, throughput.rounds, throughput.mean, throughput.std) == ("tg64", 3, 100, 1)
    assert bench.remarks == ("1 of 2 records are summarised",)
    beside, alone = quality.qualities
    assert beside.ratio == pytest.approx(22.9 / 22.7)
    assert beside.interval == pytest.approx((1.01005, 1.01005), rel=1e-4)  # every window is off by the same
    assert (alone.reference, alone.ratio, alone.interval) == ("", None, None)


def test_a_bench_without_scipy_has_no_intervals_and_says_so(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgellm.report.records.SCIPY", False)
    source = read(write("bench.json", results_document("bench", bench_record())))
    assert source.throughputs[0].interval is None
    assert source.remarks == ("no intervals, because scipy is not installed: pip install 'edgellm[measure]'",)


def test_an_unknown_kind_is_no_error(write: Write) -> None:
    source = read(write("new.json", results_document("seismograph", {"wiggle": [1, 2]})))
    assert (source.kind, source.summarised) == ("seismograph", False)


def test_journal(write: Write) -> None:
    source = read(write("latency.rounds.jsonl", journal(70, 80, 90)))
    (measurement,) = source.measurements
    assert (source.kind, measurement.rounds, bool(measurement.interrupted)) == ("journal", 3, True)
    figures = measurement.figures
    assert figures["ttft_p50_ms"] == 80
    assert figures["run_jitter_std_ms"] == pytest.approx(13)
    assert figures["itl_p50_ms"] == pytest.approx(11.5)  # of 7, 8, 9, 14, 16, 18
    assert measurement.rounds_needed["ttft_p99_ms"] == 299


def test_a_journal_cut_off_in_a_line_keeps_the_rounds_before(write: Write) -> None:
    source = read(write("latency.rounds.jsonl", journal(70, 80, 90)[:-20]))
    assert source.measurements[0].rounds == 2
    assert source.remarks == ("its last line is cut off, and left out",)


def test_a_journal_of_no_round_yet(write: Write) -> None:
    assert not read(write("latency.rounds.jsonl", journal())).summarised


def test_a_file_given_twice_is_read_once(write: Write) -> None:
    path = write("bench.json", results_document("bench", bench_record()))
    sources, problems = read_all([path, path.parent / "." / path.name])
    assert (len(sources), problems) == (1, [])


def test_a_test_that_ended_early_gets_the_figures_of_its_rounds(write: Write) -> None:
    test = latency_test(interrupted="KeyboardInterrupt: ")
    early = {key: value for key, value in test.items() if key not in ("figures", "intervals", "rounds_needed")} | {
        "rounds": [round_of(70), round_of(90)]
    }
    (measurement,) = read(write("latency.json", latency_document(early))).measurements
    assert (measurement.figures["ttft_p50_ms"], measurement.rounds, measurement.interrupted) == (80, 2, "KeyboardInterrupt: ")


HOSTILE = {
    "nothing": (b"", "Expecting value"),
    "half": (json.dumps(latency_document(latency_test()))[:500].encode(), "line 1"),
    "no UTF-8": (b"\xff\xfe{}", "can't decode"),
    "NaN": (b'{"benchmarks": [NaN]}', "NaN, which is no JSON number"),
    "infinity": (b'{"benchmarks": [-Infinity]}', "-Infinity, which is no"),
    "nested": (b'{"benchmarks": ' + b"[" * 100_000, "nested too deeply"),
    "digits": (b'{"benchmarks": ' + b"9" * 5_000 + b"}", "integer string conversion"),
    "list": (b"[]", "neither edgellm-results, nor pytest-benchmark's JSON, nor edgellm-journal"),
    "foreign": (b'{"a": 1}', "neither edgellm-results"),
    "old latency": (latency_document({"schema": "edgellm-latency", "version": 1}), r"edgellm-latency version 1; .* nox -s perf"),
    "no version": (latency_document({"schema": "edgellm-latency"}), r"benchmarks\[0\]\.extra_info has no 'version'"),
    "new results": (results_document("bench") | {"version": 2}, "of version 2; this program reads version 1"),
    "new journal": (journal(version=7), "version 7"),
    "broken journal": (journal(1, 2).replace('{"test"', "{test", 1), "line 2: Expecting property name"),
    "journal without a round": (journal() + '{"test": "x"}\n', "line 2 has no 'round'"),
    "journal with a round of text": (journal() + '{"test": "x", "round": "long"}\n', r"line 2\.round is 'long'; it must be an object"),
    "negative time": (journal(-5.0), "not negative"),
    "text for a figure": (
        latency_document(latency_test(figures={"ttft_p50_ms": "80"})),
        r"figures\.ttft_p50_ms is '80'; it must be a finite number",
    ),
    "huge figure": (b'{"benchmarks": [{"extra_info": {"schema": "edgellm-latency", "version": 2, "figures": {"a": 1e999}}}]}', "finite"),
    "large integer": (latency_document(latency_test(figures={"ttft_p50_ms": 10**400})), "finite number"),
    "kept by a word": (
        latency_document(latency_test(budgets=[{"name": "a", "limit": 1, "kept": "yes"}])),
        r"kept is 'yes'; it must be true or false",
    ),
    "yes for a figure": (latency_document(latency_test(figures={"ttft_p50_ms": True})), "is True; it must be a finite number"),
    "one bound": (
        latency_document(latency_test(intervals={"ttft_p50_ms": [1]})),
        r"intervals\.ttft_p50_ms is \[1\]; it must be \[low, high\]",
    ),
    "rounds of numbers": (latency_document(latency_test(rounds=0) | {"rounds": [3]}), r"rounds\[0\] is 3; it must be an object"),
    "threads of text": (latency_document(latency_test(backend(threads="all"))), r"backend\.threads is 'all'; it must be a count"),
    "threads beyond count": (latency_document(latency_test(backend(threads=10**30))), r"threads is 10+; it must be a count"),
    "samples beyond numbers": (results_document("bench", bench_record(samples_ts=[1e308, 1e308])), "overflow"),
    "no samples": (results_document("bench", bench_record(samples_ts=[])), "at least one"),
    "negative samples": (results_document("bench", bench_record(samples_ts=[1, -1])), "not negative"),
    "no kind": (results_document("bench") | {"kind": None}, "there is no 'kind'"),
    "records of text": (results_document("bench") | {"records": "many"}, "records is 'many'; it must be a list"),
}


@pytest.mark.parametrize(("content", "problem"), HOSTILE.values(), ids=HOSTILE)
def test_what_cannot_be_read_is_named(write: Write, content: object, problem: str) -> None:
    path = write("hostile.json", content)
    with pytest.raises(ResultsError, match=problem) as raised:
        read(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_huge_file_is_refused_unread(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("huge.json", "")
    os.truncate(path, results.MAX_BYTES + 1)  # sparse: takes no disk
    with pytest.raises(ResultsError, match="268,435,457 bytes; at most 268,435,456 are read"):
        read(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for path, problem in (
        (tmp_path, "it is not a file"),
        (tmp_path / "pipe.json", "it is not a file"),
        (tmp_path / "none.json", "No such file"),
    ):
        with pytest.raises(ResultsError, match=problem):
            read(path)


def test_bad_files_do_not_hide_good_ones(write: Write) -> None:
    paths = [write("bad.json", "{"), write("good.json", results_document("bench", bench_record())), write("worse.json", b"\xff")]
    sources, problems = read_all(paths)
    assert [source.kind for source in sources] == ["bench"]
    assert [str(path) in problem for path, problem in zip((paths[0], paths[2]), problems, strict=True)] == [True, True]


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([1e308, 5e-324, 10**400])
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
DOCUMENTS = [
    latency_document(latency_test(rounds=2)),
    results_document("bench", bench_record()),
    results_document("quality", quality_record()),
    results_document("backends", latency_test(backend("peer"), e2e_over_ours={"ratio": 2.0, "low": 1.5, "high": None}, verdict="slower")),
    results_document("perf-gate", {"test": "tg96", "figures": {"p50": {"head": {"ratio": 1.5}, "limit": 2, "kept": True}}, "builds": {}}),
]


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, item in items for place in places(item, (*at, key)))]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), junk=JUNK)
def test_anything_anywhere_is_reported_or_refused(write: Write, data: st.DataObject, junk: object) -> None:
    """Whatever stands in place of whatever: the report is made in every format, or one line says what is wrong with the file."""
    document = deepcopy(data.draw(st.sampled_from(DOCUMENTS)))
    *way, key = data.draw(st.sampled_from([place for place in places(document) if place]))
    spot = document
    for step in way:
        spot = spot[step]
    spot[key] = junk
    report = make_report([write("junk.json", document)])
    assert len(report.sources) + len(report.problems) == 1
    for written in FORMATS.values():
        assert written(list(blocks(report)))
    assert json.dumps(as_json(report), allow_nan=False)


def test_nothing_in_a_file_steers_the_terminal(write: Write) -> None:
    whom = backend("edge\x1b[2Jllm\r\n", model_filename="m" * 1000)
    fingerprint = FINGERPRINT | {"cpu_model": "\x07bell", "git_commit": "\u202e"}
    gate = {"figures": {"p\x1b50": {"head": {"ratio": 1.5}, "limit": 2, "kept": True}}}
    latency = latency_document(latency_test(whom, figures={"my\x1bfigure": 1}), fingerprint=fingerprint)
    report = make_report([write("a.json", latency), write("b.json", results_document("perf-gate", gate))])
    written = FORMATS["text"](list(blocks(report)))
    assert {"edge?[2Jllm??", "my?figure", "p?50"} <= set(written.split())
    assert all(character.isprintable() or character == "\n" for character in written)
