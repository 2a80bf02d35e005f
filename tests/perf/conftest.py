"""What the timed tests share beyond the plugin (edgellm.measure.pytest_plugin): the models, results files, tables and notes at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgellm.measure.fingerprint import fingerprint
from edgellm.measure.pytest_run import CLAIMS
from edgellm.measure.results import ResultsFile
from edgellm.measure.telemetry import Bystanders
from tests.conftest import MODEL
from tests.perf.goals import Board
from tests.perf.models import Models
from tests.perf.tables import Tables

NOTES = pytest.StashKey[list[str]]()
TABLES = pytest.StashKey[Tables]()
TURNS = 10


def pytest_configure(config: pytest.Config) -> None:
    """Refuse workers: tests that run beside each other time each other."""
    if hasattr(config, "workerinput") or config.getoption("numprocesses", None):
        raise pytest.UsageError("tests/perf times the machine and cannot share it: run it without -n, e.g. `pytest -p no:xdist tests/perf`")
    config.stash[NOTES] = []
    config.stash[TABLES] = Tables()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what the tests noted, and their tables."""
    if notes := config.stash[NOTES]:
        terminalreporter.section("comparisons")
        terminalreporter.line("\n".join(notes))
    for title, table in config.stash[TABLES].shown().items():
        terminalreporter.section(title)
        terminalreporter.line(table)


@pytest.fixture(scope="session")
def model(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> str:
    """The plugin's, but that this engine measures the model as the code of this checkout converts it."""
    asked: str | None = pytestconfig.getoption("--model")
    ours = asked is None and pytestconfig.getoption("--backend") == "edgellm"
    return str(request.getfixturevalue("model_path")) if ours else asked or MODEL


@pytest.fixture(scope="session")
def this_engine(pytestconfig: pytest.Config) -> None:
    """For tests that ask about this engine, whatever is measured beside them."""
    if (asked := pytestconfig.getoption("--backend")) != "edgellm":
        pytest.skip(f"it asks about edgellm, and the backend is {asked}")


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say something at the end."""
    return request.config.stash[NOTES].append


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> int:
    """How often what takes turns is measured."""
    return request.config.getoption("--rounds") or TURNS


@pytest.fixture(scope="session")
def machine() -> dict[str, Any]:
    """The fingerprint that goes into every result."""
    return fingerprint(Path(__file__).parent)


@pytest.fixture(scope="session")
def models(model_path: Path, model_gguf: Path) -> Models:
    """The models that are compared."""
    return Models(published=model_gguf, lossless=model_path)


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest, machine: dict[str, Any]) -> Iterator[ResultsFile]:
    """What the comparison with other engines writes."""
    bystanders = Bystanders()
    with ResultsFile(request.config.rootpath / "results" / "peers.json", kind="peers", fingerprint=machine) as file:
        yield file
        file.append({"test": "bystanders", "shares": bystanders.shares()})


@pytest.fixture
def tables(request: pytest.FixtureRequest) -> Tables:
    """Tables to be printed at the end."""
    return request.config.stash[TABLES]


@pytest.fixture
def board(request: pytest.FixtureRequest, tables: Tables, results: ResultsFile) -> Board:
    """Where goals get their verdicts."""
    return Board(tables, results.append, strict=request.config.getoption("--platform-profile") == CLAIMS)
