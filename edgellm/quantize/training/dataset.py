"""The sequences that a model is distilled on: of calibration files, and of the text that the original writes, packed to one length.

A run keeps its data in its folder: what the teacher had time to write is then the same when the run goes on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from edgellm.errors import InvalidRequestError
from edgellm.formats.checkpoint import Checkpoint
from edgellm.quantize.training import model, snapshots
from edgellm.quantize.training.teacher_text import generated
from edgellm.quantize.training.tokens import Ids, windows

HELD_OUT = 16
"""Sequences that the model is evaluated on and not trained on: of the last sixteenth of each file, or else of the teacher's text."""
TEXT_BATCH = {"cpu": 8, "cuda": 1024}
"""Sequences that the teacher writes together."""


@dataclass(frozen=True)
class Request:
    """What data are wanted.

    length: tokens of a sequence; generated_tokens: so many are to be the teacher's, computed in `precision`
    """

    length: int
    generated_tokens: int
    bos_id: int | None
    seed: int
    precision: str


def dataset(
    original: Checkpoint,
    texts: list[Ids],
    request: Request,
    run_folder: Path,
    text_folder: Path,
    device: str,
    until: float | None,
    progress: bool,
) -> tuple[Ids, Ids]:
    """Sequences [S, L] to train on and others to evaluate on. The teacher's text is looked for in, and added to, `text_folder`.

    until: a time.monotonic() after which the teacher begins no further batch. InvalidRequestError: there is no text, or too little.
    """
    name = snapshots.digest(asdict(request) | {f"text {i}": ids for i, ids in enumerate(texts)} | {"original": original.provenance})
    path = run_folder / "data.safetensors"
    if path.exists():
        found, _ = snapshots.read(path, name)
        return found["sequences"].numpy().astype(np.int64), found["held_out"].numpy().astype(np.int64)
    parts, held_out = _of_files(original, texts, request) if texts else ([], None)
    if request.generated_tokens:
        written = _of_teacher(original, request, text_folder, device, until, progress)
        cut = HELD_OUT if held_out is None else 0
        held_out = written[:cut] if held_out is None else held_out
        parts.append(written[cut:])
    if held_out is None:
        raise InvalidRequestError("distillation needs text: of files, written by the original, or both")
    sequences = np.concatenate(parts)
    arrays = {"sequences": sequences, "held_out": held_out}
    snapshots.write(path, {key: torch.from_numpy(ids.astype(np.int32)) for key, ids in arrays.items()}, name, {})
    return sequences, held_out


def _of_files(original: Checkpoint, texts: list[Ids], request: Request) -> tuple[list[Ids], Ids]:
    length, vocabulary = request.length, int(original.config["vocab_size"])
    cuts = [max(0, len(ids) - max(length, len(ids) // 16)) for ids in texts]
    ends = [ids[cut:] for ids, cut in zip(texts, cuts, strict=True)]
    rest = [ids[:cut] for ids, cut in zip(texts, cuts, strict=True)]
    held_out = windows(ends, HELD_OUT, length, request.seed, request.bos_id, vocabulary)
    count = max(1, sum(map(len, rest)) // length)
    return [windows(rest, count, length, request.seed, request.bos_id, vocabulary)], held_out


def _of_teacher(original: Checkpoint, request: Request, text_folder: Path, device: str, until: float | None, progress: bool) -> Ids:
    teacher = model.teacher(original).to(device)
    count = -(-request.generated_tokens // request.length) + HELD_OUT
    return generated(
        teacher,
        text_folder / snapshots.digest({"teacher": original, "precision": request.precision}),
        count=count,
        length=request.length,
        batch=min(TEXT_BATCH[device], count),
        seed=request.seed,
        bos_id=request.bos_id,
        precision=request.precision,
        until=until,
        progress=progress,
    )
