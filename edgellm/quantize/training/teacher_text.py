"""Text that the original model writes itself, to distil it on: as much as is wanted, and of the distribution that it was trained on.

Sequences begin with BOS or with any token and are drawn from the whole softmax (as in LLM-QAT, Liu et al., 2023), all of one length: after
an end token the model goes on with whatever it thinks comes next. A batch is drawn by a seed of its own and kept on disk as soon as it is
whole, under a name that says the model, the length and the seed, so no run pays for it twice.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from edgellm.errors import InvalidRequestError
from edgellm.formats.atomic import replacing
from edgellm.quantize.training.numerics import autocast
from edgellm.quantize.training.tokens import Ids


def generated(
    model: Any, folder: Path, *, count: int, length: int, batch: int, seed: int, bos_id: int | None, precision: str,
    until: float | None = None, progress: bool = True,
) -> Ids:  # fmt: skip
    """At least `count` sequences [S, length], `batch` at a time, from `folder` as far as it has them.

    until: a time.monotonic() after which no further batch is begun, so that there may be fewer; but there is always one.
    FetchError: the disk is full. InvalidRequestError: a kept batch is broken.
    """
    batches = -(-count // batch)
    found: list[Ids] = []
    with tqdm(total=batches * batch * length, unit="token", unit_scale=True, desc="teacher's text", disable=not progress) as bar:
        for number in range(batches):
            path = folder / f"batch-{number:05}-{batch}x{length}-seed{seed}.npy"
            if path.exists():
                found.append(_read(path, (batch, length)))
            elif found and until is not None and time.monotonic() > until:
                break
            else:
                found.append(_draw(model, batch, length, (seed, number), bos_id, precision))
                with replacing(path, "free some, or ask for less text") as file:
                    np.save(file, found[-1].astype(np.int32))
            bar.update(batch * length)
    return np.concatenate(found)


def _read(path: Path, shape: tuple[int, int]) -> Ids:
    try:
        ids = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidRequestError(f"{path} cannot be read: {error}; delete it to have it drawn again") from error
    if ids.shape != shape:
        raise InvalidRequestError(f"{path} holds {ids.shape}, not {shape}; delete it to have it drawn again")
    return ids.astype(np.int64)


def _draw(model: Any, batch: int, length: int, seed: tuple[int, int], bos_id: int | None, precision: str) -> Ids:
    """One batch of sequences."""
    rng = np.random.default_rng(seed)
    first = rng.integers(model.config.vocab_size, size=(batch, 1))
    if bos_id is not None:
        first[::2] = bos_id
    device = model.device
    generator = torch.Generator(device).manual_seed(int(rng.integers(1 << 62)))
    ids = torch.from_numpy(first).to(device)
    drawn, cache = [ids], None
    with torch.no_grad(), autocast(precision, device.type):
        for _ in range(length - 1):
            output = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            ids = torch.multinomial(output.logits[:, -1].float().softmax(dim=-1), 1, generator=generator)
            drawn.append(ids)
    return torch.cat(drawn, dim=1).cpu().numpy()
