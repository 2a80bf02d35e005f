"""Tasks, and what a model scores in them: lm-eval asks and judges, this chooses the items, keeps the answers and explains what is wrong.

A task is a file of `tasks/`, by its name, or any other task file of lm-eval's form, by its path. Of N items a fixed shuffle chooses the
first, so that the items of a smaller N are among those of a larger, and every kind of question is among them.
"""

from __future__ import annotations

import difflib
import io
import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from edgellm.errors import EdgeLLMError, EvaluationError
from edgellm.evaluate.adapter import EdgeLM
from edgellm.evaluate.answers import Answers, Resumed
from edgellm.evaluate.task_score import Metric, TaskScore
from edgellm.formats.digest import sha256_of

TASKS = Path(__file__).parent / "tasks"
SEED = 1234
"""Of examples that a task draws: lm-eval's own default."""
PROMPTS = 1
"""Counts what changed in how requests come of records; answers to older ones are not used."""
RESAMPLES = 100
"""For the standard error of BLEU, which has no formula."""


def names() -> list[str]:
    """The tasks that come with the package."""
    return sorted(path.stem for path in TASKS.glob("*.yaml"))


def task_file(name: str) -> Path:
    """The file of a task, by its name or path; EvaluationError, with what may have been meant, where there is none."""
    path = Path(name) if name.endswith(".yaml") else TASKS / f"{name}.yaml"
    if path.is_file() and (name.endswith(".yaml") or name in names()):
        return path
    close = difflib.get_close_matches(name, names(), n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    raise EvaluationError(f"the task {name!r} is unknown: {meant}There are {', '.join(names())}, and any task file by its path, X.yaml")


def load(name: str) -> ConfigurableTask:
    """The task with its records; EvaluationError where its file is broken or its records are not to be had."""
    path = task_file(name)
    with _quiet():
        try:
            loaded = TaskManager(include_defaults=False).load([str(path)])["tasks"]
        except EdgeLLMError:
            raise
        except Exception as error:  # whatever YAML, a template or lm-eval says of it
            raise EvaluationError(f"{path} does not make a task: {_reason(error)}") from error
    if len(loaded) != 1:
        raise EvaluationError(f"{path} makes {len(loaded)} tasks; one at a time can be run")
    (task,) = loaded.values()
    if task.config.num_fewshot is None:
        task.set_config("num_fewshot", 0)
    task.set_fewshot_seed(SEED)
    return task


def chosen(records: int, limit: int | None) -> list[int]:
    """Which records are asked, in order: the first `limit` of a shuffle that is always the same; EvaluationError for less than one."""
    if limit is not None and limit < 1:
        raise EvaluationError(f"a limit of {limit} items leaves nothing to ask; possible: 1 or more")
    return sorted(np.random.default_rng(0).permutation(records)[:limit].tolist())


def run(lm: EdgeLM, name: str, limit: int | None = None, answers: Answers | None = None) -> TaskScore:
    """Ask the items of a task that `answers` does not hold yet, and judge them all. Errors as in `load`, `chosen` and the adapter's."""
    task = load(name)
    items = chosen(len(task.eval_docs), limit)
    _check(task, items)
    with _quiet():
        results = evaluate(
            Resumed(lm, answers) if answers is not None else lm,
            {"tasks": {task.task_name: task}},
            samples={task.task_name: items},
            bootstrap_iters=RESAMPLES,
        )
    return _score(task, items, results)


def _score(task: ConfigurableTask, items: list[int], results: Mapping[str, Any]) -> TaskScore:
    name = task.task_name
    found, samples = results["results"][name], results["samples"][name]
    metrics = {
        metric: Metric(
            float(found[f"{metric},{judge}"]),
            stderr if isinstance(stderr := found[f"{metric}_stderr,{judge}"], float) else None,
            bool(task.higher_is_better()[metric]),
            tuple(sample[metric] for sample in samples),
        )
        for metric, judge in (key.split(",") for key in found if "," in key and "_stderr," not in key)
    }
    first = next(iter(metrics.values()))
    return TaskScore(
        task=name,
        version=task.VERSION,
        data=_data(task),
        examples_shown=task.config.num_fewshot,
        of_items=len(task.eval_docs),
        items=tuple(items),
        metrics=metrics,
        parts=_parts([sample["doc"] for sample in samples], first.values, (task.config.metadata or {}).get("by")),
    )


def _parts(records: Sequence[Mapping[str, Any]], values: Sequence[float], field: str | None) -> dict[str, tuple[int, float]]:
    """Value of the field -> (items, their mean)."""
    if field is None:
        return {}
    groups = defaultdict(list)
    for record, value in zip(records, values, strict=True):
        groups[str(record[field])].append(value)
    return {part: (len(group), sum(group) / len(group)) for part, group in sorted(groups.items())}


def _data(task: ConfigurableTask) -> dict[str, str]:
    source = task.config.dataset_kwargs or {}
    folder = os.environ.get("EDGELLM_DATA")
    if folder and "file" in source:
        return {"file": source["file"], "sha256": sha256_of(Path(folder, source["file"]))}
    return {"hub": source.get("hub") or str(task.config.dataset_path)}


def _check(task: ConfigurableTask, items: list[int]) -> None:
    """EvaluationError for a record that cannot be asked; lm-eval would stop without naming it, or count it as answered wrongly."""
    for i in items:
        try:
            _check_record(task, task.eval_docs[i])
        except Exception as error:  # templates raise whatever their expressions raise
            raise EvaluationError(f"{task.task_name}: record {i + 1} of {len(task.eval_docs)} cannot be asked: {_reason(error)}") from error


def _check_record(task: ConfigurableTask, record: Mapping[str, Any]) -> None:
    text, target = task.doc_to_text(record), task.doc_to_target(record)
    if task.OUTPUT_TYPE != "multiple_choice":
        return
    choices = task.doc_to_choice(record)
    right = text if task.multiple_input else target
    if not all(isinstance(choice, str) and choice for choice in choices):
        raise ValueError(f"its choices are {choices!r:.200}; each must be a text")
    if not isinstance(right, int) or not 0 <= right < len(choices):
        raise ValueError(f"its answer is {right!r:.80}; there are {len(choices)} choices, counted from 0")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()):.300}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's notices, and without the processes that it starts for a bootstrap, which an engine's threads do not survive."""
    logger, before = logging.getLogger("lm_eval"), os.environ.get("DISABLE_MULTIPROC")
    level = logger.level
    logger.setLevel(logging.ERROR)
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before
