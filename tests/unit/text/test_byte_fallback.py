"""Text of SentencePiece's BPE: byte tokens that make up characters, and the space that stands before every text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.errors import UnsupportedModelError
from edgellm.formats.gguf_tokenizer import tokenizer_json_from_gguf
from edgellm.text.chat import prompt_ids
from edgellm.text.tokenizer import StreamDecoder, Tokenizer
from tests.parity.vocabularies import SYNTHETIC

GOLDEN = Path(__file__).parents[2] / "golden"
RECORDS = [
    (architecture, record)
    for architecture in SYNTHETIC
    for record in json.loads((GOLDEN / f"tokenizer_{architecture}.synthetic.json").read_text())["texts"]
]
BOS = 1


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    return {architecture: Tokenizer(tokenizer_json_from_gguf(keys), {"bos_token_id": BOS}) for architecture, keys in SYNTHETIC.items()}


@pytest.fixture(scope="module")
def llama(tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    """The one that puts a space before every text."""
    return tokenizers["llama"]


def stream(tokenizer: Tokenizer, ids: list[int], after: tuple[int, ...] = ()) -> list[str]:
    decoder = StreamDecoder(tokenizer, after)
    return [decoder.push(i) for i in ids] + [decoder.flush()]


@pytest.mark.parametrize(("architecture", "record"), RECORDS, ids=[f"{name}-{record['text']!a}" for name, record in RECORDS])
def test_ids_and_text_are_those_of_hugging_face(tokenizers: dict[str, Tokenizer], architecture: str, record: dict[str, Any]) -> None:
    tokenizer = tokenizers[architecture]
    ids = tokenizer.encode(record["text"], add_special_tokens=False)
    assert ids == record["ids"]
    assert tokenizer.decode(ids) == "".join(stream(tokenizer, ids)) == record.get("decoded", record["text"])


def test_a_character_comes_when_its_last_byte_does(llama: Tokenizer) -> None:
    ids = llama.encode("the 👍", add_special_tokens=False)
    assert stream(llama, ids) == ["the", " ", "", "", "", "👍", ""]
    assert stream(llama, ids[:-1]) == ["the", " ", "", "", "", "\ufffd"]
    assert stream(llama, [*ids[:-1], ids[0]])[-2:] == ["\ufffd the", ""]


@pytest.mark.parametrize("architecture", SYNTHETIC)
@given(ids=st.lists(st.integers(0, 310), max_size=30))
def test_stream_adds_up_to_decode_for_any_ids(tokenizers: dict[str, Tokenizer], architecture: str, ids: list[int]) -> None:
    assert "".join(stream(tokenizers[architecture], ids)) == tokenizers[architecture].decode(ids)


def test_the_space_before_a_text_is_dropped_where_one_begins(llama: Tokenizer) -> None:
    the, space = (llama.encode(text, add_special_tokens=False) for text in ("the", " the"))
    assert "".join(stream(llama, the)) == "the"
    assert "".join(stream(llama, [BOS, *the])) == "the"
    assert "".join(stream(llama, the, after=(*the, BOS))) == "the"
    assert "".join(stream(llama, the, after=tuple(the))) == " the", "the prompt was text, so this is the space between two words"
    assert "".join(stream(llama, space)) == " the"


def test_a_space_without_a_prefix_is_the_texts_own(tokenizers: dict[str, Tokenizer]) -> None:
    gemma = tokenizers["gemma3"]
    assert "".join(stream(gemma, gemma.encode(" the"))) == " the"


def test_special_tokens_are_text_where_they_are_not_asked_for(llama: Tokenizer) -> None:
    ids = llama.encode("<s>", special=False, add_special_tokens=False)
    assert BOS not in ids
    assert llama.decode(ids) == "<s>"


@pytest.mark.parametrize("steps", [1, 2])
def test_a_space_before_whole_texts_only_is_put_so_in_chats(steps: int) -> None:
    """Metaspace with "first", as newer tokenizer.json have it: pieces of a prompt give what the whole prompt gives."""
    document = json.loads(tokenizer_json_from_gguf(SYNTHETIC["llama"])) | {"normalizer": None}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    document["pre_tokenizer"] = metaspace if steps == 1 else {"type": "Sequence", "pretokenizers": [metaspace]}
    tokenizer = Tokenizer(json.dumps(document), {"bos_token_id": BOS})
    template = "{{ messages[0]['content'] }}<s>{{ messages[0]['content'] }}"
    for content in ("the", " the"):
        messages = [{"role": "user", "content": content}]
        assert prompt_ids(tokenizer, template, messages) == tokenizer.encode(f"{content}<s>{content}", add_special_tokens=False)
    assert tokenizer.decode(tokenizer.encode("the<s>the")) == "thethe"


@pytest.mark.parametrize(
    "change",
    [
        lambda steps: steps[:1],
        lambda steps: [*steps, {"type": "Strip", "content": " ", "start": 1, "stop": 0}],
        lambda steps: [{"type": "Replace", "pattern": {"String": "_"}, "content": " "}, *steps[1:]],
    ],
)
def test_a_decoder_that_does_more_or_less_is_refused(change: Any) -> None:
    document = json.loads(tokenizer_json_from_gguf(SYNTHETIC["llama"]))
    document["decoder"]["decoders"] = change(document["decoder"]["decoders"])
    with pytest.raises(UnsupportedModelError, match="decodes with"):
        Tokenizer(json.dumps(document), {})
