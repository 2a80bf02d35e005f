from __future__ import annotations

import json
from typing import Any

import pytest

from edgellm.report.comparison import compare
from edgellm.report.numbers import number, with_interval
from edgellm.report.overview import as_json, blocks, make_report
from edgellm.report.reading import read
from edgellm.report.render import WIDTH, text
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
)


def shown(write: Write, *contents: object) -> str:
    """The report in words, runs of spaces as one."""
    written = text(list(blocks(make_report([write(f"{number}.json", content) for number, content in enumerate(contents)]))))
    assert max(map(len, written.split("\n"))) <= WIDTH
    return "\n".join(" ".join(line.split()) for line in written.split("\n"))


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (3.14159, "3.14"),
        (31.4159, "31.4"),
        (1049.6, "1050"),
        (0.012345, "0.0123"),
        (0.0, "0"),
        (3.0, "3"),
        (-2.5, "-2.50"),
        (1e300, "1e+300"),
    ],
)
def test_numbers_have_three_digits_that_count(value: float, written: str) -> None:
    assert number(value) == written


def test_what_is_not_there_is_said() -> None:
    assert number(None) == with_interval(None, None) == "n/a"


def test_latency_tables(write: Write) -> None:
    written = shown(write, latency_document(latency_test()))
    assert "edgellm 1t medium 128 100 80.5 [80, 81] 90.2 [88, 104] 95 [91, ?]" in written
    assert "edgellm 1t medium 128 100 3.50 4.25 280" in written
    assert "edgellm 1t medium 128 100 2.50 [2, 3] n/a 0.125 1.21 n/a 1.75 n/a" in written  # jitter, then the machine's own
    assert "ttft_p99_ms: both bounds need 299 rounds, there are 100 (edgellm 1t medium 128)" in written


def test_claims_say_figure_test_file_and_doubt(write: Write) -> None:
    written = shown(write, latency_document(latency_test()))
    assert "real-time capable (TTFT < 100 ms) pass, in doubt 90.25 [88, 104] at most 100" in written
    assert "runs in 512 MB not measured here at most 512" in written
    assert "peak_rss_mib is in none of these files; nox -s perf measures it" in written
    assert "ttft_p95_ms of edgellm, 1 thread, medium (128 tokens), 100 rounds; test_latency[medium] in" in written
    assert "no FP16 original" in written


def test_tests_that_measure_memory_start_and_energy_share_a_row(write: Write) -> None:
    apart = [{"peak_rss_mib": 165.5}, {"steady_rss_mib": 160.25, "load_ms": 51.5}, {"cold_start_p50_ms": 400}]
    written = shown(write, latency_document(*(latency_test(figures=figures) for figures in apart)))
    assert "edgellm 1t 166 160 51.5 400 n/a" in written
    assert "J/token: n/a, no energy provider: /sys/class/powercap is empty" in written


def test_the_same_figure_twice_is_two_rows(write: Write) -> None:
    written = shown(write, latency_document(latency_test(figures={"peak_rss_mib": 1}), latency_test(figures={"peak_rss_mib": 2})))
    assert "edgellm 1t 1 n/a" in written
    assert "edgellm 1t 2 n/a" in written


def test_an_interrupted_run_is_marked(write: Write) -> None:
    assert "edgellm 1t medium 128 2 (interrupted) 75" in shown(write, journal(70, 80))


def test_models_on_one_engine_are_told_apart(write: Write) -> None:
    tests = [latency_test(backend(model_filename=f"{name}.gguf")) for name in ("one", "two")]
    written = shown(write, latency_document(*tests))
    assert "edgellm 1t #1 0.1.0 one.gguf" in written
    assert "edgellm 1t #2 0.1.0 two.gguf" in written


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"git_commit": "fedcba"}, "Machines: 1. Builds: 2."),
        ({"build": {"csrc_hash": "beef"}}, "Machines: 1. Builds: 2."),
        ({"cpu_model": "Cortex-A53"}, "Machines: 2. Builds: 1."),
    ],
)
def test_machines_and_builds_are_never_mixed(write: Write, changes: dict[str, Any], said: str) -> None:
    elsewhere = latency_document(latency_test(backend("llama.cpp")), fingerprint=FINGERPRINT | changes)
    written = shown(write, latency_document(latency_test()), elsewhere)
    assert said in written
    first, second = written.index("A: Cortex-A76"), written.index("B: Cortex-A")
    assert "llama.cpp" not in written[first:second]
    assert "Beside each other" not in written


def test_uncommitted_changes_are_said(write: Write) -> None:
    written = shown(write, latency_document(latency_test(), fingerprint=FINGERPRINT | {"git_commit": "0123456789abcdef-dirty"}))
    assert "commit 0123456789ab-dirty" in written
    assert "uncommitted changes" in written


def test_engines_of_one_run_are_compared(write: Write) -> None:
    figures = {"ttft_p50_ms": 161, "itl_p50_ms": 3.6, "run_jitter_std_ms": 5}
    peer = latency_test(backend("llama.cpp"), figures=figures, intervals={"ttft_p50_ms": [160, 162], "run_jitter_std_ms": [2.5, 9]})
    source = read(
        write("latency.json", latency_document(peer, latency_test(), latency_test(prompt="short"), latency_test(backend(threads=2))))
    )
    (compared,) = compare(source.measurements)
    assert (compared.measurement.subject.backend, compared.base.subject.backend) == ("llama.cpp", "edgellm")
    assert {figure: str(ratio) for figure, ratio in compared.ratios.items()} == {
        "ttft_p50_ms": "2",
        "itl_p50_ms": "1.03?",  # no interval
        "run_jitter_std_ms": "2?",  # intervals overlap
    }


def test_files_apart_are_not_compared(write: Write) -> None:
    assert "Beside each other" not in shown(write, latency_document(latency_test()), latency_document(latency_test(backend("llama.cpp"))))


def test_other_kinds(write: Write) -> None:
    written = shown(
        write, results_document("bench", bench_record()), results_document("quality", quality_record()), results_document("new")
    )
    assert "tg64 1 edgellm model.tmac2.bin 3 100 [97.5, 102] 1" in written
    assert "wikitext2_test edgellm 4 x 1024 22.90 transformers 22.70 1.009 [1.010, 1.010]" in written
    assert "new 2026-11-23T18:10:00 A not summarised" in written


def test_no_figure_at_all(write: Write) -> None:
    assert shown(write, results_document("new")).count("not measured here") == 5


def test_json(write: Write) -> None:
    report = make_report([write("latency.json", latency_document(latency_test())), write("bad.json", "{")])
    document = json.loads(json.dumps(as_json(report), allow_nan=False))
    claims = {claim["key"]: claim for claim in document["claims"]}
    (finding,) = claims["real_time"]["findings"]
    assert {key: finding[key] for key in ("verdict", "kept", "value", "interval", "origin")} == {
        "verdict": "pass, in doubt",
        "kept": True,
        "value": 90.25,
        "interval": [88, 104],
        "origin": "A",
    }
    assert claims["memory"]["findings"] == []
    (row,) = document["rows"]
    assert (row["origin"], row["subject"]["backend"], row["figures"]["ttft_p50_ms"]) == ("A", "edgellm", 80.5)
    assert [len(document[key]) for key in ("origins", "files", "problems")] == [1, 1, 1]
