"""Tokenizers of every family against Hugging Face's, which is followed, and llama.cpp's, on the same vocabulary.

The vocabularies: small synthetic ones, the published models that are in the cache, and those of llama.cpp's own tests, which the source
distribution of llama-cpp-python carries (EDGELLM_LLAMA_CPP_MODELS: its folder `vendor/llama.cpp/models`; without it they are skipped).
"""

from __future__ import annotations

import os
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from edgellm.errors import EdgeLLMError
from edgellm.formats import fetch
from edgellm.formats.gguf import map_file
from edgellm.formats.gguf_header import parse_header
from edgellm.formats.gguf_tokenizer import tokenizer_json_from_gguf
from edgellm.text.tokenizer import StreamDecoder, Tokenizer
from tests.parity import reference
from tests.parity.corpus import NASTY, PROMPTS
from tests.parity.test_goldens import dump, load
from tests.parity.vocabularies import SYNTHETIC, TEXTS, write_gguf

GOLDEN = Path(__file__).parents[1] / "golden"
PUBLISHED = ("gemma-3-270m", "qwen2.5-coder-0.5b")
LLAMA_CPP = ("llama-spm", "phi-3", "llama-bpe", "qwen2", "gpt-2", "starcoder", "refact")

NOT_IN_LLAMA_CPP: dict[str, Callable[[str], bool]] = {
    "qwen": lambda text: unicodedata.normalize("NFC", text) != text or "</s>" in text,
    "gemma-3": lambda text: " " * 32 in text,
    "gemma3": lambda text: "    " in text or "\n\n\n" in text,
    "llama.synthetic": lambda text: "ere" in text,
}
"""Texts that llama.cpp reads otherwise, by the start of a vocabulary's name. It does not normalize; it takes Qwen's ordinary token "</s>"
for a special one; it cuts a long run of spaces into the longest tokens from the left, as SentencePiece does, where Hugging Face's merges
halve it; and of two pairs whose scores tie it takes the left one, where Hugging Face takes the token with the lower id.
"""

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module", params=[*(f"{name}.synthetic" for name in SYNTHETIC), *PUBLISHED, *LLAMA_CPP])
def vocabulary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """(name, GGUF file) of a vocabulary."""
    name: str = request.param
    architecture = name.removesuffix(".synthetic")
    if architecture in SYNTHETIC:
        pytest.importorskip("gguf")
        path = tmp_path_factory.mktemp("vocabulary") / f"{name}.gguf"
        write_gguf(path, architecture, SYNTHETIC[architecture])
        return name, path
    if name in PUBLISHED:
        try:
            return name, fetch.resolve_source(name)
        except EdgeLLMError as error:
            pytest.skip(str(error))
    folder = os.environ.get("EDGELLM_LLAMA_CPP_MODELS")
    if folder is None:
        pytest.skip("EDGELLM_LLAMA_CPP_MODELS does not name llama.cpp's folder of test vocabularies")
    return name, Path(folder) / f"ggml-vocab-{name}.gguf"


@pytest.fixture(scope="module")
def ours(vocabulary: tuple[str, Path]) -> Tokenizer:
    _, path = vocabulary
    return Tokenizer(tokenizer_json_from_gguf(parse_header(map_file(path), path).metadata), {})


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """The corpus, and pieces of it put together anew."""
    pieces, choose = [text[i : i + 7] for text in NASTY for i in range(0, len(text), 7)], random.Random(0)
    return [*PROMPTS.values(), *NASTY, *("".join(choose.choices(pieces, k=choose.randint(1, 6))) for _ in range(800))]


def test_ids_are_those_of_hugging_face(vocabulary: tuple[str, Path], ours: Tokenizer, texts: list[str]) -> None:
    """And so is the text that they make."""
    _, path = vocabulary
    theirs = reference.tokenizer_of_gguf(path)
    for text in texts:
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, add_special_tokens=False) == ids, text
        assert ours.decode(ids) == theirs.decode(ids), text


def test_ids_are_those_of_llama_cpp(vocabulary: tuple[str, Path], ours: Tokenizer, texts: list[str]) -> None:
    """Except where NOT_IN_LLAMA_CPP says why not."""
    name, path = vocabulary
    differs = next((differs for start, differs in NOT_IN_LLAMA_CPP.items() if name.startswith(start)), lambda text: False)
    with reference.llama_cpp(path, vocab_only=True) as llama:
        for text in texts:
            if not differs(text):
                assert ours.encode(text, add_special_tokens=False) == reference.llama_cpp_ids(llama, text), text


def test_goldens(vocabulary: tuple[str, Path], write: bool) -> None:
    """What tests without the references compare with: synthetic vocabularies in tests/unit, published models in tests/e2e."""
    name, path = vocabulary
    if name in LLAMA_CPP:
        pytest.skip("llama.cpp's test vocabularies are only compared live")
    theirs = reference.tokenizer_of_gguf(path)
    records = []
    with reference.llama_cpp(path, vocab_only=True) as llama:
        for text in NASTY if name in PUBLISHED else TEXTS:
            ids = theirs.encode(text, add_special_tokens=False).ids
            record = {"text": text, "ids": ids}
            if (decoded := theirs.decode(ids)) != text:
                record["decoded"] = decoded
            if (other := reference.llama_cpp_ids(llama, text)) != ids:
                record["llama_cpp_ids"] = other
            records.append(record)
    golden = GOLDEN / f"tokenizer_{name}.json"
    if write:
        header = reference.provenance(path, "transformers", "tokenizers", "llama-cpp-python") | {
            "ids": "Hugging Face tokenizers, with the normalizer and pre-tokenizer of the model's own tokenizer.json; no BOS",
            "decoded": "where it is not the text: special tokens are not shown",
            "llama_cpp_ids": "where they differ, not followed",
        }
        dump(golden, header, "texts", records)
    assert load(golden)["texts"] == records


def test_a_stream_adds_up(ours: Tokenizer, texts: list[str]) -> None:
    for text in texts:
        ids = ours.encode(text)
        stream = StreamDecoder(ours)
        assert "".join(map(stream.push, ids)) + stream.flush() == ours.decode(ids), text
