"""A whole model trained to predict what the original does: it learns, the same way each time, and nothing stops it without a trace."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'edgellm[train]'")
pytest.importorskip("transformers", reason="training needs transformers: pip install 'edgellm[train]'")

from edgellm.errors import FetchError, InvalidRequestError, NonFiniteError  # noqa: E402
from edgellm.formats.matrix import QuantizedMatrix  # noqa: E402
from edgellm.quantize.training import distill as module  # noqa: E402
from edgellm.quantize.training import model as models  # noqa: E402
from edgellm.quantize.training.distill import Outcome, Plan, Settings, distill  # noqa: E402
from edgellm.quantize.training.settings import Rates  # noqa: E402
from edgellm.quantize.training.teacher_text import generated  # noqa: E402
from tests.unit.quantize.training import small  # noqa: E402

RATES = Rates(weight=2e-2, scale=5e-3, norm=2e-3)
SETTINGS = Settings(rates=RATES, steps=12, batch=4, micro_batch=2, precision="float32")
PLAN = Plan(evaluate_every=5, save_every=0, progress=False)


def run(folder: Path, settings: Settings = SETTINGS, plan: Plan = PLAN, scheme: str = "ternary-g64") -> Outcome:
    original = small.original()
    return distill(original, small.rounded(original, scheme), small.windows(10), small.windows(2), settings, plan, folder)


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("scheme", ["ternary-g64", "tritplanes2-g64", "int2-min-g64"])
def test_the_divergence_falls(scheme: str, tmp_path: Path) -> None:
    outcome = run(tmp_path, replace(SETTINGS, steps=30), scheme=scheme)
    losses = [line["loss"] for line in log(tmp_path) if "loss" in line]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    assert (outcome.steps, outcome.tokens) == (30, 30 * 4 * 24)
    assert sorted(path.name for path in tmp_path.glob("state-*")) == ["state-00000029.safetensors", "state-00000030.safetensors"]


def test_the_loss_is_the_divergence_over_the_whole_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the tokens are divided for lack of room."""
    original = small.original()
    initial = small.rounded(original, "ternary-g64")
    sequences = small.windows(4)
    with torch.no_grad():
        ids = torch.from_numpy(sequences)
        teacher, student = (
            m(ids, use_cache=False).logits.log_softmax(-1) for m in (models.teacher(original), models.student(original, initial))
        )
        expected = float((teacher.exp() * (teacher - student)).sum(-1).mean())
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 7)
    distill(original, initial, sequences, sequences, replace(SETTINGS, steps=1), PLAN, tmp_path)
    assert [line["loss"] for line in log(tmp_path) if "loss" in line] == pytest.approx([expected], rel=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_are_those_of_the_loss_however_it_is_divided(tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a head in few bits too, which is the embedding or not, and is rounded once for all its tokens."""
    original = small.original(tied=tied)
    initial = small.rounded(original, "ternary-g64", head="int3-min-g64")
    ids = small.windows(2)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 7)
    divided = module._Run(original, initial, ids, ids, SETTINGS, PLAN, tmp_path)
    divided._backward(torch.from_numpy(ids), ids.size)
    student = models.student(original, initial)
    teacher, ours = (m(torch.from_numpy(ids), use_cache=False).logits.log_softmax(-1) for m in (models.teacher(original), student))
    torch.nn.functional.kl_div(ours, teacher, reduction="sum", log_target=True).div(ids.size).backward()
    expected = {name: parameter.grad for name, parameter in student.named_parameters() if parameter.requires_grad}
    assert "lm_head.latent" in expected
    for name, parameter in divided.parameters.items():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-6, msg=lambda what, name=name: f"{name}: {what}")


@pytest.mark.parametrize(("at", "by"), [(6, "a signal"), (11, "a signal"), (6, "a kill")])
def test_an_interrupted_run_ends_at_the_same_bits(at: int, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal ends it after the step; what kills it loses the steps since the last state."""
    whole = run(tmp_path / "whole")
    step = module._Run._train

    def interrupted(self: Any, batch: Any, planned: int) -> float:
        if self.step == at and by == "a kill":
            raise KeyboardInterrupt
        if self.step == at:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch, planned)

    monkeypatch.setattr(module._Run, "_train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "halved", plan=replace(PLAN, save_every=3600))
    assert len(list((tmp_path / "halved").glob("state-*"))) == (1 if by == "a kill" else 2)
    monkeypatch.setattr(module._Run, "_train", step)
    resumed = run(tmp_path / "halved")
    assert small.same_tensors(resumed.checkpoint.tensors, whole.checkpoint.tensors)
    assert (resumed.perplexity, resumed.first_perplexity) == (whole.perplexity, whole.first_perplexity)
    losses = [[line["loss"] for line in log(tmp_path / name) if "loss" in line] for name in ("whole", "halved")]
    assert losses[0] == losses[1]


def test_scales_alone_keep_every_code(tmp_path: Path) -> None:
    initial = small.rounded(small.original(), "int3-g32")
    result = run(tmp_path, replace(SETTINGS, scales_only=True, rates=Rates(0.5, 1e-3, 1e-3)), scheme="int3-g32").checkpoint
    name = "model.layers.1.mlp.up_proj.weight"
    before, after = initial.tensors[name], result.tensors[name]
    assert isinstance(before, QuantizedMatrix)
    assert isinstance(after, QuantizedMatrix)
    assert (before.codes == after.codes).mean() > 0.99  # a weight that lies between two levels may come to lie nearer to the other
    assert not np.array_equal(before.scales, after.scales)


def test_minutes_are_used_and_kept(tmp_path: Path) -> None:
    start = time.monotonic()
    outcome = run(tmp_path, replace(SETTINGS, steps=None), replace(PLAN, deadline=start + 3))
    assert 1.5 < time.monotonic() - start < 4.5  # with room for a busy machine's last step
    assert outcome.steps > 4
    factors = [line["rate_factor"] for line in log(tmp_path) if "rate_factor" in line]
    assert max(factors) > 0.8  # the first step, of unknown length, did not take the schedule's better part
    assert factors[-1] < 0.2  # it came to its end as the time did


def test_minutes_count_over_all_calls_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deadline = time.monotonic() + 3
    run(tmp_path, replace(SETTINGS, steps=None), replace(PLAN, deadline=deadline))
    steps = len([line for line in log(tmp_path) if "loss" in line])
    again = run(tmp_path, replace(SETTINGS, steps=None), replace(PLAN, deadline=time.monotonic() + 3))
    assert again.steps <= steps + 2


def test_how_long_has_to_be_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="--steps or --minutes"):
        run(tmp_path, replace(SETTINGS, steps=None))


@pytest.mark.parametrize(("save_every", "what"), [(3600, "the loss of step 1 is nan"), (0, "after step 1 a weight is not finite")])
def test_a_run_that_diverges_stops_and_the_last_sound_state_is_kept(save_every: float, what: str, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=f"{what}; .* keeps the last state before"):
        run(tmp_path, replace(SETTINGS, rates=Rates(1e-3, 1e-3, float("inf"))), replace(PLAN, save_every=save_every))
    assert [path.name for path in tmp_path.glob("state-*")] == ["state-00000000.safetensors"]


def test_another_run_is_refused(tmp_path: Path) -> None:
    run(tmp_path, replace(SETTINGS, steps=1))
    with pytest.raises(InvalidRequestError, match="is of a run with other settings"):
        run(tmp_path, replace(SETTINGS, steps=2))


def test_a_full_disk_leaves_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any) -> None:
        def refuse(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        if self.step == 8:
            monkeypatch.setattr("edgellm.formats.atomic.os.fsync", refuse)
        save(self)

    save = module._Run._save
    monkeypatch.setattr(module._Run, "_save", full)
    with pytest.raises(FetchError, match=r"state-00000008.safetensors: cannot be written: the disk is full"):
        run(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*state-*")) == ["state-00000006.safetensors", "state-00000007.safetensors"]


def text(folder: Path, count: int = 6, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "count": count,
        "length": 12,
        "batch": 3,
        "seed": 0,
        "bos_id": 0,
        "precision": "float32",
        "progress": False,
    }
    return generated(models.teacher(small.original()), folder, **(arguments | changes))


def test_the_teacher_writes_the_same_text_once(tmp_path: Path) -> None:
    first = text(tmp_path / "a")
    assert first.shape == (6, 12)
    assert (first[[0, 2, 3, 5], 0] == 0).all()
    assert np.array_equal(first, text(tmp_path / "b"))
    assert not np.array_equal(first, text(tmp_path / "c", seed=1))
    files = sorted((tmp_path / "a").iterdir())
    times = [file.stat().st_mtime_ns for file in files]
    assert np.array_equal(first, text(tmp_path / "a"))
    assert np.array_equal(first, text(tmp_path / "a", count=9)[:6])
    assert [file.stat().st_mtime_ns for file in files] == times


def test_the_teacher_writes_what_it_thinks_comes_next(tmp_path: Path) -> None:
    """Drawn with its cache, the tokens are as probable as they are to the model without one: their mean -log p is its entropy."""
    teacher = models.teacher(small.original())
    ids = torch.from_numpy(text(tmp_path, count=60, length=24, batch=60))
    with torch.no_grad():
        log_p = teacher(ids[:, :-1], use_cache=False).logits.log_softmax(-1)
    surprise = -log_p.gather(-1, ids[:, 1:, None]).mean()
    entropy = -(log_p.exp() * log_p).sum(-1).mean()
    assert float(surprise) == pytest.approx(float(entropy), rel=0.05)


def test_text_that_takes_too_long_is_cut_short(tmp_path: Path) -> None:
    assert len(text(tmp_path, count=60, until=time.monotonic())) == 3


def test_broken_text_is_refused(tmp_path: Path) -> None:
    text(tmp_path)
    (broken, _) = sorted(tmp_path.iterdir())
    broken.write_bytes(broken.read_bytes()[:90])
    with pytest.raises(InvalidRequestError, match="delete it to have it drawn again"):
        text(tmp_path)
