"""What the reference implementations say, made (`--write`) or compared with what is stored in the golden files."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.conftest import Report
from tests.parity import reference
from tests.parity.corpus import CONVERSATIONS, NASTY, PROMPTS

TESTS = Path(__file__).parents[1]
LOGITS, LOGITS_VALUES = TESTS / "golden/logits.json", TESTS / "golden/logits.npz"
LOGITS_LLAMA_CPP = TESTS / "golden/logits_llama_cpp.json"
TOKENIZER, CHAT = TESTS / "golden/tokenizer.json", TESTS / "golden/chat.json"
PERPLEXITY = TESTS / "quality/golden_perplexity.json"

WINDOWS, WINDOW = 8, 1024

# The same float32 sums in another order: 1e-4 was measured between sdpa and eager attention; other processors order them in other ways.
FLOAT32_NOISE = 1e-3

# The references' own deprecation warnings are not ours to fix.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]


def dump(path: Path, header: dict[str, Any], key: str, records: list[dict[str, Any]]) -> None:
    """JSON with one record a line, so that a diff shows which one changed."""
    head = json.dumps(header, indent=1)[1:-2].strip("\n")
    lines = ",\n".join("  " + json.dumps(record) for record in records)
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'{{\n{head},\n "{key}": [\n{lines}\n ]\n}}\n')


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def test_tokenizer(model_gguf: Path, write: bool) -> None:
    smollm2, as_loaded = reference.smollm2_tokenizer(model_gguf), reference.transformers_tokenizer(model_gguf)
    records = []
    for text in (*PROMPTS.values(), *NASTY):
        ids = smollm2.encode(text).ids
        record = {"text": text, "ids": ids}
        if (decoded := smollm2.decode(ids)) != text:
            record["decoded"] = decoded
        if (other := as_loaded.encode(text)) != ids:
            record["transformers_gguf_ids"] = other
        records.append(record)
    if write:
        header = reference.provenance(model_gguf, "transformers", "tokenizers") | {
            "ids": "Hugging Face tokenizers with SmolLM2's pre-tokenizer: Digits(individual_digits), then ByteLevel; llama.cpp agrees",
            "decoded": "where it is not the text: special tokens are not shown, and bytes that the vocabulary lacks have no ids",
            "transformers_gguf_ids": "where it differs, not followed: transformers' GGUF loader leaves Digits out",
        }
        dump(TOKENIZER, header, "texts", records)
    assert load(TOKENIZER)["texts"] == records


def test_llama_cpp_tokenizes_alike(model_gguf: Path) -> None:
    """The corpus, and pieces of it put together anew: the reference that we follow and llama.cpp give the same ids."""
    pieces, choose = [text[i : i + 7] for text in NASTY for i in range(0, len(text), 7)], random.Random(0)
    mixed = ["".join(choose.choices(pieces, k=choose.randint(1, 6))) for _ in range(2000)]
    smollm2 = reference.smollm2_tokenizer(model_gguf)
    with reference.llama_cpp(model_gguf, vocab_only=True) as llama:
        for text in (*PROMPTS.values(), *NASTY, *mixed):
            assert smollm2.encode(text).ids == reference.llama_cpp_ids(llama, text), text


def test_chat_template(model_gguf: Path, write: bool) -> None:
    tokenizer = reference.transformers_tokenizer(model_gguf)
    records = [
        {
            "name": name,
            "messages": messages,
            "text": tokenizer.apply_chat_template(messages, tokenize=False),
            "prompt": tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True),
        }
        for name, messages in CONVERSATIONS.items()
    ]
    if write:
        dump(CHAT, reference.provenance(model_gguf, "transformers", "jinja2"), "conversations", records)
    assert load(CHAT)["conversations"] == records


def test_logits(model_gguf: Path, write: bool, report: Report) -> None:
    tokenizer = reference.smollm2_tokenizer(model_gguf)
    model = reference.causal_lm(model_gguf)
    records, position = [], 0
    values: dict[str, npt.NDArray[Any]] = {}
    for name, text in PROMPTS.items():
        ids = tokenizer.encode(text).ids
        records.append({"name": name, "text": text, "ids": ids})
        logits_LV = reference.causal_lm_logits(model, ids)
        best = np.argsort(-logits_LV, axis=-1, kind="stable")[:, : reference.TOP]
        start = (position + np.arange(len(ids))) % reference.STRIDE
        sample = start[:, None] + np.arange(0, logits_LV.shape[1], reference.STRIDE)
        position += len(ids)
        values |= {
            f"{name}.top_ids": best.astype(np.uint16),
            f"{name}.top_logits": np.take_along_axis(logits_LV, best, axis=-1),
            f"{name}.sample_start": start.astype(np.uint16),
            f"{name}.sample_logits": np.take_along_axis(logits_LV, sample, axis=-1),
            f"{name}.logsumexp": reference.logsumexp(logits_LV),
        }
    assert position >= reference.STRIDE
    if write:
        dump(LOGITS, reference.provenance(model_gguf, "torch", "transformers", "numpy"), "prompts", records)
        np.savez_compressed(LOGITS_VALUES, allow_pickle=False, **values)
    assert load(LOGITS)["prompts"] == records
    stored = np.load(LOGITS_VALUES)
    assert set(stored) == set(values)
    worst = 0.0
    for key, fresh in values.items():
        if key.endswith("sample_start"):
            np.testing.assert_array_equal(fresh, stored[key])
        elif not key.endswith("top_ids"):
            worst = max(worst, float(np.abs(fresh - stored[key]).max()))
            np.testing.assert_allclose(fresh, stored[key], rtol=0, atol=FLOAT32_NOISE, err_msg=key)
    report("references", f"live transformers against the golden: max |dlogit| {worst:.1e}", max_abs_dlogit=worst)


def test_logits_of_llama_cpp(model_gguf: Path, write: bool) -> None:
    """How far llama.cpp, which quantizes the activations as well, is from float32: the yardstick for our own distance."""
    tokenizer, model = reference.smollm2_tokenizer(model_gguf), reference.causal_lm(model_gguf)
    prompts = [tokenizer.encode(text).ids for text in PROMPTS.values()]
    with reference.llama_cpp(model_gguf, n_ctx=128, n_batch=128, n_threads=1, logits_all=True) as llama:
        theirs = np.concatenate([reference.llama_cpp_logits(llama, ids) for ids in prompts])
    exact = np.concatenate([reference.causal_lm_logits(model, ids) for ids in prompts])
    distance = {
        "max_abs_dlogit": float(np.abs(theirs - exact).max()),
        "rms_dlogit": float(np.sqrt(np.mean((theirs - exact) ** 2))),
        "top1_agreement": float(np.mean(theirs.argmax(axis=-1) == exact.argmax(axis=-1))),
    }
    if write:
        golden = reference.provenance(model_gguf, "llama-cpp-python", "transformers") | distance
        LOGITS_LLAMA_CPP.write_text(json.dumps(golden, indent=1) + "\n")
    golden = load(LOGITS_LLAMA_CPP)
    for key, value in distance.items():
        assert value == pytest.approx(golden[key], rel=0.2), key


@pytest.fixture(scope="module")
def wikitext2_test(evaluation_data: Path) -> bytes:
    return gzip.decompress((evaluation_data / "wikitext2_test.raw.txt.gz").read_bytes())


def check_perplexity(
    text: bytes, tokenizer: Any, write: bool, name: str, nll_of: Callable[[list[int]], float], noise: float, made_by: Any
) -> None:
    """Mean NLL of the first windows: the whole text tokenized once, cut every 1024 tokens, no BOS, 1023 targets each."""
    ids = tokenizer.encode(text.decode()).ids[: WINDOWS * WINDOW]
    nll = [nll_of(ids[i : i + WINDOW]) for i in range(0, len(ids), WINDOW)]
    what = {
        "text_sha256": hashlib.sha256(text).hexdigest(),
        "ids_sha256": hashlib.sha256(np.array(ids, "<i4").tobytes()).hexdigest(),
        "window_tokens": WINDOW,
    }
    if write:
        golden = load(PERPLEXITY) if PERPLEXITY.exists() else {}
        PERPLEXITY.write_text(json.dumps(golden | what | {name: {"mean_nll": nll} | made_by}, indent=1) + "\n")
    golden = load(PERPLEXITY)
    assert {key: golden[key] for key in what} == what
    np.testing.assert_allclose(nll, golden[name]["mean_nll"], rtol=0, atol=noise)


def test_perplexity_of_transformers(model_gguf: Path, wikitext2_test: bytes, write: bool) -> None:
    model, made_by = reference.causal_lm(model_gguf), reference.provenance(model_gguf, "torch", "transformers")

    def nll_of(ids: list[int]) -> float:
        return reference.mean_nll(reference.causal_lm_logits(model, ids), ids)

    check_perplexity(wikitext2_test, reference.smollm2_tokenizer(model_gguf), write, "transformers", nll_of, 1e-4, made_by)


def test_perplexity_of_llama_cpp(model_gguf: Path, wikitext2_test: bytes, write: bool) -> None:
    """Its tolerance is wider: it quantizes the activations, and rounds otherwise on another instruction set."""
    made_by = reference.provenance(model_gguf, "llama-cpp-python")
    with reference.llama_cpp(model_gguf, n_ctx=WINDOW, n_batch=WINDOW, n_threads=1, logits_all=True) as llama:

        def nll_of(ids: list[int]) -> float:
            return reference.mean_nll(reference.llama_cpp_logits(llama, ids), ids)

        check_perplexity(wikitext2_test, reference.smollm2_tokenizer(model_gguf), write, "llama_cpp", nll_of, 1e-2, made_by)
