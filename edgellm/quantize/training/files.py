"""Distillation from file to file: a quantized model file and its original go in, with texts; the same model file, trained, comes out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from edgellm.errors import InvalidRequestError
from edgellm.formats import open_checkpoint
from edgellm.formats.checkpoint import Checkpoint
from edgellm.formats.tmac2 import write_tmac2
from edgellm.quantize import rewrite
from edgellm.quantize.calibrate import CalibrationText, calibration_texts
from edgellm.quantize.training import distill
from edgellm.quantize.training.dataset import Request, dataset
from edgellm.quantize.training.tokens import encode
from edgellm.text.tokenizer import Tokenizer

TEXT_SHARE = 0.25
"""The part of the minutes after which no more text is drawn from the teacher."""


@dataclass(frozen=True)
class Job:
    """What is trained, on what, and where it goes.

    original: the model to imitate; start: a quantized form of it; destination: the .tmac2.bin to write
    calibration: text files, () for those of `calibration_texts`, None for none; length: tokens of a window
    run_folder: keeps what a run needs to go on
    """

    original: Path
    start: Path
    destination: Path
    run_folder: Path
    calibration: tuple[Path, ...] | None
    length: int
    seed: int = 0
    progress: bool = True


def distill_file(
    job: Job, settings: distill.Settings, plan: distill.Plan, generated_tokens: int, minutes: float | None, text_folder: Path
) -> distill.Outcome:
    """Distil on the calibration files and on text that the original writes, `generated_tokens` of it, and write the result.

    minutes: how long all of it may take, from the call to the written file; None where settings.steps says how much.
    Errors as `distill` and `dataset`.
    """
    start = time.monotonic()
    original, initial, tokenizer = _open(job)
    texts = [] if job.calibration is None else calibration_texts(job.calibration)
    request = Request(job.length, generated_tokens, tokenizer.bos_id, job.seed, settings.precision)
    until = None if minutes is None else start + 60 * minutes * TEXT_SHARE
    sequences, held_out = dataset(
        original, encode(tokenizer, texts), request, job.run_folder, text_folder, plan.device, until, job.progress
    )
    deadline = None if minutes is None else start + 60 * minutes
    outcome = distill.distill(original, initial, sequences, held_out, settings, replace(plan, deadline=deadline), job.run_folder)
    facts = {"tokens": outcome.tokens, "steps": outcome.steps, "sequences": list(sequences.shape), "settings": asdict(settings)}
    _write(job, outcome.checkpoint, "distilled", texts, facts)
    return outcome


def _open(job: Job) -> tuple[Checkpoint, Checkpoint, Tokenizer]:
    """Original, start and tokenizer. InvalidRequestError: they are not one model."""
    original, initial = open_checkpoint(job.original), rewrite.open_source(job.start, job.destination)
    known, found = original.provenance.get("source_sha256"), initial.provenance.get("source_sha256")
    if original.config != initial.config or (known and found and known != found):
        raise InvalidRequestError(f"{job.start} was not made from {job.original}; quantize this one: edgellm quantize {job.original}")
    return original, initial, Tokenizer(original.tokenizer_json, original.config)


def _write(job: Job, result: Checkpoint, step: str, texts: Sequence[CalibrationText], facts: dict[str, Any]) -> None:
    """Write the trained model; its provenance says how it was trained and on which texts."""
    facts |= {"texts": {text.name: text.sha256 for text in texts}, "torch": torch.__version__}
    origin = dict(result.provenance)
    origin["schemes"] = [*origin.get("schemes", []), step]
    write_tmac2(job.destination, replace(result, provenance=origin | {step: facts, "quality": "not measured"}))
