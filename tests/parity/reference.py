"""The reference implementations, live: transformers in float32 on the dequantised weights, and llama.cpp.

Nothing of edgellm is imported here, so a mistake in our GGUF reader cannot hide itself: transformers reads the file with its own loader.
torch, transformers, accelerate and llama-cpp-python are imported when first asked for; a test that needs a missing one is skipped.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

F32 = npt.NDArray[np.float32]

TOP = 5
"""Best tokens recorded for each position."""

STRIDE = 384
"""Position p, counted over all prompts, records the logits of tokens p mod 384, + 384, ...: 384 positions see the whole vocabulary."""


def provenance(model_gguf: Path, *packages: str) -> dict[str, Any]:
    """What a golden came from: the model's sha256 and the version of each package."""
    return {"model_sha256": sha256(model_gguf), "versions": {name: version(name) for name in packages}}


@cache
def sha256(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def transformers_tokenizer(model_gguf: Path) -> Any:
    """What AutoTokenizer makes of the GGUF: SmolLM2's vocabulary, merges and template, but a generic GPT-2 pre-tokenizer."""
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(model_gguf.parent, gguf_file=model_gguf.name)


@cache
def smollm2_tokenizer(model_gguf: Path) -> Any:
    """The same with the pre-tokenizer of SmolLM2's own tokenizer.json, which a GGUF only names ("smollm"): this is the one to follow."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_str(transformers_tokenizer(model_gguf).backend_tokenizer.to_str())
    pre = tokenizers.pre_tokenizers
    tokenizer.pre_tokenizer = pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False, use_regex=True)])
    return tokenizer


@cache
def tokenizer_of_gguf(path: Path) -> Any:
    """`tokenizers.Tokenizer` as transformers makes it of a GGUF, with what the model's own tokenizer.json has and this conversion lacks.

    Llama 2: a space before each stretch of text, even one that begins with a space; the conversion takes the newer Metaspace for all.
    Phi-3: special tokens swallow the white space behind them, and </s> is none. Qwen: NFC. StarCoder, Refact: single digits.
    GPT-2's class adds <|endoftext|>, also where there is none.
    """
    pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer, get_gguf_tokenizer

    architecture, parts, _ = get_gguf_tokenizer(str(path))
    converted, _ = convert_gguf_tokenizer(architecture, parts)
    document = json.loads(converted.to_str())
    pre, size = parts.get("pre_tokenizer_type"), len(parts["tokens"])
    document["added_tokens"] = [token for token in document["added_tokens"] if token["id"] < size]
    if architecture == "llama" and parts["tokenizer_type"] == "llama":
        spaces = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
        document |= {"pre_tokenizer": None, "normalizer": {"type": "Sequence", "normalizers": spaces}}
    if architecture == "phi3":
        for token in document["added_tokens"]:
            token["rstrip"] = token["content"] not in ("<unk>", "<s>", "<|endoftext|>")
            token["special"] = token["content"] != "</s>"
    if pre == "qwen2":
        document["normalizer"] = {"type": "NFC"}
    if pre in ("starcoder", "refact"):
        digits = {"type": "Digits", "individual_digits": True}
        document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, document["pre_tokenizer"]]}
    return tokenizers.Tokenizer.from_str(json.dumps(document))


def llama_cpp(model_gguf: Path, **settings: Any) -> closing[Any]:
    """A llama.cpp model, to be used in a `with`: its own destructor fails when the interpreter ends."""
    module = pytest.importorskip("llama_cpp")
    return closing(module.Llama(str(model_gguf), verbose=False, **settings))


def llama_cpp_ids(llama: Any, text: str) -> list[int]:
    """llama.cpp's token ids, special tokens parsed, no BOS."""
    return list(llama.tokenize(text.encode(), add_bos=False, special=True))


def llama_cpp_logits(llama: Any, ids: list[int]) -> F32:
    """float32 [L, V] of llama.cpp on the quantized weights; the model was opened with logits_all=True."""
    llama.reset()
    llama.eval(ids)
    return np.array(llama.scores[: len(ids)])


@cache
def causal_lm(model_gguf: Path) -> Any:
    """LlamaForCausalLM in float32, loaded from the GGUF by transformers."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    torch.set_num_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        model_gguf.parent, gguf_file=model_gguf.name, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def causal_lm_logits(model: Any, ids: list[int]) -> F32:
    """float32 [L, V] of the float32 model."""
    torch = pytest.importorskip("torch")
    with torch.inference_mode():
        result: F32 = model(torch.tensor([ids])).logits[0].numpy()
    return result


def logsumexp(logits_LV: F32) -> npt.NDArray[np.float64]:
    """log sum exp over the vocabulary, float64 [L]."""
    wide = logits_LV.astype(np.float64)
    peak = wide.max(axis=-1, keepdims=True)
    total: npt.NDArray[np.float64] = np.log(np.exp(wide - peak).sum(axis=-1)) + peak[:, 0]
    return total


def mean_nll(logits_LV: F32, ids: list[int]) -> float:
    """Mean negative log-likelihood, in nats, of ids[1:] given what stands before each."""
    targets = np.asarray(ids[1:])
    picked = logits_LV[np.arange(len(targets)), targets]
    return float(np.mean(logsumexp(logits_LV[:-1]) - picked))
