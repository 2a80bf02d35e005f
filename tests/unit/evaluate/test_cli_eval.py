"""`edgellm eval` on a synthetic model: what it prints, and what it refuses before anything is loaded."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgellm.cli import main
from tests.unit.evaluate.conftest import Write

ENDINGS = [{"query": f"hi {i}: you", "choices": ["hi", "you hi", "12", "no"], "label": i % 4} for i in range(6)]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    return tmp_path / "home"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["eval", *map(str, arguments), "--threads", "1"])


def test_a_task_is_scored_and_its_answers_kept(synthetic_model: Path, write_records: Write, home: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'edgellm[eval]'")
    write_records("hellaswag_val.jsonl.gz", ENDINGS)
    first = run(synthetic_model, "--tasks", "hellaswag", "--limit", "4")
    assert first.exit_code == 0, first.output
    assert f"{synthetic_model.name}\n  hellaswag: 4 of 6 items\n    acc  " in first.stdout
    (kept,) = home.rglob("hellaswag-*.jsonl")
    assert len(kept.read_text().splitlines()) == 1 + 4 * 4
    assert run(synthetic_model, "--tasks", "hellaswag", "--limit", "4").stdout == first.stdout


def test_two_models_are_compared_on_the_same_items(synthetic_model: Path, write_records: Write) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'edgellm[eval]'")
    write_records("hellaswag_val.jsonl.gz", ENDINGS)
    arguments = (synthetic_model, "--tasks", "hellaswag", "--against", synthetic_model)
    assert "less synthetic.tmac2.bin, on the same items\n  hellaswag       acc             +0.0000 (95%: " in run(*arguments).stdout
    document = json.loads(run(*arguments, "--json").stdout)
    assert (document["schema"], document["version"], document["provenance"]) == ("edgellm-evaluation", 1, "measured")
    assert document["settings"] == {"limit": None, "threads": 1, "context": None, "bos": None, "activations": "int8"}
    assert document["deltas"]["hellaswag"]["acc"] == {"delta": 0.0, "interval": [0.0, 0.0]}
    assert [len(model["scores"][0]["metrics"]["acc"]["values"]) for model in document["models"]] == [6, 6]


@pytest.mark.parametrize("activations", ["int8", "float32"])
def test_without_tasks_a_text_that_every_python_has(activations: str, synthetic_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGELLM_DATA", raising=False)
    monkeypatch.setattr("edgellm.evaluate.data.text", lambda _: "hi you " * 400)
    result = run(synthetic_model, "--limit", "1", "--activations", activations)
    assert result.exit_code == 0, result.output
    assert "smoke: 1 of " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--tasks", "helaswag"), "did you mean hellaswag"),
        (("--tasks", "hellaswag", "--limit", "0"), "--limit 0 leaves nothing to ask"),
        (("--no-bos",), "--bos and --no-bos are about --tasks"),
        (("--tasks", "hellaswag,mine.yaml"), "the task 'mine.yaml' is unknown"),
    ],
)
def test_refused_before_a_model_is_loaded(arguments: tuple[str, ...], said: str) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'edgellm[eval]'")
    result = run("no-such-model", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_lm_eval_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec

    def found(name: str, *rest: Any) -> Any:
        return None if name == "lm_eval" else find_spec(name, *rest)

    monkeypatch.setattr("edgellm.cli_eval.find_spec", found)
    result = run("no-such-model", "--tasks", "hellaswag")
    assert (result.exit_code, result.stderr.count("pip install 'edgellm[eval]'")) == (2, 1)
