"""Block-wise reconstruction: a layer that GPTQ has rounded is trained to give what the original's layer gives.

Its input is what the quantized layers before it make of the calibration text, its target what the original layer makes of the original's:
so it also learns to undo what they got wrong (as in BRECQ, Li et al., 2021, and in OmniQuant, Shao et al., 2023). All of a layer is trained
at once: latent weights, scales and minimums through `straight_through`, and the norms; activations are rounded meanwhile. Latent weights
start at what GPTQ had made of each weight just before it rounded it, so training begins at GPTQ's solution.

The squared error of a token is divided by the energy of the layer's update, the error that its input comes with, and their median over the
tokens. The few tokens that attention sinks on have a thousand times the energy of others and would else be all that is learned.

Shapes: S windows of L tokens, D hidden.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from edgellm.errors import NonFiniteError
from edgellm.formats import checkpoint as formats
from edgellm.formats.checkpoint import Checkpoint
from edgellm.formats.matrix import F32
from edgellm.model.config import ModelConfig
from edgellm.quantize.calibrate import CalibrationText
from edgellm.quantize.gptq import Rounded
from edgellm.quantize.partial import Finished
from edgellm.quantize.training import model as models
from edgellm.quantize.training.numerics import autocast, default_precision, optimizer
from edgellm.quantize.training.settings import LayerSettings
from edgellm.quantize.training.tokens import Ids, encode, windows
from edgellm.text.tokenizer import Tokenizer

EMPTY: Mapping[str, F32] = MappingProxyType({})
HELD_OUT = 4
"""Windows, the last ones, that are not trained on: a layer's error is that on them."""


def trainer(
    original: Checkpoint, texts: Sequence[CalibrationText], activations: str, settings: LayerSettings, progress: bool
) -> Callable[[F32], LayerTrainer]:
    """What makes the trainer of the embedding, float32 [V, D], as it will be stored. InvalidRequestError: a text is too short."""
    tokenizer = Tokenizer(original.tokenizer_json, original.config)
    drawn = windows(
        encode(tokenizer, texts),
        settings.windows + HELD_OUT,
        settings.length,
        settings.seed,
        tokenizer.bos_id,
        int(original.config["vocab_size"]),
    )
    return lambda embedding: LayerTrainer(original, embedding, drawn, activations, settings, progress)


class LayerTrainer:
    """Takes the calibration windows through the original and the quantized model, a layer at a time, and trains the latter's layers."""

    def __init__(
        self, original: Checkpoint, embedding: F32, token_ids: Ids, activations: str, settings: LayerSettings, progress: bool = True
    ) -> None:
        """embedding: float32 [V, D], as it will be stored. token_ids: [S, L], those after the first settings.windows to see the error by.

        UnsupportedModelError: transformers does not know the architecture.
        """
        self._original, self._activations, self._settings, self._progress = original, activations, settings, progress
        self._precision = settings.precision or default_precision("cpu")
        self._teacher = models.teacher(original)
        ids = torch.from_numpy(token_ids)
        self._arguments = _layer_arguments(self._teacher, ids[:1])
        self._wanted: Tensor = torch.cat([self._teacher.get_input_embeddings()(row[None]) for row in ids]).detach()
        self._next: Tensor | None = None
        scale = np.float32(ModelConfig.from_hf(original.config).embedding_scale)
        self._hidden = torch.from_numpy(embedding[token_ids] * scale)

    def train(self, index: int, rounded: Mapping[str, Rounded]) -> tuple[dict[str, Finished], dict[str, float]]:
        """The layer's matrices and norms after training, by tensor, and its error before and after.

        rounded: those of its matrices that are quantized, by tensor, as GPTQ has them. NonFiniteError: the loss is NaN or infinite.
        """
        layer = self._layer(index, {name: done.matrix for name, done in rounded.items()}, {n: done.updated for n, done in rounded.items()})
        data = _Data(self._hidden, self._wanted, self._targets(index))
        errors = self._trained(index, layer, data)
        prefix = f"model.layers.{index}"
        tensors: dict[str, formats.Tensor] = {name: linear.matrix() for name, linear in models.linears(layer, prefix)}
        tensors |= models.norms(layer, self._original.config, prefix)
        return {name: Finished(tensor, math.nan) for name, tensor in tensors.items()}, errors

    def advance(self, index: int, finished: Mapping[str, Finished]) -> None:
        """Go past the layer; `finished` are its tensors that are other than the original's."""
        self._wanted, self._next = self._targets(index), None
        layer = self._layer(index, {name: done.tensor for name, done in finished.items()})
        self._hidden = self._outputs(index, layer, self._hidden, self._precision)

    def _layer(self, index: int, tensors: Mapping[str, formats.Tensor], latent: Mapping[str, F32] = EMPTY) -> nn.Module:
        return models.quantized_layer(self._teacher.model.layers[index], index, self._original, self._activations, tensors, latent)

    def _targets(self, index: int) -> Tensor:
        """What the original's layer puts out, computed once."""
        if self._next is None:
            self._next = self._outputs(index, self._teacher.model.layers[index], self._wanted, "float32")
        return self._next

    def _outputs(self, index: int, layer: nn.Module, inputs: Tensor, precision: str) -> Tensor:
        with torch.no_grad(), models.rounded_once(layer), autocast(precision, "cpu"):
            return torch.cat([run_layer(layer, x[None], self._arguments[index]) for x in inputs])

    def _trained(self, index: int, layer: nn.Module, data: _Data) -> dict[str, float]:
        """Train the layer; its error before and after."""
        settings, arguments = self._settings, self._arguments[index]
        steps = settings.epochs * settings.windows
        before = self._error(index, layer, data)
        rng = np.random.default_rng([settings.seed, index])
        adam = optimizer(layer, settings.rates)
        schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: (1 + math.cos(math.pi * step / steps)) / 2)
        order = np.concatenate([rng.permutation(settings.windows) for _ in range(settings.epochs)]).tolist()
        for window in tqdm(order, desc=f"train layer {index}", unit="step", leave=False, disable=not self._progress):
            with autocast(self._precision, "cpu"):
                output = run_layer(layer, self._hidden[window : window + 1], arguments)
            loss = data.loss(window, output)
            if not loss.isfinite():
                raise NonFiniteError(f"layer {index}: the loss is not finite; the layers before it are kept: try a lower --learning-rate")
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()
        return {"before": before, "after": self._error(index, layer, data)}

    def _error(self, index: int, layer: nn.Module, data: _Data) -> float:
        """The mean loss over the windows that are held out."""
        outputs = self._outputs(index, layer, self._hidden[self._settings.windows :], self._precision)
        losses = [float(data.loss(i, output)) for i, output in enumerate(outputs, self._settings.windows)]
        return float(f"{np.mean(losses):.4e}")


class _Data:
    """What a layer is trained to put out, targets [S, L, D], and the weight of each token's error, [S, L]."""

    def __init__(self, inputs: Tensor, original_inputs: Tensor, targets: Tensor) -> None:
        self.targets = targets
        energies = [((t - x).square() + (q - x).square()).mean(dim=-1) for q, x, t in zip(inputs, original_inputs, targets, strict=True)]
        energy = torch.stack(energies)
        self.weights = 1 / (energy + energy.median())

    def loss(self, window: int, output: Tensor) -> Tensor:
        """The mean over the tokens of their weighted squared error."""
        return ((output - self.targets[window]).square().mean(dim=-1) * self.weights[window]).mean()


def run_layer(layer: nn.Module, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """A decoder layer on the residual stream; some architectures' layers give a tuple."""
    output = layer(hidden, **arguments)
    return output[0] if isinstance(output, tuple) else output


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
