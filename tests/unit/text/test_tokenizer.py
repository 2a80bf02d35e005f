from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.errors import EdgeLLMError, InvalidRequestError, ModelFileError, UnsupportedModelError
from edgellm.text.tokenizer import StreamDecoder, Tokenizer

NASTY = [
    "",
    " ",
    "   hi",
    "hi 12\n\n\t",
    "naïve e\u0301",
    "日本語",
    "👩‍👩‍👧‍👦🇩🇪",
    "\x00\x1d\x7f",
    "\u2028\ufeff\U0010ffff",
    "a\r\nb",
    "<|im_en",
    "١٢½",
]


def stream(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = StreamDecoder(tokenizer)
    return [decoder.push(i) for i in ids] + [decoder.flush()]


@pytest.mark.parametrize("text", NASTY)
def test_decode_undoes_encode(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_read_only_on_request(tokenizer: Tokenizer) -> None:
    text = "<|im_start|>hi<|im_end|>"
    assert tokenizer.encode(text) == [0, *tokenizer.encode("hi"), 1]
    as_text = tokenizer.encode(text, special=False)
    assert not {0, 1} & set(as_text)
    assert tokenizer.decode(as_text) == text
    assert tokenizer.decode(tokenizer.encode(text)) == "hi"


def test_split_special_keeps_every_character(tokenizer: Tokenizer) -> None:
    assert tokenizer.split_special("<|im_start|>日本 <user>\n<|im_end|><|im_end|>x") == [0, "日本 <user>\n", 1, 1, "x"]
    assert tokenizer.split_special("") == []


def test_post_processor_adds_its_tokens_unless_asked_not_to(tokenizer_json: str) -> None:
    document = json.loads(tokenizer_json)
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [0], "tokens": ["<|im_start|>"]}},
    }
    with_bos = Tokenizer(json.dumps(document), {})
    assert with_bos.encode("h")[0] == 0
    assert with_bos.encode("h")[1:] == with_bos.encode("h", add_special_tokens=False)


def test_truncation_in_the_file_is_ignored(tokenizer_json: str) -> None:
    document = json.loads(tokenizer_json)
    document["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    assert len(Tokenizer(json.dumps(document), {}).encode("abcdef")) == 6


def test_random_merges_are_refused(tokenizer_json: str) -> None:
    document = json.loads(tokenizer_json)
    document["model"]["dropout"] = 0.1
    with pytest.raises(UnsupportedModelError, match="at random"):
        Tokenizer(json.dumps(document), {})


def test_ids_of_the_config(tokenizer_json: str) -> None:
    assert Tokenizer(tokenizer_json, {}).bos_id is None
    assert Tokenizer(tokenizer_json, {}).eos_ids == frozenset()
    assert Tokenizer(tokenizer_json, {"bos_token_id": 0, "eos_token_id": [1, 5]}).eos_ids == {1, 5}
    for wrong in (-1, 10**6, "1", [1, None]):
        with pytest.raises(ModelFileError, match="eos_token_id"):
            Tokenizer(tokenizer_json, {"eos_token_id": wrong})


def test_token_bytes(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_bytes(tokenizer.encode(" hi")[0]) == b" hi"
    assert tokenizer.token_bytes(1) == b"<|im_end|>"
    assert {tokenizer.token_bytes(i) for i in range(3, 259)} == {bytes([byte]) for byte in range(256)}
    for wrong in (-1, tokenizer.vocab_size, 2**40):
        with pytest.raises(InvalidRequestError, match=str(wrong)):
            tokenizer.token_bytes(wrong)


def test_text_that_is_not_unicode_is_refused(tokenizer: Tokenizer) -> None:
    for method in (tokenizer.encode, tokenizer.split_special):
        with pytest.raises(InvalidRequestError, match="not UTF-8"):
            method("a\udc80")


@pytest.mark.parametrize("kind", [{"type": "BPE", "merges": []}, {"type": "WordLevel"}])
def test_a_tokenizer_that_fails_at_some_texts_only(tokenizer_json: str, kind: dict[str, Any]) -> None:
    document = json.loads(tokenizer_json) | {"model": {"vocab": {"a": 0}, "unk_token": "<unk>", **kind}}
    document |= {"added_tokens": [], "pre_tokenizer": None}
    tokenizer = Tokenizer(json.dumps(document), {})
    assert tokenizer.encode("a") == [0]
    for method in (tokenizer.encode, tokenizer.split_special):
        with pytest.raises(ModelFileError, match="cannot encode the text"):
            method("b")


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"model":1}', "[" * 100_000])
def test_a_broken_tokenizer_is_refused(text: str) -> None:
    with pytest.raises(ModelFileError, match=r"tokenizer\.json cannot be read"):
        Tokenizer(text, {})


def test_a_tokenizer_that_fails_only_when_it_encodes_is_refused(tokenizer_json: str) -> None:
    document = json.loads(tokenizer_json)
    piece = {"SpecialToken": {"id": "undefined", "type_id": 0}}
    document["post_processor"] = {"type": "TemplateProcessing", "single": [piece], "pair": [piece], "special_tokens": {}}
    with pytest.raises(ModelFileError, match=r"tokenizer\.json cannot be read"):
        Tokenizer(json.dumps(document), {})


def test_another_decoder_is_refused(tokenizer_json: str) -> None:
    document = json.loads(tokenizer_json) | {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}
    with pytest.raises(UnsupportedModelError, match="WordPiece.*ByteLevel"):
        Tokenizer(json.dumps(document), {})


def test_a_mutated_tokenizer_is_refused_or_works(tokenizer_json: str) -> None:
    document = json.loads(tokenizer_json)
    document["model"]["vocab"] = {token: i for token, i in document["model"]["vocab"].items() if i < 3}
    document["model"]["merges"] = []
    text = json.dumps(document)
    rng = random.Random(7)
    for _ in range(2000):
        mutated = list(text)
        for _ in range(rng.randint(1, 3)):
            mutated[rng.randrange(len(mutated))] = rng.choice('0123456789{}[]",:abnultrefs- ')
        try:
            Tokenizer("".join(mutated), {}).encode("hi <|im_end|>é")
        except EdgeLLMError:
            continue


@pytest.mark.parametrize("text", NASTY)
def test_stream_never_splits_a_character(tokenizer: Tokenizer, text: str) -> None:
    pieces = stream(tokenizer, tokenizer.encode(text))
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)


@given(ids=st.lists(st.integers(0, 262), max_size=40))
def test_stream_adds_up_to_decode_for_any_ids(tokenizer: Tokenizer, ids: list[int]) -> None:
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)


def test_ids_that_pad_a_models_logits_show_nothing(tokenizer: Tokenizer) -> None:
    a, pad = tokenizer.encode("a")[0], tokenizer.vocab_size
    assert tokenizer.decode([pad, a, pad + 1]) == "a"
    assert stream(tokenizer, [pad, a, pad + 1]) == ["", "a", "", ""]
    with pytest.raises(InvalidRequestError, match="-1"):
        tokenizer.decode([-1])


def test_stream_hides_special_tokens_and_marks_what_stays_incomplete(tokenizer: Tokenizer) -> None:
    cut = tokenizer.encode("é👍")[:-1]
    assert stream(tokenizer, [0, *cut, 1]) == ["", "", "é", "", "", "", "", "\ufffd"]
