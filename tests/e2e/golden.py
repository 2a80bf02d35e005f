"""What this engine is to say, bit for bit, on every machine: tests/golden/engine.json, made by

    pytest tests/e2e --write-golden

which asks no other implementation. Do it only with a change that is meant to change the logits; the diff is for the review.
The files beside it hold what the reference implementations say, and `nox -s parity -- --write` makes those.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

import edgellm
from edgellm.formats.atomic import replacing
from edgellm.runtime.engine import KVDtype
from edgellm.text import chat

GOLDEN = Path(__file__).parents[1] / "golden"
ENGINE = GOLDEN / "engine.json"

PROMPT = "english"  # 42 tokens
LONG_PROMPT = ("english", "german", "french")  # 143 tokens: more than a default chunk
GREEDY = "The recipe for a good apple pie begins with"
SAMPLED = "Once upon a time"
QUESTION = "What is 2 + 2?"

Prompts = dict[str, list[int]]


def read(path: Path, model_gguf: Path) -> Any:
    """A golden file; an AssertionError, before any hash is compared, if it was made with another model."""
    golden = json.loads(path.read_text())
    assert golden["model_sha256"] == sha256(model_gguf), f"{path.name} was made with another model than {model_gguf}"
    return golden


def write(model_gguf: Path, model_path: Path, prompts: Prompts) -> None:
    """Make engine.json anew, one key a line, so that a diff shows which one changed."""
    engine = edgellm.load(model_path, threads=1)
    short = {
        kv_dtype: edgellm.load(model_path, threads=1, kv_dtype=kv_dtype, context=64).logits(prompts[PROMPT])
        for kv_dtype in get_args(KVDtype)
    }
    long = engine.prefill(joined(prompts)).copy()
    greedy = list(engine.generate(GREEDY, max_tokens=64))
    drawn = {seed: list(engine.generate(SAMPLED, max_tokens=16, temperature=1.0, top_p=0.95, seed=seed)) for seed in (1, 2)}
    question = chat.prompt_ids(engine.tokenizer, engine.chat_template, [{"role": "user", "content": QUESTION}])
    golden = {
        "model_sha256": sha256(model_gguf),
        "logits_sha256": {kv_dtype: digest(logits) for kv_dtype, logits in short.items()},
        "long_prompt_logits_sha256": digest(long),
        "greedy": {"prompt": GREEDY, "text": "".join(token.text for token in greedy), "ids": [token.id for token in greedy]},
        "chat_answer": "".join(token.text for token in engine.generate(question, max_tokens=64)),
        "sampled": {"prompt": SAMPLED} | {f"ids_seed_{seed}": [token.id for token in tokens] for seed, tokens in drawn.items()},
    }
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in golden.items())
    with replacing(ENGINE) as file:  # workers may write at the same time, all the same bytes
        file.write(f"{{\n{lines}\n}}\n".encode())


def digest(logits: npt.NDArray[np.float32]) -> str:
    """SHA-256 of the logits, little-endian."""
    return hashlib.sha256(logits.astype("<f4").tobytes()).hexdigest()


def joined(prompts: Prompts) -> list[int]:
    """The long prompt's token ids."""
    return [token for name in LONG_PROMPT for token in prompts[name]]


@cache
def sha256(path: Path) -> str:
    """Of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
