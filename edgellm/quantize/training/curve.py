"""The curve of a training run, drawn from its log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

SMOOTHED = 20
"""Steps that a point of the smoothed loss is the mean of: texts differ far more than one step improves."""
LOSS, PERPLEXITY = "tab:blue", "tab:orange"


def draw_curve(log: Path, image: Path) -> bool:
    """Loss and held-out perplexity over steps, as a PNG. Without matplotlib (the extra `report`) False: the log has it all."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.subplots()
    _draw_loss(left, *_points(lines, "loss"))
    _draw_perplexity(left.twinx(), *_points(lines, "perplexity"), [line["teacher_perplexity"] for line in lines[:1]])
    figure.savefig(image)
    return True


def _points(lines: list[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """The steps at which the log has it, and what it says."""
    found = [(line["step"], line[key]) for line in lines if key in line]
    return [step for step, _ in found], [value for _, value in found]


def _draw_loss(axes: Any, steps: list[int], losses: list[float]) -> None:
    axes.plot(steps, losses, color=LOSS, alpha=0.3, linewidth=1)
    if len(losses) >= SMOOTHED:
        axes.plot(steps[SMOOTHED - 1 :], np.convolve(losses, np.full(SMOOTHED, 1 / SMOOTHED), "valid"), color=LOSS)
    axes.set_xlabel("step")
    axes.set_ylabel("KL divergence from the original, nats a token", color=LOSS)
    axes.tick_params(axis="y", labelcolor=LOSS)


def _draw_perplexity(axes: Any, steps: list[int], perplexities: list[float], of_teacher: list[float]) -> None:
    axes.plot(steps, perplexities, "o-", color=PERPLEXITY)
    for perplexity in of_teacher:
        axes.axhline(perplexity, color=PERPLEXITY, linestyle=":", label=f"the original's: {perplexity:.2f}")
        axes.legend(loc="upper right")
    axes.set_ylabel("held-out perplexity", color=PERPLEXITY)
    axes.tick_params(axis="y", labelcolor=PERPLEXITY)
