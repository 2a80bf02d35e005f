"""A conversation -> the prompt that the model was trained on, by the model's own jinja2 chat template.

Variables, functions and white-space rules are those of transformers' `apply_chat_template`; `sandbox.py` says what a template
out of a model file can do with them.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from edgellm.errors import ContextOverflowError, EdgeLLMError, InvalidRequestError, ModelFileError, UnsupportedModelError
from edgellm.text.sandbox import Sandbox
from edgellm.text.tokenizer import Tokenizer

MAX_DATE_FORM = 100  # characters; the C library can make hundreds of each
ROLE = re.compile(r"[a-z_]{1,32}")
PRIVATE_USE = (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE))

Message = Mapping[str, str]
"""{"role": "system" | "user" | "assistant" | ..., "content": text}"""


def prompt_ids(
    tokenizer: Tokenizer,
    template: str | None,
    messages: Sequence[Message],
    add_generation_prompt: bool = True,
    now: dt.datetime | None = None,
) -> list[int]:
    """The token ids of a conversation, ready for `Engine.prefill`.

    Only the template puts special tokens in: `<|im_end|>` in a message's content is tokenized as the characters that it is,
    so nobody can end their own turn and speak as another role. All other content gives exactly the ids that encoding
    the rendered text would give. `now` and errors as in `render`.
    """
    _check_messages(messages)
    free = _unused_characters(messages)
    stand_ins = {token: next(free) for token in tokenizer.special_tokens}
    pattern = re.compile("|".join(re.escape(token) for token in stand_ins) or r"(?!)")
    shielded = [{**message, "content": pattern.sub(lambda match: stand_ins[match[0]], message["content"])} for message in messages]
    names: dict[int | None, str] = {token_id: token for token, token_id in tokenizer.special_tokens.items()}
    bos, eos = names.get(tokenizer.bos_id, ""), names.get(tokenizer.eos_id, "")
    rendered = render(template, shielded, bos_token=bos, eos_token=eos, add_generation_prompt=add_generation_prompt, now=now)

    restore = str.maketrans({stand_in: token for token, stand_in in stand_ins.items()})
    ids: list[int] = []
    for i, piece in enumerate(tokenizer.split_special(rendered)):
        if isinstance(piece, int):
            ids.append(piece)
        else:
            ids += tokenizer.encode(piece.translate(restore), special=False, add_special_tokens=False, goes_on=i > 0)
    return ids


def fitting_prompt(
    tokenizer: Tokenizer, template: str | None, messages: Sequence[Message], max_tokens: int, now: dt.datetime | None = None
) -> tuple[list[Message], list[int]]:
    """(messages, token ids) of as much of a conversation's end as fits into max_tokens.

    The oldest exchanges go first, each from a user's message to the next one; a system message at the head and the last
    user's message stay. ContextOverflowError if these alone do not fit.
    """
    kept = list(messages)
    while len(ids := prompt_ids(tokenizer, template, kept, now=now)) > max_tokens:
        users = [i for i, message in enumerate(kept) if message["role"] == "user"]
        if len(users) < 2:
            raise ContextOverflowError(f"the message is too long: {len(ids)} tokens with its frame, but at most {max_tokens} fit")
        del kept[users[0] : users[1]]
    return kept, ids


def render(
    template: str | None,
    messages: Sequence[Message],
    bos_token: str = "",
    eos_token: str = "",
    add_generation_prompt: bool = True,
    now: dt.datetime | None = None,
) -> str:
    """The text of a conversation. To tokenize one, use `prompt_ids`, which keeps special tokens in contents harmless.

    now: the date and time for templates that write them (those of Llama 3 and later do), where the same prompt is to come
         another day; default, the machine's clock, which is read only then

    Raises InvalidRequestError for malformed messages, UnsupportedModelError for a model without a template, ModelFileError for a
    template that is broken or goes beyond its sandbox, EdgeLLMError with the template's own words where it refuses the conversation.
    """
    _check_messages(messages)
    if template is None:
        raise UnsupportedModelError("the model has no chat template: it continues text and does not chat; use `edgellm generate`")

    def strftime_now(form: str) -> str:
        if len(form) > MAX_DATE_FORM:
            raise ModelFileError(f"the model's chat template writes a date by {len(form)} characters; possible: up to {MAX_DATE_FORM}")
        return (now or dt.datetime.now()).strftime(form)

    variables = {
        "messages": messages,
        "bos_token": bos_token,
        "eos_token": eos_token,
        "add_generation_prompt": add_generation_prompt,
        "tools": None,
        "documents": None,
    }
    try:
        sandbox = Sandbox(raise_exception=_raise_exception, strftime_now=strftime_now)
        return sandbox.from_string(template).render(variables)
    except EdgeLLMError:
        raise
    except Exception as error:  # a template can raise whatever its expressions raise
        raise ModelFileError(f"the model's chat template fails: {type(error).__name__}: {error}") from error


def _raise_exception(message: str) -> NoReturn:
    raise EdgeLLMError(f"the model's chat template refuses the conversation: {message}")


def _check_messages(messages: Sequence[Any]) -> None:
    if not messages:
        raise InvalidRequestError("a conversation needs at least one message")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            raise InvalidRequestError(f"message {i} is {message!r:.200}; a message has exactly the keys role and content")
        if not isinstance(message["content"], str):
            raise InvalidRequestError(f"the content of message {i} is a {type(message['content']).__name__}; only text is implemented")
        if not isinstance(message["role"], str) or not ROLE.fullmatch(message["role"]):
            raise InvalidRequestError(
                f"the role of message {i} is {message['role']!r:.200}; a role is a word such as system, user or assistant"
            )


def _unused_characters(messages: Sequence[Message]) -> Iterator[str]:
    """Private-use characters that no content holds."""
    used = set().union(*(message["content"] for message in messages))
    for code in PRIVATE_USE:
        if chr(code) not in used:
            yield chr(code)
    raise InvalidRequestError("the messages use up Unicode's private-use characters")
