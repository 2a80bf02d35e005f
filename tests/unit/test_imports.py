"""Imports run one way. The table says which rooms of the package each room may import; the sources are parsed, not run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "edgellm"

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "formats": {"errors"},
    "ops": {"errors", "formats"},
    "model": {"errors", "formats", "ops"},
    "text": {"errors"},
    "quantize": {"edgellm", "errors", "formats", "model", "ops", "runtime", "text"},
    "runtime": {"errors", "formats", "model", "ops", "text"},
    "edgellm": {"runtime"},
    "measure": {"edgellm", "errors", "formats", "model", "ops", "runtime", "text"},
    "evaluate": {"edgellm", "errors", "formats", "measure", "model", "ops", "runtime", "text"},
    "report": {"errors", "measure"},
    "cli": {"cli_generate", "cli_measure", "cli_models", "cli_options", "cli_quantize", "cli_train", "edgellm", "errors"},
    "cli_options": set(),
    "cli_models": {"cli_quantize", "errors", "formats", "measure", "quantize", "runtime"},
    "cli_generate": {"cli_chat", "cli_options", "edgellm", "errors", "runtime", "text"},
    "cli_measure": {"cli_energy", "cli_eval", "cli_options", "errors", "formats", "measure", "report", "runtime"},
    "cli_chat": {"errors", "runtime", "text"},
    "cli_energy": {"errors", "measure"},
    "cli_eval": {"edgellm", "errors", "evaluate", "formats", "measure", "runtime"},
    "cli_train": {"errors", "formats", "quantize"},
    "cli_quantize": {"errors", "formats", "quantize"},
}
"""Room -> the rooms that it may import, besides itself. A room is a folder or a file of the package; `edgellm` is its __init__."""

MAY_IMPORT_OF: dict[str, dict[str, set[str]]] = {
    "model": {"ops": {"edgellm.ops.interface"}, "formats": {"edgellm.formats.architecture"}},
    "report": {"measure": {f"edgellm.measure.{name}" for name in ("figures", "journal", "protocol", "results", "statistics", "table")}},
}
"""Where a room may see only part of another: the forward pass is written against the interface, so either implementation fits, and reads
no file; a report reads results, and measures nothing.
"""

SOURCES = sorted(PACKAGE.rglob("*.py"))


def module_name(source: Path) -> str:
    parts = source.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(source) for source in SOURCES}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def imported(source: Path) -> Iterator[str]:
    """The full names of the modules that a source imports, wherever in the file; `from package import module` gives the module."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative import"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else str(node.module)


@pytest.mark.parametrize("source", SOURCES, ids=module_name)
def test_imports_run_one_way(source: Path) -> None:
    here = room(module_name(source))
    ours = {name for name in imported(source) if name.split(".")[0] == "edgellm"} - {"edgellm._native"}
    assert {room(name) for name in ours} - {here} <= MAY_IMPORT[here]
    for other, modules in MAY_IMPORT_OF.get(here, {}).items():
        assert {name for name in ours if room(name) == other} <= modules


def test_one_module_imports_the_compiled_one() -> None:
    importers = {
        module_name(source) for source in SOURCES for name in imported(source) if name in ("edgellm._native", "_cffi_backend", "cffi")
    }
    assert importers == {"edgellm.ops.compiled"}


@pytest.mark.parametrize("source", [source for source in SOURCES if source.parent.name in ("model", "ops")], ids=module_name)
def test_forward_pass_has_no_clock(source: Path) -> None:
    assert {"time", "datetime", "timeit"}.isdisjoint(name.split(".")[0] for name in imported(source))


def test_reading_results_needs_no_compiled_module() -> None:
    program = """
import sys
sys.modules["edgellm._native"] = None  # what an import of a missing module finds
import edgellm, edgellm.cli, edgellm.formats, edgellm.measure.results, edgellm.measure.statistics, edgellm.report.overview
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
