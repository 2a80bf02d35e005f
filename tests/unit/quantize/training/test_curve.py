"""The picture of a run: it is drawn from any log, however short, and missed by nobody who lacks matplotlib."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from edgellm.quantize.training.curve import SMOOTHED, draw_curve


def written(folder: Path, steps: int) -> Path:
    first = {"step": 0, "perplexity": 40.0, "teacher_perplexity": 20.0}
    lines = [first, *({"step": step, "loss": 1 / step} for step in range(1, steps + 1)), {"step": steps, "perplexity": 30.0}]
    (log := folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return log


@pytest.mark.parametrize("steps", [1, SMOOTHED - 1, 3 * SMOOTHED])
def test_the_curve_shows_losses_and_perplexities(steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="drawing needs matplotlib: pip install 'edgellm[report]'")
    from matplotlib.figure import Figure

    drawn: list[Any] = []
    save = Figure.savefig

    def savefig(self: Any, path: Path) -> None:
        drawn.extend(self.axes)
        save(self, path)

    monkeypatch.setattr(Figure, "savefig", savefig)
    assert draw_curve(written(tmp_path, steps), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    losses, perplexities = ([list(line.get_ydata()) for line in axes.lines] for axes in drawn)
    assert losses[0] == [1 / step for step in range(1, steps + 1)]
    assert [len(smoothed) for smoothed in losses[1:]] == ([steps - SMOOTHED + 1] if steps >= SMOOTHED else [])
    assert perplexities == [[40.0, 30.0], [20.0, 20.0]]


def test_without_matplotlib_there_is_no_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not draw_curve(written(tmp_path, 3), tmp_path / "curve.png")
    assert not (tmp_path / "curve.png").exists()
