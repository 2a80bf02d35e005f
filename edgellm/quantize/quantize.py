"""A model in any format that is read -> our model file, its matrices rounded to fewer bits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

import edgellm
from edgellm.errors import EdgeLLMError, InvalidRequestError
from edgellm.formats.architecture import EMBEDDING, HEAD
from edgellm.formats.checkpoint import ACTIVATIONS, Checkpoint, Tensor
from edgellm.formats.digest import sha256_of
from edgellm.formats.matrix import F32, GROUPS, INT8, INTEGER_BITS, TRIT_PLANES, QuantizedMatrix, Scheme
from edgellm.formats.tensors import LazyTensors, TensorSpec
from edgellm.model.config import ModelConfig
from edgellm.ops.dense import Rounding
from edgellm.quantize import rewrite
from edgellm.quantize.calibrate import CalibrationText, calibration_texts
from edgellm.quantize.head import EMBEDDING_STEP, HEAD_STEP
from edgellm.quantize.layerwise import LayerTrainer, Plan, quantize_layers
from edgellm.quantize.partial import Finished, Partial, partial
from edgellm.quantize.rtn import round_to_nearest
from edgellm.quantize.training import require_packages
from edgellm.quantize.training.settings import LayerSettings

METHODS = ("rtn", "gptq", "reconstruct")
KEEP = "keep"
NO_NORMS: Mapping[str, F32] = MappingProxyType({})
FAMILIES = (*TRIT_PLANES, *(name + suffix for name in INTEGER_BITS for suffix in ("", "-min") if name + suffix != "int8-min"))
GROUPINGS = (*(f"g{group}" for group in GROUPS), "row", "tensor")
BODY_GROUPING, FINE_GROUPING = "g64", "g32"
"""Of schemes that are named without: the second of heads and of int8, where it costs little beside the rest."""
Rounder = Callable[[str, slice, F32, Scheme], QuantizedMatrix]
"""From a tensor's name and some rows of it, which ones and their weights, to these rows in a scheme."""
UNKNOWN_ERROR = 9.999e-99
"""Keeps room in the file's header for an error that is not known yet: no number of four digits is written longer."""


@dataclass(frozen=True)
class Recipe:
    """How a model is to be quantized.

    body: of all matrices but embedding and head. head: of these; None keeps them where they are quantized, and makes int8-g32 of them where
    they are not. activations: one of `formats.checkpoint.ACTIVATIONS`; None for the source's. method: one of METHODS. tensors: schemes of
    single tensors, instead. training: how layers are trained, where the method is to reconstruct them.
    """

    body: Scheme
    head: Scheme | None = None
    activations: str | None = None
    method: str = METHODS[0]
    tensors: Mapping[str, Scheme] = field(default_factory=dict)
    training: LayerSettings = field(default_factory=LayerSettings)

    @classmethod
    def named(cls, scheme: str, head: str = KEEP, activations: str | None = None, method: str = METHODS[0]) -> Recipe:
        """From names: schemes with or without their grouping, `head` also "keep". InvalidRequestError says what names there are."""
        for what, name, known in (("activations", activations, (None, *ACTIVATIONS)), ("method", method, METHODS)):
            if name not in known:
                raise InvalidRequestError(f"{what} {name!r} is unknown; possible: {', '.join(filter(None, known))}")
        return cls(_scheme(scheme, BODY_GROUPING), None if head == KEEP else _scheme(head, FINE_GROUPING), activations, method)

    @property
    def label(self) -> str:
        """A short name: "ternary-int4head-rtn". What was not said is not in it, the method always is."""
        parts = ["mixed" if self.tensors else _short(self.body, BODY_GROUPING)]
        if self.head is not None:
            parts.append(f"{_short(self.head, FINE_GROUPING)}head")
        if self.activations is not None:
            parts.append("token" if self.activations == "int8-token" else "group")
        return "-".join([*parts, self.method])


@dataclass(frozen=True)
class SchemeReport:
    """What became of the tensors that are stored in one form.

    relative_squared_error: sum (w - w')^2 / sum w^2 over those of them that were rounded; None if none was.
    """

    tensors: int
    weights: int
    nbytes: int
    relative_squared_error: float | None

    @property
    def bits_per_weight(self) -> float:
        """Scales and minimums included."""
        return 8 * self.nbytes / self.weights


@dataclass(frozen=True)
class TensorReport:
    """What became of a tensor.

    scheme: or "float32". output_error: the relative squared error of what it puts out on the calibration texts; None if it was not fitted.
    """

    scheme: str
    bits_per_weight: float
    output_error: float | None


@dataclass(frozen=True)
class QuantizationReport:
    """What a quantization did.

    activations: one of `formats.checkpoint.ACTIVATIONS`. schemes: by the form that tensors are stored in. bits_per_weight: of all tensors,
    those of floats too. seconds: from opening the source to the written file; less than it takes in all, if it was interrupted before.
    """

    source: Path
    destination: Path
    recipe: Recipe
    activations: str
    schemes: Mapping[str, SchemeReport]
    tensors: Mapping[str, TensorReport]
    source_bytes: int
    destination_bytes: int
    bits_per_weight: float
    seconds: float


class _Errors:
    """Relative squared errors by scheme, in a dict that is kept up to date: `relative`."""

    def __init__(self, schemes: Iterator[str]) -> None:
        self.relative = dict.fromkeys(schemes, UNKNOWN_ERROR)
        self._sums = {scheme: np.zeros(2) for scheme in self.relative}

    def add(self, weights: F32, matrix: QuantizedMatrix) -> None:
        """Count rows of a matrix that were rounded."""
        sums = self._sums[str(matrix.scheme)]
        error = weights - matrix.dequantize()
        sums += (error**2).sum(dtype=np.float64), (weights**2).sum(dtype=np.float64)
        self.relative[str(matrix.scheme)] = float(f"{sums[0] / sums[1] if sums[1] else 0.0:.3e}")


def quantize(
    source: Path, destination: Path, recipe: Recipe, progress: bool = True, calibration: Sequence[Path] = ()
) -> QuantizationReport:
    """Write the model at `source`, as `convert` does, with its matrices rounded as the recipe says. Nothing measures the result's quality.

    A matrix that is in its scheme already stays as it is, bit for bit; others are rounded from their dequantised weights. Norms become
    float32. The file's provenance says the method, the schemes and their errors; with GPTQ also the calibration texts (`calibration`, or
    what `calibrate.calibration_texts` finds) and each matrix's relative squared output error on them. GPTQ rounds the layers' matrices and
    the head; an int8 head, and an embedding that is no head, are rounded to nearest. Interrupted, it keeps what it has in
    `destination`.partial, and goes on from there.

    UnsupportedModelError: a weight that is not finite or too large. InvalidRequestError: another process writes `destination`; calibration
    texts that are none. And what `convert` raises.
    """
    started, checkpoint = time.monotonic(), rewrite.open_source(source, destination)
    checkpoint = replace(checkpoint, activations=recipe.activations or checkpoint.activations)
    job = _Job(source, destination, recipe, checkpoint)
    if recipe.method == "rtn":
        if calibration:
            raise InvalidRequestError("rounding to nearest looks at no calibration text; leave it out, or quantize by another method")
        return job.write(_to_nearest, {"calibration": None}, progress, started)
    texts = calibration_texts(calibration)
    facts: dict[str, Any] = {"calibration": [{"name": text.name, "sha256": text.sha256} for text in texts]}
    activations: Rounding = "int8-token" if checkpoint.activations == "int8-token" else "int8-g32"
    plan = Plan({name: scheme for name in job.rounded if (scheme := job.targets[name].scheme)}, texts, activations)
    if recipe.method == "reconstruct":
        settings, trainer = _training(checkpoint, texts, recipe, progress)
        plan, facts = replace(plan, trainer=trainer), facts | {"training": asdict(settings)}
    schemes = {name: str(scheme) for name, scheme in plan.schemes.items()}
    with partial(destination, {"source": sha256_of(source), "schemes": schemes} | job.facts | facts) as kept:
        quantize_layers(checkpoint, plan, kept, progress)
        done = _Done(kept, ModelConfig.from_hf(checkpoint.config).num_hidden_layers)
        return job.write(done.matrix, facts | done.errors(), progress, started, done.norms())


def _training(
    checkpoint: Checkpoint, texts: Sequence[CalibrationText], recipe: Recipe, progress: bool
) -> tuple[LayerSettings, Callable[[F32], LayerTrainer]]:
    """The settings as this machine has them, and what makes the trainer. InvalidRequestError: torch is missing, or a text is too short."""
    require_packages()
    from edgellm.quantize.training.numerics import default_precision
    from edgellm.quantize.training.reconstruct import trainer

    settings = replace(recipe.training, precision=recipe.training.precision or default_precision("cpu"))
    return settings, trainer(checkpoint, texts, checkpoint.activations, settings, progress)


class _Done:
    """What `layerwise` left in a partial folder, by tensor."""

    def __init__(self, kept: Partial, layers: int) -> None:
        self._kept, self._layers = kept, [f"layer-{index}" for index in range(layers)]
        self._load = lru_cache(maxsize=1)(kept.load)  # a layer's matrices are asked for one after the other

    def matrix(self, name: str, rows: slice, weights: F32, scheme: Scheme) -> QuantizedMatrix:
        """Rows of the tensor's; an int8 head of its own is rounded to nearest."""
        step = EMBEDDING_STEP if name == EMBEDDING else name.replace("model.layers.", "layer-").split(".")[0]
        found = (self._load(step) or {}).get(name)
        if found is None:
            return round_to_nearest(name, weights, scheme)
        assert isinstance(found.tensor, QuantizedMatrix)
        return found.tensor.take_rows(rows)

    def norms(self) -> dict[str, F32]:
        """Those that were trained."""
        return {name: done.tensor.astype(np.float32) for name, done in self._all() if not isinstance(done.tensor, QuantizedMatrix)}

    def errors(self) -> dict[str, Any]:
        """What the provenance says of errors: those of the matrices, and of the layers where these were trained as a whole."""
        layers = [self._kept.facts(step) for step in self._layers]
        of_matrices = {name: done.output_error for name, done in self._all() if not math.isnan(done.output_error)}
        return {name: found for name, found in (("layers", layers), ("output_error", of_matrices)) if any(found)}

    def _all(self) -> Iterator[tuple[str, Finished]]:
        for step in (EMBEDDING_STEP, *self._layers, HEAD_STEP):
            yield from (self._load(step) or {}).items()


class _Job:
    """One model on its way from `source` to `destination`. targets: what each tensor becomes; rounded: those that change their form."""

    def __init__(self, source: Path, destination: Path, recipe: Recipe, checkpoint: Checkpoint) -> None:
        self.source, self.destination, self.recipe, self.checkpoint = source, destination, recipe, checkpoint
        self.specs = LazyTensors.over(checkpoint.tensors).specs
        if unknown := [name for name in recipe.tensors if name not in self.specs or len(self.specs[name].shape) != 2]:
            raise InvalidRequestError(f"the plan has a scheme for {unknown[0]}, which is no matrix of {source}")
        self.targets = {name: target_of(name, spec, recipe) for name, spec in self.specs.items()}
        self.rounded = [name for name, spec in self.targets.items() if spec.scheme and spec.form != self.specs[name].form]

    @property
    def facts(self) -> dict[str, Any]:
        """What the provenance says of the method."""
        return {"method": self.recipe.method, "activations": self.checkpoint.activations, "tool": f"edgellm {edgellm.__version__}"}

    def write(
        self, rounder: Rounder, facts: Mapping[str, Any], progress: bool, started: float, norms: Mapping[str, F32] = NO_NORMS
    ) -> QuantizationReport:
        """The file, with the matrices that `rounder` makes, and these facts in its provenance.

        started: on the monotonic clock, for the report. norms: those that are not the source's.
        """
        errors = _Errors(self.targets[name].form for name in self.rounded)

        def recode(name: str, rows: slice, tensor: Tensor) -> Tensor:
            if name in norms:
                return norms[name][rows]
            if name not in self.rounded:
                return tensor if isinstance(tensor, QuantizedMatrix) else tensor.astype(np.float32)
            weights, scheme = _weights(tensor), self.targets[name].scheme
            assert scheme is not None
            matrix = rounder(name, rows, weights, scheme)
            errors.add(weights, matrix)
            return matrix

        recipe = self.recipe
        step = f"{'mixed' if recipe.tensors else recipe.body} by {recipe.method}" + (f", head {recipe.head}" if recipe.head else "")
        quality = {"method": recipe.method, "quality": "not measured", "relative_squared_error": errors.relative}
        provenance = rewrite.provenance(self.checkpoint, self.source, step) | quality | dict(facts)
        quantized = replace(self.checkpoint, provenance=provenance)
        rewrite.write(quantized, self.destination, self.targets, recode, progress)
        return self._report(errors.relative, facts.get("output_error", {}), time.monotonic() - started)

    def _report(self, errors: Mapping[str, float], output_errors: Mapping[str, float], seconds: float) -> QuantizationReport:
        forms = sorted({spec.form for spec in self.targets.values()})
        return QuantizationReport(
            source=self.source,
            destination=self.destination,
            recipe=self.recipe,
            activations=self.checkpoint.activations,
            schemes={form: _report(form, self.targets, errors.get(form)) for form in forms},
            tensors={name: _report_of_one(spec, output_errors.get(name)) for name, spec in self.targets.items()},
            source_bytes=sum(spec.nbytes for spec in self.specs.values()),
            destination_bytes=self.destination.stat().st_size,
            bits_per_weight=rewrite.bits_per_weight(self.targets),
            seconds=seconds,
        )


def _scheme(name: str, grouping: str) -> Scheme:
    """The scheme of that name, in that grouping if the name has none; int8 is always fine."""
    has_none = name in FAMILIES
    try:
        return Scheme.parse(f"{name}-{FINE_GROUPING if name == 'int8' else grouping}" if has_none else name)
    except EdgeLLMError as error:
        raise InvalidRequestError(
            f"scheme {name!r} is unknown; possible: {', '.join(FAMILIES)}, alone or with one of -{', -'.join(GROUPINGS)}"
        ) from error


def _short(scheme: Scheme, grouping: str) -> str:
    """The name without its grouping, if that means the same scheme."""
    name = str(scheme).rpartition("-")[0]
    return name if _scheme(name, grouping) == scheme else str(scheme)


def target_of(name: str, spec: TensorSpec, recipe: Recipe) -> TensorSpec:
    """What a tensor becomes."""
    if len(spec.shape) == 1:
        return TensorSpec(spec.shape, "float32", spec.source_type)
    scheme = (recipe.head or spec.scheme or INT8) if name in (EMBEDDING, HEAD) else recipe.body
    return TensorSpec(spec.shape, str(recipe.tensors.get(name, scheme)), spec.source_type)


def _weights(tensor: Tensor) -> F32:
    """The tensor's weights as float32."""
    return tensor.dequantize() if isinstance(tensor, QuantizedMatrix) else tensor.astype(np.float32, copy=False)


def _to_nearest(name: str, _rows: slice, weights: F32, scheme: Scheme) -> QuantizedMatrix:
    return round_to_nearest(name, weights, scheme)


def _report_of_one(spec: TensorSpec, output_error: float | None) -> TensorReport:
    return TensorReport(spec.form, 8 * spec.nbytes / spec.weights, output_error)


def _report(form: str, targets: Mapping[str, TensorSpec], error: float | None) -> SchemeReport:
    specs = [spec for spec in targets.values() if spec.form == form]
    return SchemeReport(len(specs), sum(spec.weights for spec in specs), sum(spec.nbytes for spec in specs), error)
