"""The script that times builds, on this one twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from edgellm.measure.results import read_results
from scripts.build_process import Work
from scripts.compare_builds import main
from tests.conftest import ROOT


def test_builds_take_turns(synthetic_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "builds.json"
    arguments = [str(synthetic_model), f"a={ROOT}", f"b={ROOT}", "-t", "1", "-c", "tg2@70,pp5", "-r", "3", "-o", str(output)]
    shown = CliRunner().invoke(main, arguments, catch_exceptions=False)
    records = read_results(output)["records"]
    assert [(record["test"], record["build"]) for record in records] == [("tg2@70", "a"), ("tg2@70", "b"), ("pp5", "a"), ("pp5", "b")]
    for record, calls in zip(records, (2, 2, 1, 1), strict=True):
        assert [len(samples) for samples in record["samples_ns"]] == [calls] * 3
        assert record["median_ns"] > record["ops_median_ns"]["attention"] > 0
        assert len(record["ops_samples_ns"]["attention"]) == 3
    assert records[0]["median_ratio"] == 1
    assert all(record["test"] in shown.output for record in records)


def test_cases_are_read() -> None:
    assert (Work.parse("tg8@2048"), Work.parse("pp128")) == (Work("tg", 8, 2048), Work("pp", 128, 0))
    for wrong in ("tg8", "pp128@5", "", "pp"):
        with pytest.raises(ValueError, match="is neither like tg8@2048 nor like pp128"):
            Work.parse(wrong)
