"""The schemes of a model side by side, most bits first: the tables, and which of them keep the roadmap's two goals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgellm.report.blocks import Block, Heading, Notes, Table
from edgellm.report.numbers import NOT_AVAILABLE, number, shortened, with_interval
from edgellm.report.sources import SchemeQuality

WITHIN = 1.05
"""Times the baseline's perplexity: the goal of quality."""
SMALLER = 4.8
"""Times smaller than 16 bits a weight: the goal of size."""


def blocks(schemes: Sequence[SchemeQuality]) -> Iterator[Block]:
    """Of schemes that were measured by the same protocol."""
    ordered = sorted(schemes, key=lambda scheme: -(scheme.layers_bits or 0))
    yield from _side_by_side(ordered)
    yield Heading(3, "Schemes: perplexity over the baseline's, with 95% intervals")
    yield _perplexities(ordered)
    yield Notes((f"Baseline: {ordered[0].baseline}. bits: stored per weight of the layers' matrices. MB: the file.",))
    yield Heading(3, "Schemes: divergence from the baseline, speed, energy")
    yield _divergences(ordered)
    yield Notes(
        ("KL(baseline || model) in nats per token; flips: share of tokens whose most likely successor is another; tg64: tokens/s.",)
    )
    yield Notes(tuple(_goals(ordered)))
    if substituted := [f"{scheme.name}: {scheme.substituted}" for scheme in ordered if scheme.substituted]:
        yield Notes(tuple(substituted))


def _side_by_side(schemes: Sequence[SchemeQuality]) -> Iterator[Block]:
    """What a choice between schemes looks at; nothing where no accuracies were measured."""
    asked = next((scheme for scheme in schemes if scheme.accuracies), None)
    if asked is None:
        return
    tasks, texts = [each.task for each in asked.accuracies], [each.text for each in asked.ratios if not each.bos]
    names = ("scheme", "engine")
    yield Heading(3, "BitNet 1.58 against INT4")
    baseline = ("baseline", NOT_AVAILABLE, NOT_AVAILABLE, NOT_AVAILABLE, *(number(_baseline_perplexity(asked, text), 4) for text in texts))
    yield Table(
        (*names, "bits", "MB", *texts, *tasks, "tg64", "J/token"),
        (
            (*baseline, *(number(each.baseline) for each in asked.accuracies), NOT_AVAILABLE, NOT_AVAILABLE),
            *(_figures(scheme, texts, tasks) for scheme in schemes),
        ),
        names=len(names),
    )
    items = ", ".join(f"{each.task} {each.items}" for each in asked.accuracies)
    yield Notes(
        ("Of texts: perplexity. Of tasks: share of items answered rightly, of the same ones by all schemes.", f"Items: {items}."),
    )
    yield Heading(3, "Schemes: accuracy less the baseline's, with 95% intervals")
    yield Table((*names, *tasks), tuple(_deltas(scheme, tasks) for scheme in schemes if scheme.accuracies), names=len(names))
    yield Notes(("Paired: the items are drawn again together, so that what makes one hard for both cancels.",))


def _figures(scheme: SchemeQuality, texts: Sequence[str], tasks: Sequence[str]) -> tuple[str, ...]:
    accuracies = {each.task: each.accuracy for each in scheme.accuracies}
    return (
        shortened(scheme.name),
        scheme.backend,
        number(scheme.layers_bits),
        _megabytes(scheme),
        *(_ratio(scheme, text, bos=False)[0] for text in texts),
        *(number(accuracies.get(task)) for task in tasks),
        number(scheme.tokens_per_second),
        number(scheme.joules_per_token),
    )


def _deltas(scheme: SchemeQuality, tasks: Sequence[str]) -> tuple[str, ...]:
    found = {each.task: with_interval(each.delta, each.interval) for each in scheme.accuracies}
    return (shortened(scheme.name), scheme.backend, *(found.get(task, NOT_AVAILABLE) for task in tasks))


def _baseline_perplexity(scheme: SchemeQuality, text: str) -> float | None:
    return next((each.perplexity / each.ratio for each in scheme.ratios if (each.text, each.bos) == (text, False)), None)


def _megabytes(scheme: SchemeQuality) -> str:
    return number(None if scheme.file_bytes is None else scheme.file_bytes / 1e6)


def _perplexities(schemes: Sequence[SchemeQuality]) -> Table:
    rows = [
        (
            shortened(scheme.name),
            scheme.backend,
            text,
            number(scheme.layers_bits),
            _megabytes(scheme),
            *_ratio(scheme, text, bos=False),
            *_ratio(scheme, text, bos=True),
        )
        for scheme in schemes
        for text in dict.fromkeys(each.text for each in scheme.ratios)
    ]
    return Table(("scheme", "engine", "text", "bits", "MB", "ppl", "ratio", "ppl, BOS", "ratio, BOS"), tuple(rows), names=3)


def _ratio(scheme: SchemeQuality, text: str, *, bos: bool) -> tuple[str, str]:
    found = next((each for each in scheme.ratios if (each.text, each.bos) == (text, bos)), None)
    if found is None:
        return NOT_AVAILABLE, NOT_AVAILABLE
    return number(found.perplexity, 4), with_interval(found.ratio, found.interval, 4)


def _divergences(schemes: Sequence[SchemeQuality]) -> Table:
    rows = [
        (
            shortened(scheme.name),
            scheme.backend,
            each.text,
            with_interval(each.mean, each.interval),
            number(each.median),
            number(each.p99),
            number(each.flip_rate),
            number(scheme.tokens_per_second),
            number(scheme.joules_per_token),
        )
        for scheme in schemes
        for each in scheme.divergences
    ]
    return Table(("scheme", "engine", "text", "KL", "median", "p99", "flips", "tg64", "J/token"), tuple(rows), names=3)


def _goals(schemes: Sequence[SchemeQuality]) -> Iterator[str]:
    good = [scheme for scheme in schemes if scheme.worst is not None and scheme.worst <= WITHIN]
    small = [scheme for scheme in schemes if scheme.times_smaller is not None and scheme.times_smaller >= SMALLER]
    yield f"Perplexity within 5% of the baseline's in every column, by the upper end of the interval: {_names(good)}."
    yield f"At least {SMALLER} times smaller than FP16: {_names(small)}."
    yield f"Both: {_names([scheme for scheme in good if scheme in small])}."
    known = [(scheme.worst, scheme.name) for scheme in small if scheme.worst is not None]
    if known and not set(good) & set(small):
        worst, name = min(known)
        yield f"Of those that are small enough, {name} is the best: up to {number(worst, 4)} times the baseline's perplexity."


def _names(schemes: Sequence[SchemeQuality]) -> str:
    return ", ".join(scheme.name for scheme in schemes) or "none"
