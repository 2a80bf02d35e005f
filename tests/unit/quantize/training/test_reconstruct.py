"""Layers trained one after the other, by `quantize`: they come closer, interruptions change nothing, and what cannot be done is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'edgellm[train]'")
pytest.importorskip("transformers", reason="training needs transformers: pip install 'edgellm[train]'")

import edgellm  # noqa: E402
from edgellm.errors import FetchError, InvalidRequestError, NonFiniteError  # noqa: E402
from edgellm.formats.tmac2 import read_tmac2, verify, write_tmac2  # noqa: E402
from edgellm.quantize.quantize import Recipe, quantize  # noqa: E402
from edgellm.quantize.training.reconstruct import LayerTrainer  # noqa: E402
from edgellm.quantize.training.settings import LayerSettings, Rates  # noqa: E402
from tests.unit.quantize.training import small  # noqa: E402

SETTINGS = LayerSettings(windows=4, length=24, epochs=6, precision="float32")


@pytest.fixture
def source(tmp_path: Path, tokenizer_json: str) -> Path:
    write_tmac2(tmp_path / "m.tmac2.bin", small.original(tokenizer_json))
    (tmp_path / "text.txt").write_text("hi 12 hi hé " * 400, encoding="utf-8")
    return tmp_path / "m.tmac2.bin"


def run(source: Path, name: str, scheme: str = "ternary-g64", settings: LayerSettings = SETTINGS) -> Path:
    path = source.parent / name
    recipe = replace(Recipe.named(scheme, method="reconstruct"), training=settings)
    quantize(source, path, recipe, progress=False, calibration=[source.parent / "text.txt"])
    return path


@pytest.mark.parametrize("scheme", ["ternary-g64", "tritplanes2-g64", "int2-min-g64"])
def test_every_layer_comes_closer_and_the_file_says_so(scheme: str, source: Path) -> None:
    path = run(source, "r.tmac2.bin", scheme)
    assert not verify(path)
    made = read_tmac2(path).provenance
    assert (made["method"], made["schemes"][-1]) == ("reconstruct", f"{scheme} by reconstruct")
    assert (made["training"]["windows"], made["training"]["precision"]) == (4, "float32")
    assert len(made["layers"]) == 2
    assert all(layer["after"] < 0.95 * layer["before"] for layer in made["layers"])
    assert len(edgellm.load(path).logits([1, 2, 3])) == 3


def test_norms_are_trained_and_what_is_not_quantized_stays(source: Path) -> None:
    before, after = read_tmac2(source).tensors, read_tmac2(run(source, "r.tmac2.bin")).tensors
    changed = [name for name in before if "norm" in name and not (before[name] == after[name]).all()]  # type: ignore[union-attr]
    assert changed == [f"model.layers.{i}.{norm}_layernorm.weight" for i in (0, 1) for norm in ("input", "post_attention")]
    assert small.same_tensors({"e": before["model.embed_tokens.weight"]}, {"e": after["model.embed_tokens.weight"]})


def test_bfloat16_gives_about_the_same(source: Path) -> None:
    exact = read_tmac2(run(source, "a")).provenance["layers"]
    rough = read_tmac2(run(source, "b", settings=replace(SETTINGS, precision="bfloat16"))).provenance["layers"]
    assert [layer["after"] for layer in rough] == pytest.approx([layer["after"] for layer in exact], rel=0.05)


def test_an_interrupted_run_ends_at_the_same_bytes(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(source, "whole")
    with monkeypatch.context() as patch:
        train = LayerTrainer.train

        def interrupted(self: LayerTrainer, index: int, rounded: Any) -> Any:
            if index == 1:
                raise KeyboardInterrupt
            return train(self, index, rounded)

        patch.setattr(LayerTrainer, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(source, "halved")
    assert [path.name for path in (source.parent / "halved.partial").glob("layer-*")] == ["layer-0.npz"]
    assert run(source, "halved").read_bytes() == whole.read_bytes()


def test_a_layer_of_other_settings_is_not_used(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(LayerTrainer, "advance", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(source, "r")
    settings = replace(SETTINGS, seed=1)
    assert run(source, "r", settings=settings).read_bytes() == run(source, "new", settings=settings).read_bytes()


def test_a_loss_that_is_not_finite_stops_the_run(source: Path) -> None:
    with pytest.raises(NonFiniteError, match="layer 0: the loss is not finite; the layers before it are kept"):
        run(source, "r", settings=replace(SETTINGS, rates=Rates(1e-2, 1e-2, float("inf"))))
    assert not (source.parent / "r").exists()


def test_a_text_that_is_too_short_is_refused(source: Path) -> None:
    with pytest.raises(InvalidRequestError, match="a window takes 100000"):
        run(source, "r", settings=replace(SETTINGS, length=100000))


def test_a_full_disk_is_an_error(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(source, "first")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgellm.formats.atomic.os.fsync", full)
    with pytest.raises(FetchError, match=r"cannot be written: the disk is full"):
        run(source, "r")
    assert not (source.parent / "r").exists()
