"""Layers trained one after the other: they come closer to the original's, the same way each time, interrupted or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'edgellm[train]'")
pytest.importorskip("transformers", reason="training needs transformers: pip install 'edgellm[train]'")

from edgellm.errors import FetchError, InvalidRequestError, NonFiniteError  # noqa: E402
from edgellm.formats.checkpoint import Checkpoint  # noqa: E402
from edgellm.quantize.training import reconstruct as module  # noqa: E402
from edgellm.quantize.training.numerics import Rates  # noqa: E402
from edgellm.quantize.training.reconstruct import LayerReport, Settings, reconstruct  # noqa: E402
from tests.unit.quantize.training import small  # noqa: E402

SETTINGS = Settings(epochs=6, precision="float32")


def run(folder: Path, scheme: str = "ternary-g64", settings: Settings = SETTINGS) -> tuple[Checkpoint, list[LayerReport]]:
    original = small.original()
    return reconstruct(original, small.rounded(original, scheme), small.windows(), settings, folder, progress=False)


@pytest.mark.parametrize("scheme", ["ternary-g64", "tritplanes2-g64", "int2-min-g64"])
def test_every_layer_comes_closer(scheme: str, tmp_path: Path) -> None:
    result, reports = run(tmp_path, scheme)
    assert [report.layer for report in reports] == [0, 1]
    assert all(report.after < 0.95 * report.before for report in reports)
    assert not small.same_tensors(result.tensors, small.rounded(small.original(), scheme).tensors)


def test_bfloat16_gives_about_the_same(tmp_path: Path) -> None:
    _, exact = run(tmp_path / "a")
    _, rough = run(tmp_path / "b", settings=replace(SETTINGS, precision="bfloat16"))
    assert [report.after for report in rough] == pytest.approx([report.after for report in exact], rel=0.05)


def test_an_interrupted_run_ends_at_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, reports = run(tmp_path / "whole")
    train = module._train

    def interrupted(layer: Any, arguments: Any, data: Any, settings: Any, index: int, bar: Any) -> Any:
        if index == 1:
            raise KeyboardInterrupt
        return train(layer, arguments, data, settings, index, bar)

    monkeypatch.setattr(module, "_train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "halved")
    assert [path.name for path in (tmp_path / "halved").iterdir()] == ["layer-000.safetensors"]
    monkeypatch.setattr(module, "_train", train)
    resumed, later = run(tmp_path / "halved")
    assert small.same_tensors(resumed.tensors, whole.tensors)
    assert [(report.before, report.after) for report in later] == [(report.before, report.after) for report in reports]


def test_another_run_is_refused_and_so_is_a_broken_state(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(InvalidRequestError, match="is of a run with other settings"):
        run(tmp_path, settings=replace(SETTINGS, seed=1))
    with pytest.raises(InvalidRequestError, match="is of a run with other settings"):
        run(tmp_path, scheme="int2-g64")
    state = tmp_path / "layer-001.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(InvalidRequestError, match=r"layer-001.safetensors cannot be read: .*delete it"):
        run(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_layers_before(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="layer 0: the loss of step 1 is not finite"):
        run(tmp_path / "other", settings=replace(SETTINGS, rates=Rates(1e-2, 1e-2, float("inf"))))
    assert not (tmp_path / "other").exists()


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgellm.formats.atomic.os.fsync", full)
    with pytest.raises(FetchError, match=r"layer-000.safetensors: cannot be written: the disk is full"):
        run(tmp_path)
    assert not list(tmp_path.iterdir())
