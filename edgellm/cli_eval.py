"""What `edgellm eval` does: ask a model, or two, one task after the other, and print what each scored as soon as it is known."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

import edgellm
from edgellm.errors import EvaluationError
from edgellm.evaluate import texts
from edgellm.evaluate.cache import Cache, Key
from edgellm.evaluate.paired import Delta, deltas
from edgellm.evaluate.task_score import TaskScore
from edgellm.formats import fetch
from edgellm.formats.digest import sha256_of
from edgellm.measure.fingerprint import fingerprint
from edgellm.runtime.dense_engine import DenseEngine
from edgellm.runtime.engine import Engine

SCHEMA = "edgellm-evaluation"
VERSION = 1


@dataclass(frozen=True)
class Request:
    """What is asked of each model: tasks, or where there are none the texts at hand; the other fields are the command's options."""

    tasks: tuple[str, ...]
    limit: int | None
    threads: int | None
    context: int | None
    bos: bool | None
    activations: str
    progress: bool


@dataclass(frozen=True)
class Evaluated:
    """A model and what it scored."""

    path: Path
    sha256: str
    scores: tuple[TaskScore, ...]


def check(request: Request) -> None:
    """Fail before a model is loaded: EvaluationError for what is unknown, impossible or not meant, or where lm-eval is missing."""
    if request.limit is not None and request.limit < 1:
        raise EvaluationError(f"--limit {request.limit} leaves nothing to ask; possible: 1 or more")
    if not request.tasks:
        if request.bos is not None:
            raise EvaluationError("--bos and --no-bos are about --tasks; of texts the perplexity is given with and without BOS")
        return
    if find_spec("lm_eval") is None:
        raise EvaluationError("tasks are asked by lm-eval, which is not installed: pip install 'edgellm[eval]'; texts need no --tasks")
    from edgellm.evaluate import suite

    for task in request.tasks:
        suite.task_file(task)


def evaluate(model: str, request: Request, quiet: bool) -> Evaluated:
    """Everything that is asked of one model; a line for each score unless quiet. Answers of earlier runs are not asked again."""
    path = fetch.resolve_model(model)
    sha256 = sha256_of(path)
    if not quiet:
        click.echo(path.name)
    scores = []
    for score in _scores(path, sha256, request):
        scores.append(score)
        if not quiet:
            click.echo("\n".join(_lines(score)))
    return Evaluated(path, sha256, tuple(scores))


def _scores(path: Path, sha256: str, request: Request) -> Iterator[TaskScore]:
    engine = _load(path, request)
    if not request.tasks:
        yield from (texts.run(engine, name, request.limit, request.progress) for name in texts.at_hand())
        return
    from edgellm.evaluate import suite
    from edgellm.evaluate.adapter import EdgeLM
    from edgellm.evaluate.answers import Answers

    lm = EdgeLM(engine, add_bos=request.bos, progress=request.progress)
    settings = {
        "context": engine.context,
        "bos": request.bos,
        "activations": request.activations,
        "edgellm": edgellm.__version__,
        "csrc_hash": (fingerprint()["build"] or {}).get("csrc_hash"),
    }
    for task in request.tasks:
        with Answers(Cache().folder, Key(sha256, Path(task).stem, suite.PROMPTS, settings)) as answers:
            yield suite.run(lm, task, request.limit, answers)


def _load(path: Path, request: Request) -> Engine:
    if request.activations == "float32":
        return DenseEngine(path, threads=request.threads, context=request.context)
    return edgellm.load(path, threads=request.threads, context=request.context)


def as_json(evaluated: Sequence[Evaluated], request: Request) -> str:
    """One object: each model with its scores, the values of every item included; of two models also what the first's differ by. Its fields
    are in docs/results.md.
    """
    models = [{"model": one.path.name, "model_sha256": one.sha256, "scores": [asdict(score) for score in one.scores]} for one in evaluated]
    settings = {name: value for name, value in asdict(request).items() if name not in ("tasks", "progress")}
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "version": VERSION,
        "provenance": "measured",
        "fingerprint": fingerprint(),
        "settings": settings,
        "models": models,
    }
    if len(evaluated) == 2:
        document["deltas"] = {
            task: {metric: {"delta": delta.delta, "interval": list(delta.interval)} for metric, delta in found.items()}
            for task, found in _deltas(evaluated)
        }
    return json.dumps(document, indent=1)


def comparison(evaluated: Sequence[Evaluated]) -> str:
    """Lines of what two models differ by."""
    lines = [f"{evaluated[0].path.name} less {evaluated[1].path.name}, on the same items"]
    for task, found in _deltas(evaluated):
        lines += [f"  {task:16}{metric:16}{delta.delta:+.4f} ({_bounds(delta)})" for metric, delta in found.items()]
    return "\n".join(lines)


def _deltas(evaluated: Sequence[Evaluated]) -> Iterator[tuple[str, dict[str, Delta]]]:
    for ours, theirs in zip(*(one.scores for one in evaluated), strict=True):
        yield ours.task, deltas(ours, theirs)


def _bounds(delta: Delta) -> str:
    low, high = delta.interval
    return "its items have no numbers to draw: no interval" if low is None or high is None else f"95%: {low:+.4f} to {high:+.4f}"


def _lines(score: TaskScore) -> Iterator[str]:
    """The task, then its metrics, then its parts."""
    shown = f", {score.examples_shown} examples in each prompt" if score.examples_shown else ""
    yield f"  {score.task}: {len(score.items)} of {score.of_items} items{shown}"
    for name, metric in score.metrics.items():
        stderr = "n/a" if metric.stderr is None else format(metric.stderr, ".4f")
        yield f"    {name:16}{metric.value:10.4f} ± {stderr}  ({'higher' if metric.higher_is_better else 'lower'} is better)"
    for part, (items, value) in score.parts.items():
        yield f"      {part:44}{value:7.4f}  of {items}"
