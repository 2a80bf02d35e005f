"""Chat templates of the families that are implemented, as their makers publish them: in the sandbox, and as ids."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgellm.errors import EdgeLLMError
from edgellm.formats.gguf_tokenizer import tokenizer_json_from_gguf
from edgellm.text.chat import Message, prompt_ids, render
from edgellm.text.tokenizer import Tokenizer
from tests.parity.vocabularies import metadata

SYSTEM: Message = {"role": "system", "content": "Be brief."}
TURNS: list[Message] = [
    {"role": "user", "content": " Hi "},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Who?"},
]

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
BITNET = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = message['role'] | capitalize + ': '+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "messages", "text"),
    [
        (
            GEMMA,
            TURNS,
            "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n"
            "<start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model\n",
        ),
        (
            LLAMA3,
            [SYSTEM, TURNS[0]],
            "<bos><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            QWEN2,
            TURNS[:1],
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\n",
        ),
        (PHI3, [SYSTEM, TURNS[0]], "<|system|>\nBe brief.<|end|>\n<|user|>\n Hi <|end|>\n<|assistant|>\n"),
        (BITNET, TURNS, "<bos>User: Hi<|eot_id|>Assistant: Hello<|eot_id|>User: Who?<|eot_id|>Assistant: "),
    ],
    ids=["gemma", "llama3", "qwen2", "phi3", "bitnet"],
)
def test_a_familys_template_gives_its_prompt(template: str, messages: list[Message], text: str) -> None:
    assert render(template, messages, bos_token="<bos>") == text


def test_gemma_refuses_a_system_message_in_its_own_words() -> None:
    with pytest.raises(EdgeLLMError, match="System role not supported"):
        render(GEMMA, [SYSTEM, TURNS[0]])


@pytest.fixture(scope="module")
def phi3() -> Tokenizer:
    """Phi-3's tokens of turns in a small vocabulary: they swallow the white space behind them."""
    control = ("<|user|>", "<|end|>", "<|assistant|>", "<|endoftext|>")
    keys: dict[str, Any] = metadata(user_defined=control) | {"general.architecture": "phi3"}
    kinds: list[int] = list(keys["tokenizer.ggml.token_type"])
    kinds[3 : 3 + len(control)] = [3] * len(control)
    return Tokenizer(tokenizer_json_from_gguf(keys | {"tokenizer.ggml.token_type": kinds}), {"bos_token_id": 1, "eos_token_id": [6, 4]})


def test_phi3_turns_swallow_the_line_ends_of_its_template(phi3: Tokenizer) -> None:
    user, end, assistant = (phi3.special_tokens[text] for text in ("<|user|>", "<|end|>", "<|assistant|>"))
    the = phi3.encode("the", add_special_tokens=False)
    assert prompt_ids(phi3, PHI3, [{"role": "user", "content": "the"}]) == [user, *the, end, assistant]
    added = json.loads(tokenizer_json_from_gguf(metadata() | {"general.architecture": "phi3"}))["added_tokens"]
    assert [(token["content"], token["rstrip"]) for token in added] == [("<unk>", False), ("<s>", False), ("</s>", True)]


def test_the_first_of_several_ends_is_the_one_that_templates_write(phi3: Tokenizer) -> None:
    assert phi3.eos_ids == {4, 6}
    assert render(PHI3, TURNS[:1], eos_token="<|endoftext|>", add_generation_prompt=False).endswith("<|end|>\n<|endoftext|>")
    ids = prompt_ids(phi3, "{{ messages[0]['content'] }}{{ eos_token }}", [{"role": "user", "content": "the"}])
    assert ids[-1] == phi3.eos_id == 6
