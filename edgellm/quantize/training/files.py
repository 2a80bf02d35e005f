"""Training from file to file: a quantized model file and its original go in, with texts; the same model file, trained, comes out."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgellm.errors import InvalidRequestError
from edgellm.formats import open_checkpoint
from edgellm.formats.checkpoint import Checkpoint
from edgellm.formats.tmac2 import write_tmac2
from edgellm.quantize import rewrite
from edgellm.quantize.training import distill, model, reconstruct, snapshots
from edgellm.quantize.training.teacher_text import generated
from edgellm.quantize.training.tokens import Ids, encode_files, windows
from edgellm.text.tokenizer import Tokenizer

HELD_OUT = 16
"""Sequences that the distilled model is evaluated on and not trained on: of the last sixteenth of each file, if there are any."""
TEXT_SHARE = 0.25
"""The part of the minutes after which no more text is drawn from the teacher."""
TEXT_BATCH = {"cpu": 8, "cuda": 1024}
"""Sequences that the teacher writes together."""


@dataclass(frozen=True)
class Job:
    """What is trained, on what, and where it goes.

    original: the model to imitate; start: a quantized form of it; destination: the .tmac2.bin to write
    calibration: text files; length: tokens of a window; run_folder: keeps what a run needs to go on
    """

    original: Path
    start: Path
    destination: Path
    run_folder: Path
    calibration: tuple[Path, ...]
    length: int
    seed: int = 0
    progress: bool = True


def reconstruct_file(job: Job, count: int, settings: reconstruct.Settings) -> list[reconstruct.LayerReport]:
    """Train layer by layer on `count` windows of the calibration files and write the result. Errors as `reconstruct`."""
    original, initial, tokenizer = _open(job)
    if not job.calibration:
        raise InvalidRequestError("reconstruction needs text: --calibration FILE")
    texts = encode_files(tokenizer, job.calibration)
    drawn = windows(texts, count, job.length, job.seed, tokenizer.bos_id, int(original.config["vocab_size"]))
    result, reports = reconstruct.reconstruct(original, initial, drawn, settings, job.run_folder, progress=job.progress)
    layers = [{"before": round(report.before, 4), "after": round(report.after, 4)} for report in reports]
    _write(job, result, "reconstructed", {"windows": list(drawn.shape), "settings": asdict(settings), "layers": layers})
    return reports


def distill_file(
    job: Job, settings: distill.Settings, plan: distill.Plan, generated_tokens: int, minutes: float | None, text_folder: Path
) -> distill.Outcome:
    """Distil on the calibration files and on text that the original writes, `generated_tokens` of it, and write the result.

    minutes: how long all of it may take, from the call to the written file; None where settings.steps says how much.
    Errors as `distill` and `generated`.
    """
    start = time.monotonic()
    original, initial, tokenizer = _open(job)
    texts = encode_files(tokenizer, job.calibration)
    vocabulary, length = int(original.config["vocab_size"]), job.length
    sources, held_out = [], None
    if texts:
        cuts = [len(ids) - max(length, len(ids) // HELD_OUT) for ids in texts]
        held_out = windows(
            [ids[cut:] for ids, cut in zip(texts, cuts, strict=True)], HELD_OUT, length, job.seed, tokenizer.bos_id, vocabulary
        )
        kept = [ids[: max(0, cut)] for ids, cut in zip(texts, cuts, strict=True)]
        sources.append(windows(kept, max(1, sum(map(len, kept)) // length), length, job.seed, tokenizer.bos_id, vocabulary))
    if generated_tokens:
        until = None if minutes is None else start + 60 * minutes * TEXT_SHARE
        count = -(-generated_tokens // length) + HELD_OUT
        drawn = _teacher_text(job, original, tokenizer.bos_id, count, settings.precision, plan, until, text_folder)
        held_out = drawn[:HELD_OUT] if held_out is None else held_out
        sources.append(drawn[HELD_OUT:])
    if held_out is None:
        raise InvalidRequestError("distillation needs text: --calibration FILE, --generated-tokens N, or both")
    sequences = np.concatenate(sources)
    deadline = None if minutes is None else start + 60 * minutes
    outcome = distill.distill(original, initial, sequences, held_out, settings, replace(plan, deadline=deadline), job.run_folder)
    facts = {"tokens": outcome.tokens, "steps": outcome.steps, "sequences": list(sequences.shape), "settings": asdict(settings)}
    _write(job, outcome.checkpoint, "distilled", facts)
    return outcome


def _open(job: Job) -> tuple[Checkpoint, Checkpoint, Tokenizer]:
    """Original, start and tokenizer. InvalidRequestError: they are not one model."""
    original, initial = open_checkpoint(job.original), rewrite.open_source(job.start, job.destination)
    known, found = original.provenance.get("source_sha256"), initial.provenance.get("source_sha256")
    if original.config != initial.config or (known and found and known != found):
        raise InvalidRequestError(f"{job.start} was not made from {job.original}; quantize this one: edgellm quantize {job.original}")
    return original, initial, Tokenizer(original.tokenizer_json, original.config)


def _teacher_text(
    job: Job, original: Checkpoint, bos_id: int | None, count: int, precision: str, plan: distill.Plan, until: float | None, folder: Path
) -> Ids:
    teacher = model.teacher(original).to(plan.device)
    name = snapshots.digest({"teacher": original, "precision": precision})
    batch = min(TEXT_BATCH[plan.device], count)
    return generated(
        teacher, folder / name, count=count, length=job.length, batch=batch, seed=job.seed, bos_id=bos_id, precision=precision,
        until=until, progress=job.progress,
    )  # fmt: skip


def _write(job: Job, result: Checkpoint, step: str, facts: dict[str, Any]) -> None:
    origin = dict(result.provenance)
    origin["schemes"] = [*origin.get("schemes", []), step]
    write_tmac2(
        job.destination, replace(result, provenance=origin | {step: facts | {"torch": torch.__version__}, "quality": "not measured"})
    )
