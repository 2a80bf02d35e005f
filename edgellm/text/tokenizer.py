"""Text <-> token ids, with Hugging Face `tokenizers` doing the work; and the decoder for text that comes token by token."""

from __future__ import annotations

import codecs
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tokenizers

from edgellm.errors import InvalidRequestError, ModelFileError, UnsupportedModelError
from edgellm.text.spelling import spelling_of


class Tokenizer:
    """A model's tokenizer: byte-level BPE, or SentencePiece's BPE with byte fallback.

    tokenizer_json: the text of a `tokenizer.json`; ModelFileError if it is broken, UnsupportedModelError if it is of another kind
    config:         a `config.json`; `bos_token_id` and `eos_token_id` (an id, a list of ids, or absent) are read from it

    A byte for which a byte-level vocabulary has no token is left out by `encode`, as the reference tokenizers do (SmolLM2 lacks 21,
    among them control characters and bytes that valid UTF-8 never holds).
    """

    def __init__(self, tokenizer_json: str, config: Mapping[str, Any]) -> None:
        self._inner = _read(tokenizer_json)
        self._bytes_of, self.drops_a_space = spelling_of(self._inner.decoder)
        if getattr(self._inner.model, "dropout", None):
            raise UnsupportedModelError("the model's tokenizer drops merges at random (BPE dropout), which is for training; set it to null")
        self._inner.no_truncation()
        self._inner.no_padding()
        self._switch = threading.Lock()
        self._first_only = [step for step in _steps(self._inner.pre_tokenizer) if getattr(step, "prepend_scheme", None) == "first"]
        self._special_ids = {
            content.content: token_id for token_id, content in self._inner.get_added_tokens_decoder().items() if content.special
        }
        self._hidden = frozenset(self._special_ids.values())
        self.vocab_size = self._inner.get_vocab_size()
        self._shown: dict[int, bytes] = {}  # by id, as far as was asked
        bos_ids = self._ids_of(config, "bos_token_id")
        self.bos_id = bos_ids[0] if bos_ids else None
        eos_ids = self._ids_of(config, "eos_token_id")
        self.eos_id = eos_ids[0] if eos_ids else None
        self.eos_ids = frozenset(eos_ids)

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Text -> id of the tokens that steer the model and are never shown, such as `<|im_end|>`."""
        return self._special_ids

    def encode(self, text: str, special: bool = True, add_special_tokens: bool = True, goes_on: bool = False) -> list[int]:
        """The ids of a text.

        special:            True reads `<|im_end|>` in the text as that token, False as nine ordinary characters
        add_special_tokens: also put the tokens around the text that the model wants around any text (SmolLM2: none)
        goes_on:            something stands before the text: no space comes before it where the tokenizer puts one before whole texts only

        Raises InvalidRequestError for text that is not Unicode, ModelFileError where the tokenizer cannot encode a text at all.
        """
        return list(self._encoding(text, special, add_special_tokens, goes_on).ids)

    def split_special(self, text: str) -> list[int | str]:
        """A text cut at its special tokens: their ids, and the stretches of ordinary text between them."""
        encoding = self._encoding(text, special=True, add_special_tokens=False)
        pieces: list[int | str] = []
        end = 0
        for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id in self._hidden:
                pieces += [text[end:start], token_id]
                end = stop
        return [piece for piece in [*pieces, text[end:]] if piece != ""]

    def decode(self, ids: Iterable[int]) -> str:
        """The text that some ids show (see `shown_bytes`); bytes that are not UTF-8 become U+FFFD."""
        shown = b"".join(map(self.shown_bytes, ids))
        return (shown.removeprefix(b" ") if self.drops_a_space else shown).decode("utf-8", errors="replace")

    def shown_bytes(self, token_id: int) -> bytes:
        """What a token adds to a text: its bytes, but nothing for special tokens and for ids beyond the vocabulary.

        Many models have more logits than tokens, for the sake of round shapes; one of those ids may be drawn.
        """
        shown = self._shown.get(token_id)
        if shown is None:
            beyond = token_id >= 0 and self._token(token_id) is None
            shown = b"" if token_id in self._hidden or beyond else self.token_bytes(token_id)
            if not beyond:
                self._shown[token_id] = shown
        return shown

    def prepare(self, count: int) -> None:
        """Ask the library now what each id below `count` shows: its answer takes memory, which a token in real time must not."""
        for token_id in range(count):
            self.shown_bytes(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one token stands for; InvalidRequestError for an id outside the vocabulary."""
        token = self._token(token_id)
        if token is None:
            raise InvalidRequestError(f"token id {token_id} is not one of the tokenizer's {self.vocab_size} tokens")
        return self._bytes_of(token)

    def _encoding(self, text: str, special: bool, add_special_tokens: bool, goes_on: bool = False) -> tokenizers.Encoding:
        try:
            with self._switch:  # the library keeps these settings in the tokenizer
                self._inner.encode_special_tokens = not special
                for metaspace in self._first_only:
                    metaspace.prepend_scheme = "never" if goes_on else "first"
                return self._inner.encode(text, add_special_tokens=add_special_tokens)
        except (TypeError, UnicodeEncodeError) as error:  # a command line's bytes that are not UTF-8 come as lone surrogates
            raise InvalidRequestError("the text holds bytes that are not UTF-8, so it has no tokens") from error
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # as in _read; an unknown token that the vocabulary lacks shows only here
            raise ModelFileError(f"the model's tokenizer cannot encode the text: {error}") from error

    def _token(self, token_id: int) -> str | None:
        return self._inner.id_to_token(token_id) if 0 <= token_id < 2**32 else None

    def _ids_of(self, config: Mapping[str, Any], key: str) -> list[int]:
        value = config.get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if any(not isinstance(i, int) or self._token(i) is None for i in ids):
            raise ModelFileError(f"the model's config says {key} = {value!r}, which is not among the tokenizer's {self.vocab_size} tokens")
        return ids


class StreamDecoder:
    """Token ids in, text out, never a part of a character: what is pushed and flushed adds up to `Tokenizer.decode` of all ids.

    after: the ids that stand before. Where the last of them is text, the stream goes on with it: a space at its start is one between words
           and stays, which `decode` of the stream alone would drop for tokenizers that put a space before every text.
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        goes_on = any(tokenizer.shown_bytes(int(token_id)) for token_id in after[-1:])
        self._drop = b" " if tokenizer.drops_a_space and not goes_on else b""

    def push(self, token_id: int) -> str:
        """The text that this token completes; those that show nothing complete none."""
        shown = self._tokenizer.shown_bytes(token_id)
        if shown and self._drop:
            shown, self._drop = shown.removeprefix(self._drop), b""
        return self._utf8.decode(shown)

    def flush(self) -> str:
        """What an unfinished character leaves behind at the end of the stream: U+FFFD or nothing."""
        return self._utf8.decode(b"", final=True)


def _read(tokenizer_json: str) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
        tokenizer.encode("a")  # some contradictions show only here
        return tokenizer
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception, and its panics are not even that
        raise ModelFileError(f"the model's tokenizer.json cannot be read: {error}") from error


def _steps(pre_tokenizer: Any) -> list[Any]:
    """The pre-tokenizers that one is made of; they are views, so what is set in them counts."""
    return list(pre_tokenizer) if hasattr(pre_tokenizer, "__getitem__") else [pre_tokenizer]
