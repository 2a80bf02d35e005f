"""The project's tasks. `make perf` and `make test` run two of them; `nox --list` shows all.

The layers of tests share one environment, `.venv`, because they test one build of one package; scripts/environment.py keeps it
up to date and asks no network when it already is. Sessions that bring in reference implementations or another build have their own
under `.nox`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["tests"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = True

ROOT = Path(__file__).parent
BIN = ROOT / ".venv" / "bin"
RESULTS = ROOT / "results"
EDGELLM = str(BIN / "edgellm")
MODEL = "smollm2-135m"
THREADS = "1,2" if (os.cpu_count() or 1) > 1 else "1"
ISAS = ("scalar", "avx2", "avx512", "avx512vnni", "neon", "neon_dotprod")


@dataclass(frozen=True)
class Measurement:
    """What takes too long for every day: the tests with the mark `name`, run alone by `nox -s perf -- NAME`."""

    name: str
    extra: str | None = None
    """Of pyproject.toml: packages that `.venv` needs for it."""
    benchmarks: bool = True
    """Its results are pytest-benchmark's JSON, results/NAME.json; else it writes a file itself."""


MEASUREMENTS = (
    Measurement("peers", extra="baselines", benchmarks=False),
    Measurement("kernels"),
    Measurement("ablation"),
    Measurement("scaling", benchmarks=False),
    Measurement("backends", extra="baselines", benchmarks=False),
    Measurement("soak"),
    Measurement("models", benchmarks=False),
    Measurement("trust", benchmarks=False),
    Measurement("evaluation", extra="baselines", benchmarks=False),
)


@dataclass(frozen=True)
class Layer:
    """A folder of tests and how pytest runs it."""

    name: str
    parallel: bool = True
    """Spread over the cores. A layer that times anything has the machine to itself instead."""

    @property
    def pytest(self) -> tuple[str, ...]:
        """The command for the tests of every day, without the arguments of the one who asks."""
        every_day = f"not ({' or '.join(measurement.name for measurement in MEASUREMENTS)})"
        if self.parallel:
            return (str(BIN / "pytest"), "-p", "no:benchmark", "--numprocesses=auto", "-m", every_day, f"tests/{self.name}")
        return self.measuring(every_day)

    def measuring(self, marks: str) -> tuple[str, ...]:
        """The command for the tests with these marks, which have the machine to themselves."""
        return (str(BIN / "pytest"), "-p", "no:xdist", "-m", marks, f"tests/{self.name}")


UNIT = Layer("unit")
KERNELS = Layer("kernels")
E2E = Layer("e2e")
PERF = Layer("perf", parallel=False)
QUALITY = Layer("quality")


@dataclass(frozen=True)
class Sanitizer:
    """A build of the C code that watches itself, and the tests that run on it."""

    flags: str
    runtime: str
    """The compiler's library that comes before all others in Python, which is not built like that."""
    tests: tuple[str, ...]
    env: Mapping[str, str]


MEMORY = Sanitizer(
    "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=undefined,float-cast-overflow",
    "libasan.so",
    ("tests/kernels", "tests/unit/ops", "tests/unit/runtime", "-k", "not (emulated or test_realtime)"),  # under it mlock does nothing
    {
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself never frees everything
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    },
)
THREADS_APART = Sanitizer(
    "-O1 -g -fno-omit-frame-pointer -fsanitize=thread",
    "libtsan.so",
    # it has a thread of its own, which tests of how many there can be do not expect
    ("tests/kernels", "tests/unit/runtime", "-k", "(thread or test_pool or test_plan or test_engine) and not (emulated or no_room)"),
    {
        "TSAN_OPTIONS": "halt_on_error=1:die_after_fork=0",
        "OPENBLAS_NUM_THREADS": "1",  # its threads, not built like that, seem to race
    },
)


REFERENCES = ("-e", ".[dev,train,baselines]", "accelerate==1.15.0")
"""What the reference implementations need: extras of ours, whose pins hold here too, and packages."""


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Style, format and types."""
    prepare(session)
    session.run(str(BIN / "ruff"), "check", *session.posargs)
    session.run(str(BIN / "ruff"), "format", "--check")
    session.run(str(BIN / "mypy"))


@nox.session(venv_backend="none")
def unit(session: nox.Session) -> None:
    """Formats, tokenizer, sampling, statistics: no model, no clock."""
    prepare(session)
    session.run(*UNIT.pytest, *session.posargs)


@nox.session(venv_backend="none")
@nox.parametrize("isa", ISAS, ids=ISAS)
def kernels(session: nox.Session, isa: str) -> None:
    """Every kernel of one instruction set against scalar C and NumPy; those of ARM emulated on another processor."""
    prepare(session)
    testable = isas_testable()
    if isa not in testable:
        session.skip(f"here kernels are tested for {', '.join(testable)}, not {isa}")
    session.run(*KERNELS.pytest, "--isa", isa, *session.posargs)


@nox.session(venv_backend="none")
def e2e(session: nox.Session) -> None:
    """The real model, from file to text; `-- models` runs the larger ones of the catalogue against what their references said."""
    prepare(session, model=True)
    if measured_by_name(session, E2E):
        return
    session.run(*E2E.pytest, *session.posargs)


@nox.session(venv_backend="none")
def perf(session: nox.Session) -> None:
    """Fetch and convert the default model, measure it, print the table, write results/*.json. About five minutes; `-- --quick` is one.

    `-- --platform-profile claims` gates on the project's claims, `-- --backend NAME --model X` measures another engine. By name, instead:
    `-- peers` llama.cpp beside this engine, `-- backends` every one that can be had, `-- kernels` each kernel by itself, `-- ablation` what
    each choice gives, `-- scaling` synthetic models of other sizes, `-- soak` a thousand rounds.
    """
    prepare(session, model=True)
    RESULTS.mkdir(exist_ok=True)
    if measured_by_name(session, PERF):
        return
    session.run(EDGELLM, "convert", MODEL)
    latency, bench = f"{RESULTS.name}/latency.json", f"{RESULTS.name}/bench.json"
    start = time.time()
    try:
        session.run(*PERF.pytest, "--capture=fd", "--benchmark-quiet", f"--benchmark-json={latency}", *session.posargs)
        rounds = 10 if "--quick" in session.posargs else 100
        if not any(argument.startswith(("--backend", "--model")) for argument in session.posargs):
            session.run(EDGELLM, *f"bench --model {MODEL} -p 128 -n 64 -t {THREADS} -r {rounds} --json {bench}".split())
    finally:  # also where a budget was broken, or the run was stopped
        written = [name for name in (latency, bench) if (ROOT / name).exists() and (ROOT / name).stat().st_mtime >= start]
        if written:  # not what an earlier run left
            session.run(EDGELLM, "report", *written)


@nox.session(name="perf-gate", venv_backend="none")
def perf_gate(session: nox.Session) -> None:
    """Is a token slower, or less steadily fast, than at the commit before, or at `-- --base REV`? Builds both, which take turns."""
    parent = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", "HEAD~1"]
    if not session.posargs and (shutil.which("git") is None or subprocess.run(parent, capture_output=True, check=False).returncode):
        session.skip(
            "git has no HEAD~1 here (a shallow clone, the first commit, no repository): nothing to compare with, say -- --base REV"
        )
    prepare(session, model=True)
    session.run(EDGELLM, "convert", MODEL)
    session.run(str(BIN / "python"), "-m", "scripts.perf_gate", *session.posargs)


@nox.session(venv_backend="none")
def quality(session: nox.Session) -> None:
    """What the model says: perplexity and divergence on the texts in EDGELLM_DATA, and their budgets.

    By name, instead: `-- peers` asks llama.cpp as well, `-- trust` compares requests with lm-eval's own model, `-- evaluation` times
    WikiText-2 and HellaSwag (`--windows 0 --items 0`: all of both, half an hour), `-- schemes` puts every scheme side by side, for some
    hours (those that are trained; `--only NAME` is one); it goes on where it was stopped, and takes the options of
    scripts/quality_schemes.py.
    """
    prepare(session, model=True)
    if measured_by_name(session, QUALITY):
        return
    if session.posargs[:1] == ["schemes"]:
        for extra in ("baselines", "train"):
            install(session, extra)
        session.run(str(BIN / "python"), "-m", "scripts.quality_schemes", *session.posargs[1:])
        return
    session.run(*QUALITY.pytest, *session.posargs)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """What CI runs: lint, unit, the kernels of every instruction set, e2e, the timed layers, and the gate against the commit before."""
    for name in ("lint", "unit", *(f"kernels({isa})" for isa in ISAS), "e2e", "perf", "perf-gate", "quality"):
        session.notify(name)


@nox.session
def parity(session: nox.Session) -> None:
    """Live reference implementations against the golden files; `-- --write` makes those anew, `-- -m models` asks of the larger models."""
    session.install(*REFERENCES)
    session.run("pytest", "-p", "no:xdist", "-m", "not models", "tests/parity", *session.posargs)


@nox.session
def train(session: nox.Session) -> None:
    """Quantization in torch: the gradients, that the engine runs what was trained, that a run goes on where it was stopped."""
    session.install("-e", ".[dev,train]")
    session.run("pytest", "-p", "no:benchmark", "--numprocesses=auto", "tests/unit/quantize/training", *session.posargs)


@nox.session
def sanitize(session: nox.Session) -> None:
    """The C code built with AddressSanitizer and UBSan, under the tests of the kernels, the ops and the engine."""
    sanitized(session, MEMORY)


@nox.session
def tsan(session: nox.Session) -> None:
    """The C code built with ThreadSanitizer, under the tests that run it on several threads."""
    sanitized(session, THREADS_APART)


@nox.session(reuse_venv=False)
def wheel(session: nox.Session) -> None:
    """The wheel, built from the source distribution: that it fits every Python from 3.11 on, and runs where nothing else lies."""
    prepare(session)
    folder = Path(session.create_tmp()).resolve()
    program = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    session.run(str(BIN / "python"), "-c", program, str(folder), external=True, silent=True)
    with session.chdir(folder):
        session.run("pip", "wheel", "--quiet", "--no-deps", *map(str, folder.glob("*.tar.gz")))
        (built,) = folder.glob("*.whl")
        if "-cp311-abi3-" not in built.name:
            session.error(f"{built.name} lacks the tag cp311-abi3, which says that it fits every Python from 3.11 on")
        session.install(str(built))
        session.run("edgellm", "--version")
        session.run("python", "-c", "from edgellm.ops import native; print(native.__file__, *native.isas_available())")


def prepare(session: nox.Session, model: bool = False) -> None:
    """Bring `.venv` up to date with the sources, and the model into the cache: here, where what stops it is one line and not every test."""
    session.run(sys.executable, "-m", "scripts.environment", log=False)
    if model:
        session.run(EDGELLM, "pull", MODEL)


def sanitized(session: nox.Session, sanitizer: Sanitizer) -> None:
    """Build with a sanitizer and run its tests, or those that are asked for."""
    session.install(".[dev]", env={"EDGELLM_CFLAGS": sanitizer.flags})
    site = session.run("python", "-c", "import sysconfig; print(sysconfig.get_path('platlib'))", silent=True) or ""
    runtime = subprocess.check_output([os.environ.get("CC", "gcc"), f"-print-file-name={sanitizer.runtime}"], text=True).strip()
    session.run(
        "pytest",
        *("-o", f"pythonpath={site.strip()} ."),  # the instrumented package comes before the one in the tree, ...
        *("-p", "no:benchmark", "--numprocesses=auto", "--capture=no", *(session.posargs or sanitizer.tests)),
        env={"LD_PRELOAD": runtime, "PYTHONSAFEPATH": "1", **sanitizer.env},  # ... also in the processes that tests start
    )


def isas_testable() -> list[str]:
    """The instruction sets that the built package can run on this processor, and those that an emulator here can."""
    imports = "from edgellm.ops.native import isas_available; from tests.emulated.library import emulated_isas"
    program = f"{imports}; print(*isas_available(), *emulated_isas())"
    return subprocess.check_output([BIN / "python", "-c", program], text=True, cwd=ROOT).split()


def install(session: nox.Session, extra: str) -> None:
    """Bring an extra of pyproject.toml into `.venv`."""
    packages = nox.project.load_toml(ROOT / "pyproject.toml")["project"]["optional-dependencies"][extra]
    session.run(str(BIN / "pip"), "install", "--quiet", *packages)


def measured_by_name(session: nox.Session, layer: Layer) -> bool:
    """Whether the first argument names a measurement; if so, it was run, with the arguments after it."""
    name, *arguments = session.posargs or [""]
    for measurement in MEASUREMENTS:
        if measurement.name == name:
            if measurement.extra:
                install(session, measurement.extra)
            results = ("--benchmark-quiet", f"--benchmark-json={RESULTS.name}/{name}.json") if measurement.benchmarks else ()
            session.run(*layer.measuring(name), "--capture=no", *results, *arguments)  # lines of progress are shown
            return True
    return False
