"""The real models of the catalogue: what transformers and llama.cpp say of them, made (`--write`) or compared with the golden files.

transformers computes in float32 with the weights of our own model file, dequantised, so that what is left between it and the engine is the
forward pass; that our reader takes the right weights from the GGUF is a test of its own, against transformers' GGUF loader. llama.cpp runs
the GGUF as it was published.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgellm.formats import fetch, open_checkpoint
from edgellm.formats.matrix import QuantizedMatrix
from tests.catalogue_models import GOLDEN, GOLDEN_LOGITS, GREEDY_TOKENS, PROMPTS, RECIPES, WINDOW, WINDOWS, converted, sampled_ids, windows
from tests.parity import corpus, reference

F32 = npt.NDArray[np.float32]
FLOAT32_NOISE = 1e-3
LLAMA_CPP_NOISE = 1e-2
"""Of a window's mean NLL: it quantizes activations, and rounds otherwise on another instruction set."""

pytestmark = [pytest.mark.parity, pytest.mark.models, pytest.mark.filterwarnings("default")]


@pytest.fixture(params=RECIPES)
def name(request: pytest.FixtureRequest) -> str:
    """A model of the catalogue."""
    return str(request.param)


@pytest.fixture
def gguf_path(name: str) -> Path:
    return fetch.pull(name, progress=False)


def dequantized(tensor: Any) -> F32:
    return tensor.dequantize() if isinstance(tensor, QuantizedMatrix) else np.asarray(tensor, np.float32)


def in_hf_form(path: Path) -> Iterator[tuple[str, F32]]:
    """The dequantised tensors as Hugging Face stores them: Gemma's norms less 1."""
    checkpoint = open_checkpoint(path)
    for key, tensor in checkpoint.tensors.items():
        weights = dequantized(tensor)
        yield key, weights - 1 if checkpoint.config["model_type"] == "gemma3_text" and weights.ndim == 1 else weights


def test_transformers_reads_the_same_weights(gguf_path: Path) -> None:
    torch = pytest.importorskip("torch")
    theirs = reference.causal_lm(gguf_path).state_dict()
    for key, weights in in_hf_form(gguf_path):
        np.testing.assert_array_equal(weights, theirs[key].to(torch.float32).numpy(), err_msg=key)


@pytest.fixture
def model(name: str) -> Any:
    """transformers' model of our file's weights, in float32."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.set_num_threads(1)
    path = converted(name)
    keys = open_checkpoint(path).config
    config = transformers.AutoConfig.for_model(**keys)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    left = model.load_state_dict({key: torch.from_numpy(weights.copy()) for key, weights in in_hf_form(path)}, strict=False)
    assert left.unexpected_keys == []
    assert left.missing_keys == (["lm_head.weight"] if keys["tie_word_embeddings"] else [])
    return model.eval()


def greedy(model: Any, ids: list[int]) -> list[int]:
    """The prompt and the most likely tokens after it, whether or not one of them ends a text."""
    torch = pytest.importorskip("torch")
    text, cache, fresh = list(ids), None, list(ids)
    with torch.inference_mode():
        for _ in range(GREEDY_TOKENS):
            out = model(torch.tensor([fresh]), past_key_values=cache, use_cache=True)
            cache, fresh = out.past_key_values, [int(out.logits[0, -1].argmax())]
            text += fresh
    return text


def test_greedy_text_and_logits(name: str, gguf_path: Path, model: Any, write: bool) -> None:
    with reference.llama_cpp(gguf_path, vocab_only=True) as llama:
        prompts = {key: list(llama.tokenize(corpus.PROMPTS[key].encode())) for key in PROMPTS}  # with BOS where the model wants it
    records: list[dict[str, Any]] = []
    values: dict[str, npt.NDArray[Any]] = {}
    for key, prompt in prompts.items():
        ids = greedy(model, prompt)
        logits_LV = reference.causal_lm_logits(model, ids)
        best = np.argsort(-logits_LV, axis=-1, kind="stable")[:, : reference.TOP]
        others = np.stack([sampled_ids(position, logits_LV.shape[1]) for position in range(len(ids))])
        records.append({"prompt": key, "prompt_tokens": len(prompt), "ids": ids})
        values |= {
            f"{key}.top_ids": best.astype(np.int32),
            f"{key}.top_logits": np.take_along_axis(logits_LV, best, axis=-1),
            f"{key}.sample_logits": np.take_along_axis(logits_LV, others, axis=-1),
        }
    path = GOLDEN_LOGITS.with_name(GOLDEN_LOGITS.name.format(name=name))
    if write:
        update(name, reference.provenance(gguf_path, "torch", "transformers") | {"greedy": records})
        np.savez_compressed(path, allow_pickle=False, **values)
    assert load(name)["greedy"] == records
    stored = np.load(path)
    for key, fresh in values.items():
        if not key.endswith("top_ids"):
            np.testing.assert_allclose(fresh, stored[key], rtol=0, atol=FLOAT32_NOISE, err_msg=key)


def test_perplexity_of_llama_cpp(name: str, gguf_path: Path, evaluation_data: Path, write: bool) -> None:
    text = gzip.decompress((evaluation_data / "wikitext2_test.raw.txt.gz").read_bytes())
    with reference.llama_cpp(gguf_path, n_ctx=WINDOW, n_batch=WINDOW, n_threads=1, logits_all=True) as llama:
        bos = next(iter(llama.tokenize(b"")), None)  # what comes before every text, if anything does
        ids = windows(reference.llama_cpp_ids(llama, text.decode()[: 16 * WINDOWS * WINDOW]), bos)
        cut = [ids[i : i + WINDOW] for i in range(0, len(ids), WINDOW)]
        nll = [reference.mean_nll(reference.llama_cpp_logits(llama, some), some) for some in cut]
    what = {
        "windows": WINDOWS,
        "window_tokens": WINDOW,
        "bos": bos,
        "ids_sha256": hashlib.sha256(np.array(ids, "<i4").tobytes()).hexdigest(),
    }
    if write:
        update(name, {"perplexity": what | {"llama_cpp_nll": nll} | reference.provenance(gguf_path, "llama-cpp-python")})
    golden = load(name)["perplexity"]
    assert {key: golden[key] for key in what} == what
    np.testing.assert_allclose(nll, golden["llama_cpp_nll"], rtol=0, atol=LLAMA_CPP_NOISE)


def load(name: str) -> Any:
    return json.loads(GOLDEN.read_text())[name]


def update(name: str, content: dict[str, Any]) -> None:
    """Store what a reference says of a model beside what is known of it already."""
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    golden[name] = golden.get(name, {}) | content
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
