"""What every layer of tests asks for: the real model, an engine on it, the instruction sets, the evaluation texts, a place for numbers."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from edgellm import Engine
    from tests.emulated.library import Library

ROOT = Path(__file__).parent.parent
MODEL = "smollm2-135m"
REPORTED = "reported"


class Report(Protocol):
    def __call__(self, kind: str, line: str, provenance: str = "measured", **record: Any) -> None:
        """Show the line when the tests end, also when all is well, and put the record into results/`kind`.json, all of one provenance."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--isa", help="of the tests that run once per instruction set, run this one's only")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `isa` runs once per instruction set; those that this processor or this build lacks are skipped by name."""
    if "isa" not in metafunc.fixturenames:
        return
    from edgellm.ops import native

    asked = metafunc.config.getoption("--isa")
    if asked not in (None, *native.ISAS):
        raise pytest.UsageError(f"--isa {asked} is unknown; known: {', '.join(native.ISAS)}")
    emulates = "emulation" in metafunc.fixturenames
    metafunc.parametrize("isa", [_isa_param(isa, emulates) for isa in native.ISAS if asked in (None, isa)])


def _isa_param(isa: str, emulates: bool) -> Any:
    """Of a test that can have its kernels emulated, or not."""
    from edgellm.ops import native
    from tests.emulated.process import CPUS, missing

    available = native.isas_available()
    if isa in available:
        return pytest.param(isa)
    how = missing() if emulates and isa in CPUS else f"this processor and this build run {', '.join(available)}"
    if how is None:
        return pytest.param(isa, id=f"{isa}-emulated")
    return pytest.param(isa, marks=pytest.mark.skip(reason=f"{isa} is not available: {how}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show and write what tests reported; here, because workers' tests meet here."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, []) if report.when == "call"]
    reported = [value for report in reports for name, value in report.user_properties if name == REPORTED]
    if not reported:
        return
    from edgellm.measure.fingerprint import fingerprint
    from edgellm.measure.results import ResultsFile

    for (provenance, kind), entries in groupby(sorted(reported, key=lambda entry: entry[:3]), key=lambda entry: entry[:2]):
        terminalreporter.section(f"results/{kind}.json")
        path = terminalreporter.config.rootpath / "results" / f"{kind}.json"
        with ResultsFile(path, kind=kind, fingerprint=fingerprint(), provenance=provenance) as results:
            for _, _, line, record in entries:
                terminalreporter.line(line)
                results.append(record)


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Report:
    """Where a test leaves the numbers that it measured."""
    return lambda kind, line, provenance="measured", **record: record_property(REPORTED, (provenance, kind, line, record))


@pytest.fixture(scope="session")
def library() -> Iterator[Library | None]:
    """In the compiled module's place where instruction sets can be emulated."""
    from edgellm.ops import native, scoring
    from tests.emulated.library import Library, emulated_isas

    if not emulated_isas():
        yield None
        return
    library = Library()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "lib", library)
        patch.setattr(scoring, "lib", library)
        yield library
    library.close()


@pytest.fixture
def emulation(request: pytest.FixtureRequest, library: Library | None) -> Iterator[None]:
    """Lets a test that takes `isa` run for those that are emulated, too: its arrays and its engines' lie where their kernels see them."""
    from tests.emulated.library import emulated_isas, emulating

    isa = request.node.callspec.params.get("isa") if hasattr(request.node, "callspec") else None
    with emulating(isa, library) if library and isa in emulated_isas() else nullcontext():
        yield


@pytest.fixture(scope="session")
def model_gguf() -> Path:
    """The default model as it is published, fetched into the cache (EDGELLM_HOME) if it is not there."""
    from edgellm.formats import fetch

    return fetch.pull(MODEL, progress=False)


@pytest.fixture(scope="session")
def model_path(model_gguf: Path) -> Path:
    """The default model converted losslessly by the code as it is; kept in this checkout until it is unused for a day."""
    from edgellm.quantize.convert import convert

    folder = ROOT / "build" / "models"
    path = folder / f"{MODEL}-{converter_digest()}.tmac2.bin"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "convert.lock"):
        if not path.exists():
            convert(model_gguf, path, progress=False)
        path.touch()
        for other in folder.glob(f"{MODEL}-*.tmac2.bin"):
            if time.time() - other.stat().st_mtime > 24 * 3600:  # not at once: tests that began before a change still read theirs
                other.unlink()
    return path


@pytest.fixture(scope="session")
def engine(model_path: Path) -> Engine:
    """The default model on one thread, shared by a whole process: a test resets it before it counts on an empty cache."""
    import edgellm

    return edgellm.load(model_path, threads=1)


@pytest.fixture(scope="session")
def evaluation_data() -> Path:
    """The folder of evaluation texts; tests that read them are skipped where it is not set."""
    folder = os.environ.get("EDGELLM_DATA")
    if not folder:
        pytest.skip("EDGELLM_DATA is not set: it names the folder of evaluation texts")
    return Path(folder)


def converter_digest() -> str:
    """Changes whenever the code that reads, quantizes or writes a model does."""
    digest = hashlib.sha256()
    for folder in ("formats", "quantize"):
        for source in sorted((ROOT / "edgellm" / folder).glob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:12]
