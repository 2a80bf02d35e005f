"""lm-eval's own model `hf`, live, on the requests whose answers the adapter is compared with. `--write` takes a quarter of an hour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import trust
from tests.parity import reference

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

FLOAT32_NOISE = 2e-3
"""In nats, of a hundred tokens summed in another order."""


def hf(model_gguf: Path) -> Any:
    """The float32 model as lm-eval takes it, with SmolLM2's own pre-tokenizer."""
    transformers = pytest.importorskip("transformers")
    models = pytest.importorskip("lm_eval.models.huggingface")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=reference.smollm2_tokenizer(model_gguf), bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    model = reference.causal_lm(model_gguf)
    return models.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, max_length=trust.MAX_LENGTH, device="cpu", dtype="float32")


def test_loglikelihoods(model_gguf: Path, evaluation_data: Path, write: bool) -> None:
    lm = hf(model_gguf)
    endings = [answer for answer, _ in lm.loglikelihood(trust.requests("hellaswag", trust.ITEMS["hellaswag"] if write else 5))]
    if write:
        articles = lm.loglikelihood_rolling(trust.requests("wikitext", trust.ITEMS["wikitext"]))
        trust.write(reference.provenance(model_gguf, "torch", "transformers", "lm-eval"), {"hellaswag": endings, "wikitext": articles})
    np.testing.assert_allclose(endings, trust.golden("hellaswag")[: len(endings)], rtol=0, atol=FLOAT32_NOISE)
