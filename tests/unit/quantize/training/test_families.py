"""Every architecture can be trained: the model in torch is transformers', and what was trained is what the engine runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'edgellm[train]'")
pytest.importorskip("transformers", reason="training needs transformers: pip install 'edgellm[train]'")

import edgellm  # noqa: E402
from edgellm.formats.architecture import HEAD  # noqa: E402
from edgellm.formats.matrix import QuantizedMatrix  # noqa: E402
from edgellm.formats.tmac2 import write_tmac2  # noqa: E402
from edgellm.quantize.gptq import Rounded  # noqa: E402
from edgellm.quantize.training import model as models  # noqa: E402
from edgellm.quantize.training.distill import ATTENTION  # noqa: E402
from edgellm.quantize.training.reconstruct import LayerTrainer  # noqa: E402
from edgellm.quantize.training.settings import LayerSettings  # noqa: E402
from edgellm.runtime.weights import dense_matrix  # noqa: E402
from tests import tiny  # noqa: E402
from tests.unit.quantize.training import small  # noqa: E402

GOLDEN = Path(__file__).parents[3] / "golden" / "families.npz"


@pytest.mark.parametrize("attention", ATTENTION.values())
@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_the_teacher_gives_the_recorded_logits(name: str, attention: str) -> None:
    teacher = models.teacher(tiny.checkpoint(name), attention)
    with torch.no_grad():
        found = teacher(torch.tensor([tiny.tokens()]), use_cache=False).logits[0, tiny.RECORDED].numpy()
    np.testing.assert_allclose(found, np.load(GOLDEN)[name], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_a_head_that_is_trained_runs_as_in_torch(name: str, tmp_path: Path, tokenizer_json: str) -> None:
    """In few bits, it is a part of the student; where it is the embedding, too, that is scaled as the architecture has it."""
    original = tiny.checkpoint(name, tokenizer_json)
    initial = small.rounded(original, "int8-g32", original.activations, head="int4-min-g32")
    student = models.student(original, initial)
    assert HEAD in dict(models.linears(student))
    write_tmac2(path := tmp_path / "m.tmac2.bin", models.trained(student, initial))
    with torch.no_grad():
        theirs = student(torch.tensor([tiny.tokens()]), use_cache=False).logits[0].numpy()
    ours = edgellm.load(path, kv_dtype="f32", context=tiny.CONTEXTS.get(name)).logits(tiny.tokens())
    assert np.abs(ours - theirs).mean() < 2e-3 * np.abs(theirs).max()


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_a_trained_model_runs_as_in_torch(name: str, tmp_path: Path, tokenizer_json: str) -> None:
    original = tiny.checkpoint(name, tokenizer_json)
    initial = small.rounded(original, "int4-min-g32", original.activations)
    assert small.same_tensors(models.trained(models.student(original, initial), initial).tensors, initial.tensors)
    windows = np.array([tiny.tokens(), tiny.tokens()[::-1]] * 3)
    embedding = dense_matrix(original.tensors["model.embed_tokens.weight"]).weights
    trainer = LayerTrainer(original, embedding, windows, original.activations, LayerSettings(windows=2, precision="float32"), False)
    tensors = dict(initial.tensors.items())
    for index in range(original.config["num_hidden_layers"]):
        layer = [name for name in initial.tensors if name.startswith(f"model.layers.{index}.") and name.endswith("_proj.weight")]
        matrices = {name: matrix for name in layer if isinstance(matrix := initial.tensors[name], QuantizedMatrix)}
        rounded = {name: Rounded(matrix, dense_matrix(original.tensors[name]).weights) for name, matrix in matrices.items()}
        finished, error = trainer.train(index, rounded)
        assert error["after"] < error["before"]
        trainer.advance(index, finished)
        tensors |= {name: done.tensor for name, done in finished.items()}
    result = replace(initial, tensors=tensors)
    path = tmp_path / "m.tmac2.bin"
    write_tmac2(path, result)
    with torch.no_grad():
        theirs = models.student(original, result)(torch.tensor([tiny.tokens()]), use_cache=False).logits[0].numpy()
    ours = edgellm.load(path, kv_dtype="f32", context=tiny.CONTEXTS.get(name)).logits(tiny.tokens())
    assert np.abs(ours - theirs).mean() < 2e-3 * np.abs(theirs).max()
