"""What a run of measurements shows at its end: of each test the figures, the machine's own noise beside them, and the verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgellm.measure.budgets import Verdict
from edgellm.measure.figures import Figures
from edgellm.measure.recorder import LatencyRecorder

COLUMNS = ("p50_ms", "p95_ms", "p99_ms", "max_ms", "std_ms", "mad_ms", "p99_over_p50")
HEADS = ("p50", "p95", "p99", "max", "std", "MAD", "p99/p50")


def lines(recorder: LatencyRecorder) -> Iterator[str]:
    """A few lines of text about a test that measured something."""
    values = recorder.figures.values
    yield f"\n{recorder.test}" + (f" ({recorder.what})" if recorder.what else "")
    if quantities := [name.removesuffix("_p50_ms") for name in values if name.endswith("_p50_ms")]:
        yield f"  {'ms':14}" + "".join(f"{head:>10}" for head in HEADS)
    for quantity in quantities:
        cells = [values.get(f"{quantity}_{column}") for column in COLUMNS]
        yield f"  {quantity:14}" + "".join(f"{'-' if cell is None else format(cell, '.3f'):>10}" for cell in cells)
    if "tokens_per_second" in values:
        yield f"  {_with_interval('tokens_per_second', recorder.figures)} tokens/s"
    if recorder.noise:
        yield f"  this machine by itself meanwhile: {_noise(recorder.noise)}"
    if recorder.judged is None:
        yield f"    not judged: it ended early ({recorder.benchmark.extra_info.get('interrupted', 'the test failed')})"
        return
    for verdict in recorder.judged.budgets:
        yield f"    {verdict}{_reach(verdict, recorder.figures)}"
    for verdict in recorder.judged.claims:
        yield f"    claim: {verdict}{_reach(verdict, recorder.figures)}"
    for name, why in recorder.judged.unmeasured.items():
        yield f"    {name}: {why}"


def _noise(noise: object) -> str:
    assert isinstance(noise, dict)
    parts: Sequence[tuple[str, str]] = (
        ("spin_std_ms", "pure computing as long as a token std {:.3f} ms"),
        ("spin_p99_over_p50", "p99/p50 {:.2f}"),
        ("spin_lost_share", "{:.0%} of the time lost"),
        ("read_p99_over_p50", "reading the weights p99/p50 {:.2f}"),
        ("read_gb_per_s_p50", "at {:.0f} GB/s"),
        ("wake_late_p99_ms", "waking up at most {:.2f} ms late (p99)"),
    )
    return ", ".join(form.format(noise[name]) for name, form in parts if noise.get(name) is not None) or "unknown"


def _with_interval(name: str, figures: Figures) -> str:
    low, high = figures.intervals.get(name, (None, None))
    return f"{figures.values[name]:.4g}" + (f" (95%: {low:.4g} to {high:.4g})" if low is not None and high is not None else "")


def _reach(verdict: Verdict, figures: Figures) -> str:
    """How far the figure's interval goes, and whether it is open."""
    if verdict.name not in figures.intervals:
        return ""
    low, high = figures.intervals[verdict.name]
    needed = figures.rounds_needed.get(verdict.name)
    shown = f" (95%: {'-' if low is None else format(low, '.4g')} to {'-' if high is None else format(high, '.4g')}"
    return shown + (f"; both ends need {needed} rounds)" if needed else ")")
