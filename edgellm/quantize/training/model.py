"""The model that is trained: transformers' own class for the architecture, on a Checkpoint's weights, its matrices rounded as ours are.

What transformers calls a module is what the checkpoint calls its tensor, but for Phi-3's two fused matrices, whose parts are modules of
their own here, and Gemma's norms, which transformers stores less 1.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers.initialization import no_init_weights

from edgellm.errors import UnsupportedModelError
from edgellm.formats import checkpoint as formats
from edgellm.formats.architecture import EMBEDDING, HEAD
from edgellm.formats.checkpoint import Checkpoint
from edgellm.formats.matrix import F32, QuantizedMatrix
from edgellm.quantize.head import is_fitted
from edgellm.quantize.training.straight_through import QuantizedLinear, round_activations, round_weights

FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""Phi-3's modules and the tensors that a checkpoint has in their place."""


class Joined(nn.Module):
    """Several linear maps of one input, their outputs side by side: what a fused matrix computes."""

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)

    def forward(self, x: Tensor) -> Tensor:
        """x [.., K] -> [.., sum of N]."""
        return torch.cat([part(x) for part in self.parts.values()], dim=-1)


class FrozenLinear(nn.Module):
    """y = round(x) W^T + bias for a W [N, K] that is not trained. It may share memory: a head with the embedding."""

    def __init__(self, weights: Tensor, activations: str, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight, self.activations = nn.Parameter(weights, requires_grad=False), activations
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [.., K] -> [.., N]."""
        return nn.functional.linear(round_activations(x, self.activations), self.weight, self.bias)


class RoundedEmbedding(nn.Module):
    """The rows of a head that is the embedding too, and is trained as both."""

    def __init__(self, head: QuantizedLinear, scale: float) -> None:
        super().__init__()
        self._head, self._scale = (head,), scale  # a tuple, so that its parameters are found once

    def forward(self, ids: Tensor) -> Tensor:
        """ids [..] -> [.., K]."""
        (head,) = self._head
        return head.rows(ids) * self._scale


def dense(tensor: formats.Tensor) -> F32:
    """A tensor's weights, a fresh float32 array."""
    weights = tensor.dequantize() if isinstance(tensor, QuantizedMatrix) else tensor
    return np.array(weights, np.float32)


def teacher(original: Checkpoint, attention: str = "sdpa") -> Any:
    """transformers' model on the checkpoint's weights, dequantised, in float32; nothing is rounded and nothing trained.

    attention: transformers' name of how it is computed, which changes its result by rounding only.
    UnsupportedModelError: transformers does not know the architecture, or has other tensors for it.
    """
    model = _empty(original.config, attention)
    state = dict(_transformers_state(original))
    if original.config.get("tie_word_embeddings", False):
        state[HEAD] = state[EMBEDDING]
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise UnsupportedModelError(f"{original.config['model_type']}: transformers has other tensors for this config: {error}") from error
    return model.requires_grad_(False).eval()


def student(original: Checkpoint, initial: Checkpoint, attention: str = "sdpa") -> Any:
    """The model `initial`, a quantized form of `original`, ready to be trained.

    Decoder matrices become `QuantizedLinear`, and so does a head in less than 8 bits; norms are trained too. An embedding that is no head,
    other heads and biases stay as `initial` has them. Latent weights start near the original's, as far as `initial`'s codes allow.
    """
    model = teacher(initial, attention)

    def quantized(name: str, matrix: QuantizedMatrix) -> QuantizedLinear:
        return QuantizedLinear(matrix, dense(original.tensors[name]), initial.activations, _bias(initial, name))

    for name, tensor in initial.tensors.items():
        if isinstance(tensor, QuantizedMatrix) and name not in (EMBEDDING, HEAD):
            _replace(model, name, quantized(name, tensor))
    name = _head_name(initial)
    head = initial.tensors[name]
    if isinstance(head, QuantizedMatrix) and is_fitted(head.scheme):
        model.lm_head = quantized(name, head)
        if name == EMBEDDING:
            model.model.embed_tokens = RoundedEmbedding(model.lm_head, float(getattr(model.model.embed_tokens, "embed_scale", 1.0)))
    else:
        model.lm_head = FrozenLinear(model.lm_head.weight.data, initial.activations)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith((".latent", ".coefficients")) or "norm" in name)
    return model


def quantized_layer(
    layer: nn.Module, index: int, original: Checkpoint, activations: str, tensors: Mapping[str, formats.Tensor], latent: Mapping[str, F32]
) -> nn.Module:
    """A copy of decoder layer `index` of the teacher with `tensors`, by name, in place of its own; inputs of all matrices are rounded.

    Matrices that have `latent` weights become `QuantizedLinear`, and with them the norms can be trained; others stay as they are.
    """
    made = copy.deepcopy(layer)
    prefix, offset = f"model.layers.{index}.", _norm_offset(original.config)
    for name, own in original.tensors.items():
        tensor = tensors.get(name, own)
        if not name.startswith(prefix) or len(tensor.shape) != 2:
            continue
        bias = _bias(original, name)
        linear = (
            QuantizedLinear(tensor, latent[name], activations, bias)
            if isinstance(tensor, QuantizedMatrix) and name in latent
            else FrozenLinear(torch.from_numpy(dense(tensor)), activations, bias)
        )
        _replace(made, name.removeprefix(prefix), linear)
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(bool(latent) and (name.endswith((".latent", ".coefficients")) or "norm" in name))
        if prefix + name in tensors and "norm" in name:
            parameter.data = torch.from_numpy(dense(tensors[prefix + name]) - np.float32(offset))
    return made


def norms(part: nn.Module, config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, F32]]:
    """The weights of the norms of a model, or of a part of it that is called `prefix`, as a checkpoint has them, by tensor."""
    for name, parameter in part.named_parameters(prefix=prefix):
        if "norm" in name:
            yield name, parameter.detach().float().cpu().numpy() + np.float32(_norm_offset(config))


def trained(model: Any, initial: Checkpoint) -> Checkpoint:
    """`initial` with the matrices and norms of the student that was made of it, exactly as it uses them."""
    found: dict[str, formats.Tensor] = {_head_name(initial) if name == HEAD else name: module.matrix() for name, module in linears(model)}
    found |= norms(model, initial.config)
    return replace(initial, tensors={name: found.get(name, tensor) for name, tensor in initial.tensors.items()})


def linears(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, QuantizedLinear]]:
    """The trained matrices of a model, or of a part of it that is called `prefix`, by the names of their tensors."""
    for path, module in model.named_modules(prefix=prefix):
        if isinstance(module, QuantizedLinear):
            owner, _, name = path.rpartition(".")
            if owner.endswith(".parts"):  # of a Joined, which the checkpoint does not know
                owner = owner.removesuffix(".parts").rpartition(".")[0]
            yield f"{owner}.{name}.weight".removeprefix("."), module


@contextmanager
def rounded_once(part: nn.Module) -> Iterator[None]:
    """While the block runs, the matrices of this part of a model are those that they are now: for running it often without training."""
    modules = [module for _, module in linears(part)]
    with torch.no_grad():
        for module in modules:
            module.frozen = round_weights(module.latent, module.coefficients, module.scheme)
    try:
        yield
    finally:
        for module in modules:
            module.frozen = None


def _head_name(checkpoint: Checkpoint) -> str:
    """Of its tensor: a head may be the embedding."""
    return HEAD if HEAD in checkpoint.tensors else EMBEDDING


def _empty(config: Mapping[str, Any], attention: str) -> Any:
    try:
        known = transformers.AutoConfig.for_model(**config)
        with no_init_weights():
            return transformers.AutoModelForCausalLM.from_config(known, dtype=torch.float32, attn_implementation=attention)
    except (KeyError, ValueError) as error:
        raise UnsupportedModelError(f"architecture {config.get('model_type')!r} cannot be trained: transformers: {error}") from error


def _norm_offset(config: Mapping[str, Any]) -> float:
    """What transformers adds to a norm's weights before they multiply."""
    return 1.0 if str(config.get("model_type", "")).startswith("gemma") else 0.0


def _transformers_state(original: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """The checkpoint's tensors as transformers calls and shapes them."""
    offset = np.float32(_norm_offset(original.config))
    fused: dict[str, list[F32]] = {}
    whole = {part: name for name, parts in FUSED.items() for part in parts} if original.config.get("model_type") == "phi3" else {}
    for name, tensor in original.tensors.items():
        weights = dense(tensor)
        owner, _, module = name.removesuffix(".weight").rpartition(".")
        if module in whole:
            fused.setdefault(f"{owner}.{whole[module]}.weight", []).append(weights)
        else:
            yield name, torch.from_numpy(weights - offset if "norm" in name else weights)
    for name, rows in fused.items():
        yield name, torch.from_numpy(np.concatenate(rows))


def _bias(initial: Checkpoint, name: str) -> Tensor | None:
    bias = initial.tensors.get(f"{name.removesuffix('.weight')}.bias")
    return None if bias is None else torch.from_numpy(dense(bias))


def _replace(model: Any, name: str, linear: nn.Module) -> None:
    """Put a trained matrix where transformers has an ordinary one, or a part of one."""
    owner, _, module = name.removesuffix(".weight").rpartition(".")
    parent = model.get_submodule(owner)
    for joined, parts in FUSED.items():
        if module in parts and hasattr(parent, joined):
            if not isinstance(getattr(parent, joined), Joined):
                setattr(parent, joined, Joined(dict.fromkeys(parts, nn.Identity())))
            getattr(parent, joined).parts[module] = linear
            return
    setattr(parent, module, linear)
