"""The model in torch is the engine's: the same logits, quantized or not, before and after training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'edgellm[train]'")
pytest.importorskip("transformers", reason="training needs transformers: pip install 'edgellm[train]'")

import edgellm  # noqa: E402
from edgellm.errors import UnsupportedModelError  # noqa: E402
from edgellm.formats.architecture import EMBEDDING, HEAD  # noqa: E402
from edgellm.formats.checkpoint import Checkpoint  # noqa: E402
from edgellm.formats.tmac2 import read_tmac2, write_tmac2  # noqa: E402
from edgellm.ops.reference import Reference  # noqa: E402
from edgellm.quantize.training import model as models  # noqa: E402
from edgellm.runtime.engine import Engine  # noqa: E402
from tests.unit.quantize.training import small  # noqa: E402

IDS = list(range(3, 40))


def torch_logits(model: object) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = model(torch.tensor([IDS]), use_cache=False).logits[0].numpy()  # type: ignore[operator]
    return logits


def test_the_teacher_is_the_model_without_rounded_activations(tmp_path: Path, tokenizer_json: str) -> None:
    original = small.original(tokenizer_json)
    write_tmac2(tmp_path / "m.tmac2.bin", original)
    exact = Engine(
        tmp_path / "m.tmac2.bin", kv_dtype="f32", make_ops=lambda *_: Reference(quantize_activations=False), keep_exact_activations=True
    )
    np.testing.assert_allclose(torch_logits(models.teacher(original)), exact.logits(IDS), rtol=0, atol=1e-4)


@pytest.mark.parametrize("activations", ["int8-g32", "int8-token"])
@pytest.mark.parametrize("scheme", ["ternary-g64", "tritplanes2-g64", "int2-min-g64", "int3-g32", "int4-min-g32", "int8-row"])
def test_what_was_trained_is_what_runs(scheme: str, activations: str, tmp_path: Path, tokenizer_json: str) -> None:
    """Codes, scales and norms move as in training; the engine gives the logits of the model in torch."""
    original = small.original(tokenizer_json)
    moved_and_compared(original, small.rounded(original, scheme, activations), tmp_path)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scheme", ["int3-min-g32", "tritplanes2-g64", "ternary-tensor"])
def test_so_is_a_trained_head(scheme: str, tied: bool, tmp_path: Path, tokenizer_json: str) -> None:
    """Where it is the embedding too, its rows are what the layers start from."""
    original = small.original(tokenizer_json, tied)
    name = EMBEDDING if tied else HEAD
    initial = small.rounded(original, "int8-row", head=scheme)
    made = moved_and_compared(original, initial, tmp_path)
    assert str(made.tensors[name].scheme) == scheme  # type: ignore[union-attr]
    assert not small.same_tensors({name: made.tensors[name]}, {name: initial.tensors[name]})
    assert tied or small.same_tensors({EMBEDDING: made.tensors[EMBEDDING]}, {EMBEDDING: initial.tensors[EMBEDDING]})


def test_an_int8_head_stays(tokenizer_json: str) -> None:
    original = small.original(tokenizer_json)
    student = models.student(original, small.rounded(original, "int3-g32", head="int8-row"))
    assert HEAD not in dict(models.linears(student))


def moved_and_compared(original: Checkpoint, initial: Checkpoint, folder: Path) -> Checkpoint:
    student = models.student(original, initial)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in student.parameters() if p.requires_grad):
            parameter.add_(0.1 * parameter.std(correction=0) * torch.randn(parameter.shape, generator=generator))
    path = folder / "m.tmac2.bin"
    write_tmac2(path, models.trained(student, initial))
    made = read_tmac2(path)
    assert not small.same_tensors(made.tensors, initial.tensors)
    assert made.activations == initial.activations
    ours, theirs = edgellm.load(path, kv_dtype="f32").logits(IDS), torch_logits(student)
    # an activation on the border between two int8 codes may fall to either side, one step in 127, and later tokens see it
    assert np.abs(ours - theirs).mean() < 2e-3 * np.abs(theirs).max()
    assert np.abs(ours - theirs).max() < 2e-2 * np.abs(theirs).max()
    return made


def test_a_student_starts_as_the_model_it_is_given(tokenizer_json: str) -> None:
    original = small.original(tokenizer_json)
    initial = small.rounded(original, "ternary-g32")
    assert small.same_tensors(models.trained(models.student(original, initial), initial).tensors, initial.tensors)


def test_an_architecture_that_transformers_lacks_is_refused() -> None:
    original = small.original()
    with pytest.raises(UnsupportedModelError, match="architecture 'nonesuch' cannot be trained"):
        models.teacher(replace(original, config=original.config | {"model_type": "nonesuch"}))
