"""What both ways of training share: the precision that products are computed in, and each parameter's learning rate."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgellm.errors import InvalidRequestError
from edgellm.quantize.training import model as models
from edgellm.quantize.training.settings import Rates

BETAS = (0.9, 0.95)


def autocast(precision: str, device: str) -> torch.autocast:
    """Products in bfloat16 where `precision` says so; weights, sums and the residual stream are float32 all the same."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")


def optimizer(part: nn.Module, rates: Rates) -> torch.optim.Adam:
    """Adam over the parameters of a model or a layer that are to be trained; a group's "lr" is its rate at the schedule's top."""
    groups: list[dict[str, Any]] = []
    for _, linear in models.linears(part):
        distance = float(linear.coefficients.detach()[..., linear.scheme.planes - 1].abs().mean())
        groups += [
            {"params": [linear.latent], "lr": rates.weight * distance},
            {"params": [linear.coefficients], "lr": rates.scale * distance},
        ]
    for name, parameter in part.named_parameters():
        if "norm" in name:
            groups.append({"params": [parameter], "lr": rates.norm * float(parameter.detach().abs().mean())})
    trained = [group for group in groups if group["params"][0].requires_grad]
    return torch.optim.Adam(trained, betas=BETAS, fused=True)


def choose_device(asked: str | None) -> str:
    """ "cuda" or "cpu"; InvalidRequestError where a GPU was asked for that torch does not find."""
    found = torch.cuda.is_available()
    if asked == "cuda" and not found:
        raise InvalidRequestError(f"torch {torch.__version__} finds no GPU; install a build with CUDA, or train on --device cpu")
    return asked or ("cuda" if found else "cpu")


def default_precision(device: str) -> str:
    """bfloat16 where it is faster: on a GPU, or a processor that has instructions for it."""
    capable = device == "cuda" or torch.cpu.get_capabilities().get("avx512_bf16") or torch.cpu.get_capabilities().get("amx_bf16")
    return "bfloat16" if capable else "float32"
