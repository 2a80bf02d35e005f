"""Runs the programs of programs.py."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.runtime import programs

ROOT = Path(__file__).parents[3]


@pytest.fixture
def run_program(synthetic_model: Path) -> Callable[[str], None]:
    """Run a program in a process of its own, on the synthetic model."""

    def run(program: str) -> None:
        command = [sys.executable, "-m", programs.__name__, program, os.fspath(synthetic_model)]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, check=False, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
        if done.returncode == programs.SKIPPED:
            pytest.skip(done.stdout.strip())
        assert done.returncode == 0, done.stderr

    return run
