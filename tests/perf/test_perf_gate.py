"""The gate on the real model: a build passes beside itself, and one that is 15% slower per token, or stalls for 5 ms in 2% of the tokens,
fails. All take turns in one run, so that all have the same machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from csrc.build_native import csrc_hash
from edgellm.measure.compare import Rounds
from scripts.perf_gate import judge, measure
from scripts.revisions import Package
from tests.conftest import ROOT

pytestmark = pytest.mark.perf

ROUNDS = 18

SLOW = """
def _fault(start):
    end = time.perf_counter_ns()
    while time.perf_counter_ns() < end + 0.15 * (end - start):
        pass
"""
STALLS = """
_chance = random.Random(20)

def _fault(start):
    if _chance.random() < 0.02:
        time.sleep(0.005)
"""
SEEDED = """

import random
import time

_decode = Engine.decode
{fault}
def _seeded(self, *arguments):
    start = time.perf_counter_ns()
    logits = _decode(self, *arguments)
    _fault(start)
    return logits

Engine.decode = _seeded
"""


@pytest.fixture(scope="module")
def samples_ns(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rounds]:
    """What the tokens of each build took; three of them are one build."""
    folder = tmp_path_factory.mktemp("builds")
    faults = {"base": None, "head": None, "base again": None, "slow": SLOW, "stalls": STALLS}
    samples: dict[str, Rounds] = {}
    measure({name: build(folder / name, fault) for name, fault in faults.items()}, model_path, 1, ROUNDS, samples)
    return samples


def build(folder: Path, fault: str | None) -> Package:
    """The package as it is here, which conftest.py has compared with its sources, with a fault in its engine."""
    shutil.copytree(ROOT / "edgellm", folder / "edgellm", ignore=shutil.ignore_patterns("__pycache__", "*.c", "*.o"))
    if fault is not None:
        with (folder / "edgellm" / "runtime" / "engine.py").open("a") as engine:
            engine.write(SEEDED.format(fault=fault))
    return Package(folder.name, folder, "", csrc_hash())


@pytest.mark.parametrize(("head", "failing"), [("head", set()), ("slow", {"p50"}), ("stalls", {"jitter"})])
def test_faults_fail_and_the_same_build_passes(
    samples_ns: dict[str, Rounds], head: str, failing: set[str], note: Callable[[str], None]
) -> None:
    findings = judge(samples_ns["base"], samples_ns[head], samples_ns["base again"])
    note(f"{head:8}" + ", ".join(f"{f.figure} {f.head.ratio:.2f} [{f.head.low:.2f} {f.head.high:.2f}] <= {f.limit:.2f}" for f in findings))
    found = {finding.figure for finding in findings if not finding.kept}
    assert found >= failing
    assert bool(found) == bool(failing)
