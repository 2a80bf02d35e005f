"""Tokenizer, chat template and generated text of the real model, against what the reference implementations said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import edgellm
from edgellm.errors import ContextOverflowError
from edgellm.runtime.engine import Engine
from edgellm.text import chat
from edgellm.text.tokenizer import StreamDecoder
from tests.e2e.golden import GOLDEN

TEXTS = json.loads((GOLDEN / "tokenizer.json").read_text())["texts"]
CONVERSATIONS = json.loads((GOLDEN / "chat.json").read_text())["conversations"]


@pytest.mark.parametrize("record", TEXTS, ids=[ascii(record["text"][:24]) for record in TEXTS])
def test_tokens_are_those_of_the_reference_tokenizers(engine: Engine, record: dict[str, Any]) -> None:
    ids = engine.tokenizer.encode(record["text"])
    assert ids == record["ids"]
    text = record.get("decoded", record["text"])
    assert engine.tokenizer.decode(ids) == text
    stream = StreamDecoder(engine.tokenizer)
    assert "".join(map(stream.push, ids)) + stream.flush() == text


@pytest.mark.parametrize("record", CONVERSATIONS, ids=[record["name"] for record in CONVERSATIONS])
def test_chat_prompts_are_those_of_transformers(engine: Engine, record: dict[str, Any]) -> None:
    messages = record["messages"]
    assert chat.render(engine.chat_template, messages, "<|im_start|>", "<|im_end|>") == record["prompt"]
    assert chat.render(engine.chat_template, messages, "<|im_start|>", "<|im_end|>", add_generation_prompt=False) == record["text"]
    ids = chat.prompt_ids(engine.tokenizer, engine.chat_template, messages)
    spoofed = any("<|im_end|>" in message["content"] for message in messages)  # no special token, where the rendered text has one
    assert (ids == engine.tokenizer.encode(record["prompt"])) is not spoofed


def test_greedy_text_is_golden(engine: Engine, engine_golden: Any) -> None:
    golden = engine_golden["greedy"]
    generation = engine.generate(golden["prompt"], max_tokens=len(golden["ids"]))
    tokens = list(generation)
    assert "".join(token.text for token in tokens) == golden["text"]
    assert [token.id for token in tokens] == golden["ids"]
    assert generation.finish_reason == "length"


def test_chat_answer_is_golden(engine: Engine, engine_golden: Any) -> None:
    question = CONVERSATIONS[0]["messages"]
    generation = engine.generate(chat.prompt_ids(engine.tokenizer, engine.chat_template, question), max_tokens=64)
    assert "".join(token.text for token in generation) == engine_golden["chat_answer"]
    assert generation.finish_reason == "stop"


def test_sampled_text_depends_on_the_seed_alone(engine: Engine, engine_golden: Any) -> None:
    golden = engine_golden["sampled"]
    drawn = [list(engine.generate(golden["prompt"], max_tokens=16, temperature=1.0, top_p=0.95, seed=seed)) for seed in (1, 2, 1)]
    assert [[token.id for token in tokens] for tokens in drawn] == [golden["ids_seed_1"], golden["ids_seed_2"], golden["ids_seed_1"]]


def test_a_full_context_is_an_error_and_keeps_the_cache(model_path: Path, prompts: dict[str, list[int]]) -> None:
    small = edgellm.load(model_path, threads=1, context=16)
    ids = prompts["english"][:17]
    small.prefill(ids[:4])
    with pytest.raises(ContextOverflowError, match=r"17 tokens.*16"):
        small.prefill(ids)
    assert small.cached_tokens == tuple(ids[:4])
    small.prefill(ids[:16])
    with pytest.raises(ContextOverflowError, match="16"):
        small.decode(ids[16])
    generation = small.generate(ids[:14], max_tokens=64)
    assert len(list(generation)) == 3, "two more fit, and the last one sampled needs no room"
    assert generation.finish_reason == "context"
