"""From file to file, by the command line: a model is quantized, distilled, and runs."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch", reason="training needs torch: pip install 'edgellm[train]'")
pytest.importorskip("transformers", reason="training needs transformers: pip install 'edgellm[train]'")

import edgellm
from edgellm.cli import main
from edgellm.formats.tmac2 import read_tmac2, write_tmac2
from tests.unit.quantize.training import small


@pytest.fixture
def folder(tmp_path: Path, tokenizer_json: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, m, the same with random weights of another seed, other, and a text."""
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path / "home"))
    original = small.original(tokenizer_json)
    write_tmac2(tmp_path / "m.tmac2.bin", original)
    write_tmac2(tmp_path / "start.tmac2.bin", small.rounded(original, "ternary-g64"))
    (tmp_path / "text.txt").write_text("hi 12 hi hé " * 400, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(command: str) -> Result:
    return CliRunner().invoke(main, command.split())


DISTILL = (
    "distill m.tmac2.bin --from start.tmac2.bin --calibration text.txt --generated-tokens 512 --length 32 --batch-tokens 128 "
    "-o d.tmac2.bin --precision float32 --learning-rate 1e-2"
)


def test_distill_writes_a_model_that_runs_and_a_log(folder: Path) -> None:
    done = call(f"{DISTILL} --steps 6")
    assert (done.exit_code, done.stdout) == (0, "d.tmac2.bin\n"), done.output
    assert "6 steps, 768 tokens; perplexity of the held-out text" in done.stderr
    made = read_tmac2(folder / "d.tmac2.bin").provenance
    assert (made["schemes"][-1], made["distilled"]["tokens"]) == ("distilled", 768)
    assert len(edgellm.load(folder / "d.tmac2.bin").logits([1, 2, 3])) == 3
    lines = [json.loads(line) for line in (folder / "d.tmac2.bin.run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert all(line["tokens_per_second"] > 0 and line["gpu_memory_bytes"] is None for line in lines if "loss" in line)
    assert len(list((folder / "home" / "teacher-text").rglob("*.npy"))) == 4
    first = (folder / "d.tmac2.bin").read_bytes()
    assert call(f"{DISTILL} --steps 6").exit_code == 0  # from its last state and its data
    assert (folder / "d.tmac2.bin").read_bytes() == first
    (folder / "text.txt").write_text("another text " * 400, encoding="utf-8")
    assert "is of a run with other settings" in call(f"{DISTILL} --steps 6").stderr


@pytest.mark.parametrize(
    ("asked", "texts"), [("", ["calibration_mixed.txt.gz"]), ("--calibration text.txt", ["text.txt"]), ("--generated-tokens 512", [])]
)
def test_which_texts_are_learnt_from(asked: str, texts: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are given; those that quantize takes where none are and the teacher writes none either."""
    (folder / "calibration_mixed.txt.gz").write_bytes(gzip.compress(b"one two " * 400))
    monkeypatch.setenv("EDGELLM_DATA", str(folder))
    done = call(DISTILL.replace("--calibration text.txt --generated-tokens 512", asked) + " --steps 1")
    assert done.exit_code == 0, done.output
    assert list(read_tmac2(folder / "d.tmac2.bin").provenance["distilled"]["texts"]) == texts


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (DISTILL, "by one of --minutes and --steps"),
        (f"{DISTILL} --steps 1 --minutes 1", "by one of --minutes and --steps"),
        (f"{DISTILL} --steps 1 --device cuda", "finds no GPU"),
        (f"{DISTILL} --steps 1".replace("--length 32", "--length 100000"), "a window takes 100000"),
        (f"{DISTILL} --steps 1".replace("text.txt", "m.tmac2.bin"), "is no calibration text"),
        (f"{DISTILL} --steps 1".replace("-o d.tmac2.bin", "-o start.tmac2.bin"), "is what is to be converted"),
        (f"{DISTILL} --steps 1".replace("--from start", "--from nonesuch"), "nonesuch"),
        ("quantize m.tmac2.bin --scheme int4 --windows 3", "--windows, --epochs and --learning-rate are of --method reconstruct"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(command: str, message: str, folder: Path) -> None:
    done = call(command)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert message in done.stderr


def test_another_model_is_refused(folder: Path, tokenizer_json: str) -> None:
    other = small.original(tokenizer_json)
    other.provenance["source_sha256"] = "another"
    write_tmac2(folder / "start.tmac2.bin", small.rounded(other, "ternary-g64"))
    original = small.original(tokenizer_json)
    original.provenance["source_sha256"] = "this"
    write_tmac2(folder / "m.tmac2.bin", original)
    done = call(f"{DISTILL} --steps 1")
    assert done.exit_code == 2
    assert "start.tmac2.bin was not made from" in done.stderr


@pytest.mark.parametrize("command", [f"{DISTILL} --steps 1", "quantize m.tmac2.bin --scheme int2 --method reconstruct -o r.tmac2.bin"])
def test_without_torch_the_error_says_what_to_install(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    done = call(command)
    assert done.exit_code == 2
    assert "training needs torch" in done.stderr
    assert "pip install 'edgellm[train]'" in done.stderr
