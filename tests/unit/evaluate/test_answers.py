from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgellm.errors import EvaluationError, FetchError
from edgellm.evaluate.cache import Key

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'edgellm[eval]'")

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, CacheHook

from edgellm.evaluate.answers import Answers, Resumed

KEY = Key("0" * 64, "task", 1, {"context": 64})


class Counted(LM):  # type: ignore[misc]
    """Its answer to a text is the text's length; after `patience` texts comes Ctrl-C."""

    def __init__(self, patience: int = 100) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.patience = patience
        self.cache_hook = CacheHook(None)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        answers = []
        for request in requests:
            if len(self.asked) == self.patience:
                raise KeyboardInterrupt
            self.asked.append(request.args[0])
            answers.append(-len(request.args[0]) / 3)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answers[-1])
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError

    def generate_until(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError


def ask(folder: Path, lm: Counted, *texts: str) -> list[float]:
    with Answers(folder, KEY) as answers:
        return Resumed(lm, answers).loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts])


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path, Counted(patience=2), "a", "bb", "ccc", "dddd")
    second = Counted()
    assert ask(tmp_path, second, "a", "bb", "ccc", "dddd") == [-1 / 3, -2 / 3, -1, -4 / 3]
    assert second.asked == ["ccc", "dddd"]
    third = Counted()
    assert ask(tmp_path, third, "ccc", "eeeee", "a") == [-1, -5 / 3, -1 / 3]
    assert third.asked == ["eeeee"]


def test_a_torn_last_line_is_asked_again(tmp_path: Path) -> None:
    ask(tmp_path, Counted(), "a", "bb")
    path = KEY.path(tmp_path).with_suffix(".jsonl")
    path.write_bytes(path.read_bytes()[:-3])
    lm = Counted()
    assert ask(tmp_path, lm, "a", "bb") == [-1 / 3, -2 / 3]
    assert lm.asked == ["bb"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"not json\n", "of something else"),
        (b'{"schema": "edgellm-answers", "version": 1, "of": {}}\n', "of something else"),
        (None, "is damaged"),
    ],
)
def test_files_of_something_else_are_not_trusted(content: bytes | None, said: str, tmp_path: Path) -> None:
    ask(tmp_path, Counted(), "a")
    path = KEY.path(tmp_path).with_suffix(".jsonl")
    path.write_bytes(path.read_bytes() + b"5\n" if content is None else content)
    with pytest.raises(EvaluationError, match=said):
        ask(tmp_path, Counted(), "a")


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with Answers(tmp_path, KEY), pytest.raises(EvaluationError, match="another run is asking this model the same task"):
        ask(tmp_path, Counted(), "a")
    ask(tmp_path, Counted(), "a")


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Answers(tmp_path, KEY) as answers, Path("/dev/full").open("wb", buffering=0) as full, monkeypatch.context() as patch:
        patch.setattr(answers, "_file", full)
        with pytest.raises(FetchError, match="the disk is full; free some space, or move the cache with EDGELLM_HOME"):
            answers.add_partial("loglikelihood", ("a", "b"), (0.0, True))


def test_keys_have_files_of_their_own(tmp_path: Path) -> None:
    other: dict[str, Any] = {"context": 65}
    assert Answers(tmp_path, KEY).path != Answers(tmp_path, Key(KEY.model, KEY.task, KEY.version, other)).path
    ask(tmp_path, Counted(), "a")
    head = json.loads(KEY.path(tmp_path).with_suffix(".jsonl").read_text().splitlines()[0])
    assert head["of"] == {"model": KEY.model, "task": "task", "version": 1, "params": {"context": 64}}
