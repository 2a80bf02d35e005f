"""The curve of a training run, drawn from its log."""

from __future__ import annotations

import json
from pathlib import Path


def draw_curve(log: Path, image: Path) -> bool:
    """Loss and held-out perplexity over tokens or steps, as a PNG. Without matplotlib (the extra `report`) False: the log has it all."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.subplots()
    right = left.twinx()
    for axes, key, label, style in (
        (left, "loss", "KL divergence, nats a token", "C0-"),
        (right, "perplexity", "held-out perplexity", "C1o-"),
    ):
        points = [(line["step"], line[key]) for line in lines if key in line]
        axes.plot([step for step, _ in points], [value for _, value in points], style, label=label)
        axes.set(xlabel="step", ylabel=label, yscale="log")
    figure.savefig(image)
    return True
