"""Tokenizers of published models of other families against what the reference implementations said; those that were pulled."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgellm.errors import EdgeLLMError
from edgellm.formats import fetch
from edgellm.formats.gguf import map_file
from edgellm.formats.gguf_header import parse_header
from edgellm.formats.gguf_tokenizer import tokenizer_json_from_gguf
from edgellm.text.tokenizer import StreamDecoder, Tokenizer
from tests.e2e.golden import GOLDEN


@pytest.fixture(scope="module", params=["gemma-3-270m", "qwen2.5-coder-0.5b"])
def records(request: pytest.FixtureRequest) -> tuple[Tokenizer, list[dict[str, Any]]]:
    """A model's tokenizer, and texts with the ids that they have."""
    try:
        path = fetch.resolve_source(request.param)
    except EdgeLLMError as error:
        pytest.skip(str(error))
    tokenizer = Tokenizer(tokenizer_json_from_gguf(parse_header(map_file(path), path).metadata), {})
    return tokenizer, json.loads((GOLDEN / f"tokenizer_{request.param}.json").read_text())["texts"]


def test_tokens_are_those_of_hugging_face(records: tuple[Tokenizer, list[dict[str, Any]]]) -> None:
    tokenizer, texts = records
    for record in texts:
        ids = tokenizer.encode(record["text"], add_special_tokens=False)
        assert ids == record["ids"], record["text"]
        stream = StreamDecoder(tokenizer)
        assert tokenizer.decode(ids) == "".join(map(stream.push, ids)) + stream.flush() == record.get("decoded", record["text"])
