from __future__ import annotations

from typing import Any

import pytest

from edgellm.report.claims import CLAIMS, Claim, Finding, judge
from edgellm.report.reading import read_all
from tests.unit.report.conftest import (
    Write,
    backend,
    bench_record,
    journal,
    latency_document,
    latency_test,
    quality_record,
    results_document,
)

BY_KEY = {claim.key: claim for claim in CLAIMS}


def findings(write: Write, key: str, *contents: object) -> list[Finding]:
    sources, problems = read_all([write(f"{number}.json", content) for number, content in enumerate(contents)])
    assert problems == []
    return judge(sources)[BY_KEY[key]]


def test_the_claims_are_the_roadmaps() -> None:
    """Whoever moves one moves it here too."""
    assert {claim.key: (claim.figure, claim.limit, claim.at_least, claim.prompt) for claim in CLAIMS} == {
        "deterministic_latency": ("run_jitter_std_ms", 10, False, "medium"),
        "smaller": ("fp16_size_ratio", 4.8, True, None),
        "memory": ("peak_rss_mib", 512, False, None),
        "quality": ("perplexity_ratio", 1.05, False, None),
        "real_time": ("ttft_p95_ms", 100, False, "medium"),
    }


@pytest.mark.parametrize("key", BY_KEY)
def test_what_no_file_measures_is_not_judged(write: Write, key: str) -> None:
    assert findings(write, key) == []
    assert findings(write, key, latency_document(latency_test(backend(model_size=None), figures={"itl_p50_ms": 1}))) == []


@pytest.mark.parametrize(
    ("value", "interval", "verdict", "doubt"),
    [
        (90, [85, 95], "pass", ""),
        (100, [99, 100], "pass", ""),
        (98, [90, 104.25], "pass, in doubt", "pass, but the interval reaches 104.2"),
        (104, [96.5, 110], "FAIL, in doubt", "FAIL, but the interval reaches 96.50"),
        (120, [110, None], "FAIL", ""),
        (90, [85, None], "pass", "its interval is open towards the limit"),
        (120, [None, 130], "FAIL", "its interval is open towards the limit"),
        (90, None, "pass", "no interval says how sure that is"),
    ],
)
def test_an_interval_across_the_limit_is_said(write: Write, value: float, interval: list[float] | None, verdict: str, doubt: str) -> None:
    test = latency_test(figures={"ttft_p95_ms": value}, intervals={"ttft_p95_ms": interval})
    (finding,) = findings(write, "real_time", latency_document(test))
    assert (finding.verdict, finding.doubt) == (verdict, doubt)


def test_a_claim_is_of_its_prompt_and_of_this_engine(write: Write) -> None:
    tests = latency_test(prompt="long"), latency_test(backend("llama.cpp")), latency_test()
    (finding,) = findings(write, "real_time", latency_document(*tests))
    assert finding.evidence.test == "test_latency[medium]"
    assert finding.evidence.about == "edgellm, 1 thread, medium prompt of 128 tokens, 100 rounds"


def test_too_few_rounds_and_an_interrupted_run_are_said(write: Write) -> None:
    test = latency_test(rounds=10, rounds_needed={"ttft_p95_ms": 59}, interrupted="KeyboardInterrupt: ")
    (finding,) = findings(write, "real_time", latency_document(test))
    assert finding.evidence.caveats == ("interrupted, 10 rounds", "both bounds of its interval need 59 rounds")
    (finding,) = findings(write, "real_time", journal(70, 80))
    assert finding.evidence.caveats == ("interrupted, 2 rounds", "both bounds of its interval need 59 rounds")


@pytest.mark.parametrize(
    ("changes", "caveats"),
    [({"provenance": "emulated"}, ("emulated",)), ({"provenance": "measured"}, ()), ({"provenance": "published"}, ("published",))],
)
def test_numbers_that_were_not_measured_are_told(write: Write, changes: dict[str, Any], caveats: tuple[str, ...]) -> None:
    test = latency_test(figures={"peak_rss_mib": 165}, **changes)
    (finding,) = findings(write, "memory", latency_document(test))
    assert (finding.verdict, finding.evidence.caveats) == ("pass", caveats)


def test_size_is_judged_once_per_model_wherever_it_is_named(write: Write) -> None:
    small = backend(model_filename="synthetic-135M.tmac2.bin", model_size=40_000_000)
    sizes = findings(write, "smaller", latency_document(latency_test(), latency_test(small)), results_document("bench", bench_record()))
    assert [(finding.verdict, finding.evidence.value, finding.doubt) for finding in sizes] == [("FAIL", 2.68, ""), ("pass", 6.7, "")]
    assert sizes[1].evidence.caveats == ("synthetic: random weights",)


def test_quality_is_a_ratio_to_a_reference_that_is_named(write: Write) -> None:
    (finding,) = findings(write, "quality", results_document("quality", quality_record(), quality_record(reference=None)))
    assert finding.verdict == "pass"
    assert finding.evidence.about == "4 windows of 1024 tokens: perplexity 22.900, transformers 22.700"


def test_at_least() -> None:
    claim = Claim("fast", "fast", "tokens_per_second", 100, "run", at_least=True)
    assert [claim.keeps(value) for value in (99.9, 100, 101)] == [False, True, True]
    assert claim.limit_text == "at least 100"
