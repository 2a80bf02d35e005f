"""Every scheme of one model side by side: size, perplexity on two texts with and without BOS, divergence, accuracies, speed.

    python -m scripts.quality_schemes [--only NAME] [--add NAME=FILE] [--windows N] [--items N]      or: nox -s quality -- schemes

The baseline is the source file dequantised to float32. Schemes are the rows of SCHEMES: arguments of `edgellm quantize`, and llama.cpp's
own types of the same model. Each scheme's record is written as soon as it is had; model files, windows and answers that an earlier run had
are not made again (`build/schemes`, and the evaluations' cache), so an interrupted run goes on where it was.
"""

from __future__ import annotations

import functools
import hashlib
import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

import edgellm
from edgellm.errors import EdgeLLMError, InvalidRequestError
from edgellm.evaluate import data
from edgellm.evaluate.cache import Cache, Key
from edgellm.evaluate.divergence import WindowDivergence, divergence, window_divergence
from edgellm.evaluate.perplexity import WINDOW, Score, from_logits, perplexity, ratio, windows_of
from edgellm.evaluate.scorer import LogitsScorer
from edgellm.evaluate.task_score import TaskScore
from edgellm.formats import open_checkpoint
from edgellm.formats.digest import sha256_of
from edgellm.formats.fetch import resolve_source
from edgellm.measure import bench
from edgellm.measure.backends import llama_cpp_models
from edgellm.measure.backends.edgellm import EdgeLLMBackend
from edgellm.measure.backends.llama_cpp import LlamaCppBackend
from edgellm.measure.energy import detect
from edgellm.measure.fingerprint import fingerprint
from edgellm.measure.results import Record, ResultsFile
from edgellm.measure.table import markdown
from edgellm.runtime.cores import default_threads
from edgellm.runtime.dense_engine import BASELINE, DenseEngine
from edgellm.runtime.engine import Engine
from edgellm.text.tokenizer import Tokenizer
from scripts.environment import ROOT

F32 = npt.NDArray[np.float32]
Backend = EdgeLLMBackend | LlamaCppBackend

FOLDER = ROOT / "build" / "schemes"
COSTS = ROOT / "benchmarks" / "results" / "sensitivity.json"
"""What `edgellm sensitivity smollm2-135m` measured."""
TARGET_MB = "53.9"
"""Of all tensors: with the tokenizer, a file of a 4.8th of FP16's."""
TEXTS = ("wikitext2_test", "tinyshakespeare")
VERSION = 1
"""Of the protocol below: what the cache holds of another is not used."""
DIVERGENCE_WINDOW, DIVERGENCE_WINDOWS = 512, 4
SPEED, SPEED_ROUNDS = bench.Case("tg", 64), 5
CONTEXT = WINDOW + 1
"""A window after a BOS token."""


@dataclass(frozen=True)
class Scheme:
    """arguments: of `edgellm quantize`, none to convert losslessly; of llama.cpp, its name of the type; of `edgellm distill`, where there
    is a `start`, the name of the scheme that is trained.
    """

    name: str
    arguments: tuple[str, ...] = ()
    backend: str = "edgellm"
    start: str | None = None


def gptq(scheme: str, *more: str) -> tuple[str, ...]:
    """The arguments of a scheme whose rounding is calibrated."""
    return "--scheme", scheme, "--method", "gptq", *more


def reconstructed(scheme: str, *more: str) -> tuple[str, ...]:
    """The arguments of a scheme whose layers are trained."""
    return "--scheme", scheme, "--method", "reconstruct", *more


def distilled(rate: str, steps: int, *more: str) -> tuple[str, ...]:
    """The arguments of a scheme that is trained as a whole."""
    return "--batch-tokens", "2048", "--learning-rate", rate, "--steps", str(steps), *more


MIXED = ("--head", "int3-min-g64", "--mixed", str(COSTS.relative_to(ROOT)), "--target-mb", TARGET_MB)
SCHEMES = (
    Scheme("keep"),
    Scheme("Q4_0", ("Q4_0",), "llama.cpp"),
    Scheme("Q2_K", ("Q2_K",), "llama.cpp"),
    Scheme("TQ2_0", ("TQ2_0",), "llama.cpp"),
    Scheme("int8", ("--scheme", "int8")),
    Scheme("int4-g64 rtn", ("--scheme", "int4-min-g64", "--method", "rtn")),
    Scheme("int4-g64", gptq("int4-min-g64")),
    Scheme("ternary-g64", gptq("ternary-g64")),
    Scheme("tritplanes2-g64", gptq("tritplanes2-g64")),
    Scheme("int3-g64", gptq("int3-min-g64")),
    Scheme("int2-g64", gptq("int2-min-g64")),
    Scheme("keep, 4-bit head", gptq("int4-min-g32", "--head", "int4-min-g32")),  # Q4_1 is int4-min-g32: the layers stay as they are
    Scheme("int4-g64 trained", reconstructed("int4-min-g64", "--windows", "48", "--epochs", "2")),
    Scheme("tritplanes2-g64 trained", reconstructed("tritplanes2-g64", "--windows", "48", "--epochs", "1")),
    Scheme("int3-g64 trained", reconstructed("int3-min-g64", "--windows", "48", "--epochs", "2")),
    Scheme("int2-g64 trained", reconstructed("int2-min-g64")),
    Scheme("ternary-g64 trained", reconstructed("ternary-g64")),
    Scheme("mixed 56 MB trained", reconstructed("int3-min-g64", *MIXED, "--windows", "64")),
    Scheme("int4-g64 distilled", distilled("2e-3", 50), start="int4-g64 trained"),
    Scheme("tritplanes2-g64 distilled", distilled("4e-3", 90), start="tritplanes2-g64 trained"),
    Scheme("int3-g64 distilled once", distilled("2e-3", 180), start="int3-g64 trained"),
    Scheme("int3-g64 distilled", distilled("2e-3", 100, "--seed", "1"), start="int3-g64 distilled once"),
    Scheme("int2-g64 distilled", distilled("4e-3", 90), start="int2-g64 trained"),
    Scheme("ternary-g64 distilled", distilled("4e-3", 280), start="ternary-g64 trained"),
    Scheme("mixed 56 MB distilled", distilled("3e-3", 180), start="mixed 56 MB trained"),
)


@dataclass(frozen=True)
class Subject:
    """A model file that is scored, and how: its own engine's `score` and `logits`. arithmetic: what besides the file decides the values.
    engine: loads the one that answers lm-eval's requests; None where `logits` are all that is asked.
    """

    name: str
    path: Path
    arithmetic: str
    score: Score
    logits: Callable[[Sequence[int]], F32]
    engine: Callable[[], Engine] | None


class Suite:
    """The texts' ids, the baseline, and the cache."""

    def __init__(self, source: Path, windows: int, items: int) -> None:
        checkpoint = open_checkpoint(source)
        self.source, self.windows, self.items, self.cache = source, windows, items, Cache()
        self.tokenizer = Tokenizer(checkpoint.tokenizer_json, checkpoint.config)
        self.ids = {text: self.tokenizer.encode(data.text(text), special=False, add_special_tokens=False) for text in TEXTS}

    @functools.cached_property
    def baseline(self) -> Subject:
        """Loaded when something of it is missing."""
        load = functools.cache(lambda: DenseEngine(self.source, context=CONTEXT))
        return Subject("baseline", self.source, BASELINE, lambda ids, start: load().score(ids, start), lambda ids: load().logits(ids), load)

    def perplexities(self, subject: Subject) -> list[Record]:
        """Of each text without BOS and with it, and over the baseline's of the same windows."""
        return [self._perplexity(subject, text, with_bos) for text in TEXTS for with_bos in (False, True)]

    def _perplexity(self, subject: Subject, text: str, with_bos: bool) -> Record:
        found = perplexity(
            subject.score,
            self.ids[text],
            window=WINDOW,
            windows=self.windows,
            bos_id=self._bos(with_bos),
            progress=sys.stderr.isatty(),
            **self._kept(subject, text, with_bos),
        )
        record = {"text": text, "bos": with_bos, "window_tokens": WINDOW, "windows": self.windows, **asdict(found)}
        if subject is self.baseline:
            return record
        theirs = self._perplexity(self.baseline, text, with_bos)
        over = ratio(found.window_nlls, theirs["window_nlls"])
        return record | {"baseline_ppl": theirs["ppl"], "ratio": over.value, "ratio_interval": list(over.interval)}

    def _kept(self, subject: Subject, text: str, with_bos: bool) -> dict[str, Any]:
        """What `perplexity` is to know, and how it keeps more."""
        key = self._key(subject, "perplexity", {"text": self._digest(text), "window": WINDOW, "bos": self._bos(with_bos)})
        return {"known": self.cache.get(key) or [], "keep": lambda means: self.cache.put(key, list(means))}

    def divergences(self, subject: Subject) -> list[Record]:
        """From the baseline, on each text, without BOS."""
        return [self._divergence(subject, text) for text in TEXTS]

    def _divergence(self, subject: Subject, text: str) -> Record:
        key = self._key(subject, "divergence", {"text": self._digest(text), "window": DIVERGENCE_WINDOW})
        known = [WindowDivergence(tuple(kl), tuple(flipped)) for kl, flipped in self.cache.get(key) or []]
        missing = range(len(known), DIVERGENCE_WINDOWS)
        for index in tqdm(missing, desc=f"divergence, {text}", unit="window", leave=False, disable=None):
            window = windows_of(self.ids[text], DIVERGENCE_WINDOW, DIVERGENCE_WINDOWS)[index]
            known.append(window_divergence(self._baseline_logits(text, index), subject.logits(window)))
            self.cache.put(key, [[window.kl, window.flipped] for window in known])
        found = divergence(known[:DIVERGENCE_WINDOWS])
        figures = {
            name: {"value": figure["value"], "interval": figure["interval"]} for name, figure in asdict(found).items() if name != "tokens"
        }
        return {"text": text, "window_tokens": DIVERGENCE_WINDOW, "tokens": found.tokens, **figures}

    @functools.cache  # noqa: B019  the suite lives as long as the program
    def _baseline_logits(self, text: str, index: int) -> F32:
        """Of a window, held for all schemes: 100 MB each."""
        return self.baseline.logits(windows_of(self.ids[text], DIVERGENCE_WINDOW, DIVERGENCE_WINDOWS)[index])

    def accuracy(self, subject: Subject) -> Record:
        """Of each task and of all, beside the baseline's."""
        if not self.items:
            return {"tasks": None, "why_not": "left out: --items 0"}
        from scripts.scheme_accuracies import compared

        return {"tasks": compared(self._scores(subject), self._baseline_scores)}

    @functools.cached_property
    def _baseline_scores(self) -> Mapping[str, TaskScore]:
        return self._scores(self.baseline)

    def _scores(self, subject: Subject) -> Mapping[str, TaskScore]:
        from scripts.scheme_accuracies import scores

        settings = {"arithmetic": subject.arithmetic, "context": CONTEXT}
        scorer = subject.engine() if subject.engine else LogitsScorer(subject.path, CONTEXT, self.tokenizer, subject.logits)
        return scores(scorer, _sha256(subject.path), settings, self.items, self.cache, progress=sys.stderr.isatty())

    def _bos(self, with_bos: bool) -> int | None:
        return self.tokenizer.bos_id if with_bos else None

    def _digest(self, text: str) -> str:
        return hashlib.sha256(np.array(self.ids[text], "<i4").tobytes()).hexdigest()

    def _key(self, subject: Subject, task: str, params: dict[str, Any]) -> Key:
        of = {"arithmetic": subject.arithmetic} | params
        return Key(_sha256(subject.path), task, VERSION, of if task == "perplexity" else of | {"baseline": _sha256(self.source)})


def made(scheme: Scheme, source: Path) -> Path:
    """The scheme's model file, made unless this code made it before; first of all, the one that it starts from."""
    llama_cpp = scheme.backend == "llama.cpp"
    start = None if scheme.start is None else made(by_name()[scheme.start], source)
    of = "\0".join([_sha256(start or source), "" if llama_cpp else quantizer_digest(), *scheme.arguments])
    ending = ".gguf" if llama_cpp else ".tmac2.bin"
    path = FOLDER / f"{scheme.name.replace(', ', '-').replace(' ', '-')}-{hashlib.sha256(of.encode()).hexdigest()[:12]}{ending}"
    if path.exists():
        return path
    FOLDER.mkdir(parents=True, exist_ok=True)
    click.echo(f"{scheme.name}: making {path.name}", err=True)
    if llama_cpp:
        partial = path.with_suffix(".partial")
        llama_cpp_models.quantize(source, scheme.arguments[0], partial)
        return partial.rename(path)
    command = [*_command(scheme, source, start), "-o", str(path)]
    if subprocess.run([sys.executable, "-c", "from edgellm.cli import main; main()", *command], check=False, cwd=ROOT).returncode:
        raise InvalidRequestError(f"the scheme {scheme.name} could not be made by: edgellm {' '.join(command)}")
    return path


def _command(scheme: Scheme, source: Path, start: Path | None) -> list[str]:
    if start is not None:
        return ["distill", str(source), "--from", str(start), *scheme.arguments]
    return ["quantize", str(source), *scheme.arguments] if scheme.arguments else ["convert", str(source)]


@contextmanager
def loaded(scheme: Scheme, path: Path, threads: int) -> Iterator[tuple[Subject, Backend]]:
    """The scheme's engine, with memory for one window."""
    backend: Backend
    if scheme.backend == "llama.cpp":
        backend = LlamaCppBackend(path, threads=threads, context=CONTEXT)
        subject = Subject(scheme.name, path, backend.description()["backend_version"], from_logits(backend.logits), backend.logits, None)
    else:
        backend = EdgeLLMBackend(path, threads=threads, context=CONTEXT)
        engine = backend.engine
        subject = Subject(scheme.name, path, f"edgellm {edgellm.__version__}", engine.score, engine.logits, lambda: engine)
    try:
        yield subject, backend
    finally:
        backend.unload()


def measured(suite: Suite, scheme: Scheme, path: Path, threads: int) -> Record:
    """Everything of a scheme."""
    with loaded(scheme, path, threads) as (subject, backend):
        record = {
            "scheme": scheme.name,
            "backend": backend.name,
            "arguments": list(scheme.arguments),
            "start": scheme.start,
            "baseline": BASELINE,
            "model_sha256": _sha256(path),
            **({} if scheme.backend == "llama.cpp" else {"made": made_how(path)}),
            **sizes(path, scheme.backend),
            "perplexity": suite.perplexities(subject),
            "divergence": suite.divergences(subject),
            "accuracy": suite.accuracy(subject),
        }
        (speed,) = bench.measure([backend], [SPEED], SPEED_ROUNDS, progress=sys.stderr.isatty())
    return record | {
        "n_threads": threads,
        "tg64": {name: speed[name] for name in ("avg_ts", "stddev_ts", "samples_ts")},
        "energy": energy(),
    }


def made_how(path: Path) -> Record:
    """What the file itself says of how it was made."""
    provenance = open_checkpoint(path).provenance
    return {name: provenance.get(name) for name in ("tool", "schemes", "method", "training", "calibration", "distilled")}


def sizes(path: Path, backend: str) -> Record:
    """Bytes of the file; weights, and the bits that are stored for one, of all tensors and of the layers' matrices alone."""
    if backend == "llama.cpp":
        tensors = llama_cpp_models.tensor_sizes(path)
        types = llama_cpp_models.tensor_types(path)
        own: Record = {"substituted": types.substituted(path.name.split("-")[0])}
    else:
        from edgellm.formats.inspect import describe

        tensors = {tensor["name"]: (math.prod(tensor["shape"]), tensor["bytes"]) for tensor in describe(path)["tensors"]}
        own = {}
    layers = [size for name, size in tensors.items() if _is_layer_matrix(name)]
    return own | {
        "file_bytes": path.stat().st_size,
        "weights": sum(weights for weights, _ in tensors.values()),
        "bits_per_weight": _bits(tensors.values()),
        "layers_bits_per_weight": _bits(layers),
    }


def _is_layer_matrix(name: str) -> bool:
    return name.startswith(("model.layers.", "blk.")) and "norm" not in name and not name.endswith(".bias")


def _bits(tensors: Iterable[tuple[int, int]]) -> float:
    weights, nbytes = map(sum, zip(*tensors, strict=True))
    return 8 * nbytes / weights


def energy() -> Record:
    """Joules are not measured here: why not, or who measures them."""
    found = detect.detect()
    there = next((each.name for each in found if each.provider), None)
    return {
        "joules_per_token": None,
        "why_not": detect.not_available(found) if there is None else f"{there} is there: nox -s perf -- -k energy",
    }


def quantizer_digest() -> str:
    """Changes whenever the code that quantizes does."""
    digest = hashlib.sha256()
    for source in sorted((ROOT / "edgellm" / "quantize").rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


@functools.cache
def _sha256(path: Path) -> str:
    return sha256_of(path)


def row(record: Record) -> tuple[str, ...]:
    """Of the table that is printed while it grows."""
    ratios = [f"{each['ratio']:.4f}" for each in record["perplexity"]]
    kl, flips = record["divergence"][0]["kl_mean"]["value"], record["divergence"][0]["flip_rate"]["value"]
    everything = (record["accuracy"]["tasks"] or [None])[-1]
    speed = f"{record['tg64']['avg_ts']:.1f}"
    return (
        record["scheme"],
        f"{record['file_bytes'] / 1e6:.1f}",
        f"{record['layers_bits_per_weight']:.2f}",
        *ratios,
        f"{kl:.4f}",
        f"{flips:.2%}",
        "n/a" if everything is None else f"{everything['delta']:+.2%}",
        speed,
    )


HEAD = ("scheme", "MB", "bits", *(f"{text[:8]}{bos}" for text in TEXTS for bos in ("", " +bos")), "KL", "flips", "accuracy", "tg64")


def by_name() -> dict[str, Scheme]:
    """The rows of SCHEMES."""
    return {scheme.name: scheme for scheme in SCHEMES}


def chosen(only: Sequence[str], added: Sequence[str]) -> list[tuple[Scheme, Path | None]]:
    """The schemes that are asked for, and the files that are added; InvalidRequestError for a name that is none."""
    known = by_name()
    if unknown := [name for name in only if name not in known]:
        raise InvalidRequestError(f"the scheme {unknown[0]!r} is unknown; known: {', '.join(known)}")
    files = [(name, Path(file)) for name, _, file in (each.partition("=") for each in added)]
    if missing := [file for _, file in files if not file.is_file()]:
        raise InvalidRequestError(f"--add takes NAME=FILE; there is no file {missing[0]}")
    there = {name for name, _ in files}
    asked = [(scheme, None) for name, scheme in known.items() if name not in there and (not only or name in only)]
    return asked + [(known.get(name, Scheme(name)), file) for name, file in files]


@click.command(help=__doc__)
@click.option("--model", default="smollm2-135m", show_default=True, help="The source: a path, or the name of a pulled model.")
@click.option("--only", multiple=True, metavar="NAME", help="This scheme; may be given several times.  [default: all]")
@click.option(
    "--add", multiple=True, metavar="NAME=FILE", help="A .tmac2.bin of a scheme that was made before, or of another; again for more."
)
@click.option("--windows", type=click.IntRange(1), default=16, show_default=True, help="Of each text.")
@click.option("--items", type=click.IntRange(0), default=200, show_default=True, help="Of each task; 0 leaves accuracies out.")
@click.option("-t", "--threads", type=click.IntRange(1), help="[default: one per physical core]")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=ROOT / "results" / "quality_schemes.json", help="The results file."
)
def main(model: str, only: tuple[str, ...], add: tuple[str, ...], windows: int, items: int, threads: int | None, output: Path) -> None:
    """Make, measure, print, one scheme after the other; one that fails is named, and the others go on."""
    failed = []
    try:
        schemes = chosen(only, add)
        suite = Suite(resolve_source(model), windows, items)
        output.parent.mkdir(parents=True, exist_ok=True)
        with ResultsFile(output, kind="quality_schemes", fingerprint=fingerprint()) as results:
            records = []
            perplexities, accuracy = suite.perplexities(suite.baseline), suite.accuracy(suite.baseline)
            results.append({"scheme": "baseline", "baseline": BASELINE, "perplexity": perplexities, "accuracy": accuracy})
            for scheme, file in schemes:
                try:
                    records.append(
                        results.append(measured(suite, scheme, file or made(scheme, suite.source), threads or default_threads()))
                    )
                    click.echo(markdown(HEAD, [row(records[-1])]))
                except EdgeLLMError as error:
                    failed.append(scheme.name)
                    click.echo(f"{scheme.name}: {error}", err=True)
            click.echo(f"\n{markdown(HEAD, [row(record) for record in records])}")
    except EdgeLLMError as error:
        raise click.ClickException(str(error)) from error
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
