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
    assert "ttft_p95_ms of edgellm, 1 thread, medium prompt of 128 tokens, 100 rounds; test_latency[medium] in" in written
    assert "no FP16 original" in written


def test_tests_that_measure_memory_and_start_share_a_row(write: Write) -> None:
    apart = {"memory": {"peak_rss_mib": 165.5, "load_ms": 51.5}, "steady": {"steady_rss_mib": 160.25}, "cold": {"cold_start_p50_ms": 400}}
    tests = [latency_test(test=f"test_{name}", figures=figures) for name, figures in apart.items()]
    written = shown(write, latency_document(*tests, latency_test(test="test_cold[again]", figures={"cold_start_p50_ms": 500})))
    assert "edgellm 1t memory, steady, cold 166 160 51.5 400" in written
    assert "edgellm 1t cold[again] n/a n/a n/a 500" in written


def test_energy_says_by_what_it_was_read(write: Write) -> None:
    figures = {"joules_per_token": 0.25, "idle_watts": 2.5, "active_watts": 6.25}
    meter = {"source": "INA219 at hwmon3", "kind": "estimated", "sample_rate_hz": 20}
    written = shown(write, latency_document(latency_test(test="test_energy", figures=figures, energy=meter)))
    assert "edgellm 1t energy (estimated) 0.250 n/a 2.50 6.25" in written
    assert "0.json: energy is estimated by INA219 at hwmon3, 20 readings a second" in written


@pytest.mark.parametrize("where", ["test", "file"])
def test_energy_that_nobody_could_read_is_not_available_with_the_reason(write: Write, where: str) -> None:
    reasons = {"joules_per_token": "no energy provider: powercap is empty"}
    document = latency_document(latency_test(not_measured=reasons if where == "test" else {}))
    if where == "file":
        document["energy"] = {"provider": None, "why_not": reasons["joules_per_token"]}
    assert "J/token: n/a, no energy provider: powercap is empty" in shown(write, document)


def test_figures_that_no_table_has_are_shown_with_their_budgets(write: Write) -> None:
    figures = {"p50_drift": 1.01, "rss_growth_mib": 3.5, "e2e_p99_ms": 7.0}
    budgets = [{"name": "rss_growth_mib", "measured": 3.5, "limit": 2, "kept": False}, {"name": "e2e_p99_ms", "limit": 9, "kept": True}]
    written = shown(
        write, latency_document(latency_test(test="test_soak", figures=figures, intervals={"p50_drift": [1, 1.02]}, budgets=budgets))
    )
    assert "edgellm 1t test_soak p50_drift 1.01 [1, 1.02]" in written
    assert "edgellm 1t test_soak rss_growth_mib 3.50 2 BROKEN" in written
    assert "e2e_p99_ms" not in written


@pytest.mark.parametrize(
    ("changes", "written"),
    [
        ({"provenance": "emulated"}, "edgellm 1t medium 128 100 (emulated) 80.5"),
        ({"prompt": {"name": "medium", "tokens": 128, "counted": False}}, "edgellm 1t medium ~128 100 80.5"),
        ({"backend": backend(model_filename="synthetic-1B.tmac2.bin")}, "edgellm 1t synthetic medium 128 100 80.5"),
    ],
)
def test_what_a_row_needs_to_be_read_with_is_in_it(write: Write, changes: dict[str, Any], written: str) -> None:
    assert written in shown(write, latency_document(latency_test() | changes))


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


def test_engines_are_compared_where_test_prompt_and_threads_are_the_same(write: Write) -> None:
    figures = {"ttft_p50_ms": 161, "itl_p50_ms": 3.6, "run_jitter_std_ms": 5}
    peer = latency_test(backend("llama.cpp"), figures=figures, intervals={"ttft_p50_ms": [160, 162], "run_jitter_std_ms": [2.5, 9]})
    elsewhere = (
        {"prompt": {"name": "short"}},
        {"backend": backend("llama.cpp", threads=2)},
        {"test": "test_soak"},
        {"interrupted": "Ctrl-C"},
    )
    others = (latency_test(backend("llama.cpp")) | changes for changes in elsewhere)
    source = read(write("latency.json", latency_document(peer, latency_test(), *others)))
    (compared,) = compare(source.measurements)
    assert (compared.measurement.subject.backend, compared.base.subject.backend) == ("llama.cpp", "edgellm")
    assert {figure: str(ratio) for figure, ratio in compared.ratios.items()} == {
        "ttft_p50_ms": "2",
        "itl_p50_ms": "1.03?",  # no interval
        "run_jitter_std_ms": "2?",  # intervals overlap
    }


def test_an_engine_is_compared_with_ours_of_its_own_file_if_there_is_one(write: Write) -> None:
    slow, quick, peer = ({"ttft_p50_ms": ms} for ms in (200, 100, 300))
    first = read(write("1.json", latency_document(latency_test(figures=slow))))
    second = read(write("2.json", latency_document(latency_test(figures=quick), latency_test(backend("ollama"), figures=peer))))
    third = read(write("3.json", latency_document(latency_test(backend("ollama"), figures=peer))))
    compared = compare([*first.measurements, *second.measurements, *third.measurements])
    assert [(each.measurement.file, each.base.file, each.ratios["ttft_p50_ms"].value) for each in compared] == [
        ("2.json", "2.json", 3),
        ("3.json", "1.json", 1.5),
    ]


def test_engines_that_took_turns(write: Write) -> None:
    ratio = {"ratio": 2.5, "low": 2.25, "high": 2.75, "resolution": 1.0625}
    peer = latency_test(backend("llama.cpp"), peak_rss_mib=180, e2e_over_ours=ratio, verdict="slower")
    absent = {"test": "backends", "backend": {"name": "ollama"}, "unavailable": "no server at http://localhost:11434"}
    ours = latency_test(e2e_over_ours={"ratio": 1.0, "low": 1.0, "high": 1.0}, verdict="no difference resolved")
    written = shown(write, results_document("backends", ours, peer, absent, {"test": "noise"}))
    assert "llama.cpp edgellm medium e2e 2.500 [2.250, 2.750] 1.062 slower" in written
    assert "llama.cpp 1t medium 128 100 80.5 [80, 81]" in written
    assert "edgellm edgellm" not in written
    assert "llama.cpp 1t latency[medium] 180" in written
    assert "ollama was not measured: no server at http://localhost:11434" in written
    assert "3 of 4 records are summarised" in written


def test_the_gate(write: Write) -> None:
    judged = {"figure": "p99", "head": {"ratio": 1.5, "low": 1.375, "high": 1.625}, "resolution": 1.125, "limit": 1.25, "kept": False}
    builds = {"base": {"revision": "0123456789abcdef"}, "head": {"revision": "the working tree"}}
    record = {"test": "tg96@8", "builds": builds, "figures": {"p99": judged}, "passed": False}
    written = shown(write, results_document("perf-gate", record, {"test": "tg96@8", "builds": builds}))
    assert "the working 0123456789ab tg96@8 p99 1.500 [1.375, 1.625] 1.125 1.250 FAIL" in written


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
