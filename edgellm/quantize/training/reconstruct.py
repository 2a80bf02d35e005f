"""Block-wise reconstruction: a quantized model's layers are trained one after the other, each to give what the original's gives.

A layer's input is what the quantized layers before it make of the calibration text, its target what the original layer makes of the
original's: so it also learns to undo what they got wrong (as in BRECQ, Li et al., 2021, and in OmniQuant, Shao et al., 2023). All of a
layer is trained at once: latent weights, scales and minimums through `straight_through`, and the norms; activations are rounded meanwhile.

The squared error of a token is divided by the energy of the layer's update, the error that its input comes with, and their median over the
tokens. The few tokens that attention sinks on have a thousand times the energy of others and would else be all that is learned.

Shapes: S windows of L tokens, D hidden.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from edgellm.errors import NonFiniteError
from edgellm.formats.checkpoint import Checkpoint
from edgellm.formats.matrix import F32
from edgellm.quantize.training import model as models
from edgellm.quantize.training import snapshots
from edgellm.quantize.training.numerics import Rates, autocast, optimizer
from edgellm.quantize.training.tokens import Ids


@dataclass(frozen=True)
class Settings:
    """How layers are trained.

    epochs:    how often each window is met; a step takes one
    rates:     learning rates at first; they fall to 0 like a cosine
    precision: "bfloat16", in which the products are computed while weights and sums stay float32, or "float32"
    """

    epochs: int = 3
    rates: Rates = field(default_factory=lambda: Rates(weight=1e-2, scale=3e-3, norm=1e-3))
    seed: int = 0
    precision: str = "bfloat16"


@dataclass(frozen=True)
class LayerReport:
    """A layer's error, as the loss has it: before it was trained, in the last epoch and how long it took."""

    layer: int
    before: float
    after: float
    seconds: float


def reconstruct(
    original: Checkpoint,
    initial: Checkpoint,
    windows: Ids,
    settings: Settings,
    run_folder: Path,
    wanted: Mapping[str, F32] | None = None,
    progress: bool = True,
) -> tuple[Checkpoint, list[LayerReport]]:
    """Train `initial`, a quantized form of `original`, on windows of token ids [S, L]; what comes out is in the same schemes.

    run_folder: keeps each layer as soon as it is trained. A run that was interrupted goes on from there and ends at the same bits.
    wanted: where latent weights start (see `models.student`).

    NonFiniteError: a layer's loss is NaN or infinite. InvalidRequestError: `run_folder` holds another run. FetchError: the disk is full.
    """
    run = snapshots.digest(asdict(settings) | {"windows": windows, "initial": initial, "original": original.provenance})
    full, quantized = models.teacher(original), models.student(original, initial, wanted)
    ids = torch.from_numpy(windows)[:, None]
    arguments = _layer_arguments(full, ids[0])
    with torch.no_grad():
        targets = [full.get_input_embeddings()(row) for row in ids]
        inputs = [quantized.get_input_embeddings()(row) for row in ids]
    reports = []
    with tqdm(total=settings.epochs * len(ids) * len(arguments), unit="step", desc="reconstruct", disable=not progress) as bar:
        for index, (original_layer, layer) in enumerate(zip(full.model.layers, quantized.model.layers, strict=True)):
            data = _Data(inputs, targets, _outputs(original_layer, arguments[index], targets, settings.precision))
            path = run_folder / f"layer-{index:03}.safetensors"
            if path.exists():
                state, facts = snapshots.read(path, run)
                layer.load_state_dict(state)
                bar.update(settings.epochs * len(ids))
            else:
                facts = _train(layer, arguments[index], data, settings, index, bar)
                snapshots.write(path, layer.state_dict(), run, facts)
            reports.append(LayerReport(index, **facts))
            bar.set_postfix_str(f"layer {index}: error {facts['before']:.3f} -> {facts['after']:.3f}")
            targets, inputs = data.targets, _outputs(layer, arguments[index], inputs, settings.precision)
    return models.trained(quantized, initial), reports


class _Data:
    """What a layer is trained on: the windows' inputs [1, L, D] and targets [1, L, D], and the weight of each token's error [1, L]."""

    def __init__(self, inputs: list[Tensor], original_inputs: list[Tensor], targets: list[Tensor]) -> None:
        self.inputs, self.targets = inputs, targets
        streams = list(zip(inputs, original_inputs, targets, strict=True))
        energies = [((target - x).square() + (q - x).square()).mean(dim=-1) for q, x, target in streams]
        median = torch.cat(energies).median()
        self.weights = [1 / (energy + median) for energy in energies]

    def loss(self, window: int, output: Tensor) -> Tensor:
        """The mean over the tokens of their weighted squared error."""
        return ((output - self.targets[window]).square().mean(dim=-1) * self.weights[window]).mean()


def _train(layer: nn.Module, arguments: Mapping[str, Any], data: _Data, settings: Settings, index: int, bar: tqdm[Any]) -> dict[str, float]:
    """Train one layer; its loss before, its mean loss in the last epoch, and the seconds that it took."""
    start = time.monotonic()
    windows, steps = len(data.inputs), settings.epochs * len(data.inputs)
    with torch.no_grad():
        outputs = _outputs(layer, arguments, data.inputs, settings.precision)
        before = sum(float(data.loss(i, output)) for i, output in enumerate(outputs)) / windows
    rng = np.random.default_rng([settings.seed, index])
    adam = optimizer(layer, settings.rates)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: (1 + math.cos(math.pi * step / steps)) / 2)
    losses: list[float] = []
    for window in np.concatenate([rng.permutation(windows) for _ in range(settings.epochs)]).tolist():
        with autocast(settings.precision, "cpu"):
            output = run_layer(layer, data.inputs[window], arguments)
        loss = data.loss(window, output)
        if not loss.isfinite():
            raise NonFiniteError(
                f"layer {index}: the loss of step {len(losses)} is not finite; the layers before it are kept: try lower learning rates"
            )
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        losses.append(float(loss.detach()))
        bar.update()
    return {"before": before, "after": float(np.mean(losses[-windows:])), "seconds": time.monotonic() - start}


def run_layer(layer: nn.Module, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """A decoder layer on the residual stream; some architectures' layers give a tuple."""
    output = layer(hidden, **arguments)
    return output[0] if isinstance(output, tuple) else output


def _outputs(layer: nn.Module, arguments: Mapping[str, Any], inputs: list[Tensor], precision: str) -> list[Tensor]:
    with torch.no_grad(), models.rounded_once(layer), autocast(precision, "cpu"):
        return [run_layer(layer, x, arguments) for x in inputs]


def _layer_arguments(model: Any, ids: Tensor) -> list[dict[str, Any]]:
    """What each decoder layer is called with besides the residual stream: rope tables, masks. The same for all windows of a length."""
    arguments: list[dict[str, Any]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _module, _args, kwargs: arguments.append(dict(kwargs)), with_kwargs=True)
        for layer in model.model.layers
    ]
    with torch.no_grad():
        model.model(ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return arguments
