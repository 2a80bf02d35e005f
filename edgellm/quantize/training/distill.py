"""End-to-end distillation: a quantized model is trained to predict what the original predicts, all layers at once.

The loss is the Kullback-Leibler divergence of the student's next-token distribution from the teacher's, over the whole vocabulary, in
nats a token. Head and softmax run over some tokens at a time, since logits of all would not fit: their gradients with respect to the last
hidden state are gathered first, then sent back through the layers once.

A run lives in a folder: `state-STEP.safetensors`, of which the last two are kept, `log.jsonl`, and `curve.png` where matplotlib is
installed. Its data are sequences in an order that the seed gives, so step and seed say what comes next, and a run of a given number of
steps that was interrupted ends at the same bits. One that is given minutes plans its steps by the speed that it measures. SIGINT (Ctrl-C)
and SIGTERM let it finish its step and write its state.

Shapes: S sequences of L tokens, B sequences a step, D hidden, V vocabulary.
"""

from __future__ import annotations

import json
import math
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from edgellm.errors import InvalidRequestError, NonFiniteError
from edgellm.formats.atomic import replacing
from edgellm.formats.checkpoint import Checkpoint
from edgellm.quantize.training import model as models
from edgellm.quantize.training import snapshots
from edgellm.quantize.training.curve import draw_curve
from edgellm.quantize.training.numerics import autocast, optimizer
from edgellm.quantize.training.settings import Rates
from edgellm.quantize.training.straight_through import QuantizedLinear
from edgellm.quantize.training.tokens import Ids

ROWS_AT_ONCE = 512
"""Tokens whose logits are held together: 100 MB for each of some arrays, with a vocabulary of 49152."""
ATTENTION = {"cpu": "eager", "cuda": "sdpa"}
"""transformers' name of the way to compute it: on a processor, two matrix products and a softmax take a third of the fused one's time."""
KEPT_STATES = 2
WARM_UP = 0.03
"""The part of the run in which learning rates rise."""
SPEED_STEPS = 20
"""Steps whose median time the plan is made of."""
UNKNOWN_STEPS = 100
"""How many the plan has while no step was timed: few would let the first one take most of the schedule."""


@dataclass(frozen=True)
class Settings:
    """How a model is distilled; what changes the result.

    steps:  how many; None lets the time decide
    batch:  sequences a step; micro_batch: of them, how many go through the model together
    scales_only: leave the codes as they are
    """

    rates: Rates = field(default_factory=lambda: Rates.of(2e-3))
    steps: int | None = None
    batch: int = 32
    micro_batch: int = 32
    scales_only: bool = False
    seed: int = 0
    precision: str = "bfloat16"


@dataclass(frozen=True)
class Plan:
    """When to do what; it does not change what a step does.

    deadline: time.monotonic() by which all is done, evaluation and writing included; earlier by what earlier calls of the run have used
    evaluate_every: steps; save_every: seconds
    """

    deadline: float | None = None
    evaluate_every: int = 100
    save_every: float = 300
    compiled: bool = False
    device: str = "cpu"
    progress: bool = True


@dataclass(frozen=True)
class Outcome:
    """What came of it: the model, steps and tokens in all, and perplexity on the held-out sequences of teacher and student."""

    checkpoint: Checkpoint
    steps: int
    tokens: int
    teacher_perplexity: float
    first_perplexity: float
    perplexity: float


def distill(
    original: Checkpoint, initial: Checkpoint, sequences: Ids, held_out: Ids, settings: Settings, plan: Plan, run_folder: Path
) -> Outcome:
    """Train `initial`, a quantized form of `original`, on token ids [S, L]; what comes out is in the same schemes.

    InvalidRequestError: neither steps nor a deadline, or `run_folder` holds another run. NonFiniteError: the loss is NaN or infinite.
    FetchError: the disk is full. KeyboardInterrupt: by SIGINT or SIGTERM. After each of them the last states are still there.
    """
    if settings.steps is None and plan.deadline is None:
        raise InvalidRequestError("say how long to train: --steps or --minutes")
    return _Run(original, initial, sequences, held_out, settings, plan, run_folder).run()


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set while the block runs, in place of what they do else. Only the main thread can have them."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Divergence(torch.autograd.Function):
    """Logits of student and teacher [N, V] -> the sum of KL(teacher || student); fewer passes over memory than `kl_div` takes."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        log_q, log_p = student.float().log_softmax(dim=-1), teacher.float().log_softmax(dim=-1)
        p = log_p.exp()
        total = torch.dot(p.flatten(), log_p.sub_(log_q).flatten())
        ctx.save_for_backward(log_q.exp_().sub_(p).to(student.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return slope * gradient.to(slope.dtype), None


class _Run:
    """The state of a run, on its way."""

    def __init__(
        self, original: Checkpoint, initial: Checkpoint, sequences: Ids, held_out: Ids, settings: Settings, plan: Plan, run_folder: Path
    ) -> None:
        self.settings, self.plan, self.folder, self.initial = settings, plan, run_folder, initial
        self.name = snapshots.digest(asdict(settings) | {"sequences": sequences, "initial": initial, "original": original.provenance})
        self.sequences, self.held_out = sequences, torch.from_numpy(held_out).to(plan.device)
        attention = ATTENTION[plan.device]
        self.teacher = models.teacher(original, attention).to(plan.device)
        self.student = models.student(original, initial, attention).to(plan.device)
        if settings.scales_only:
            for _, linear in models.linears(self.student):
                linear.latent.requires_grad_(False)
        self.body = torch.compile(self.student.model) if plan.compiled else self.student.model
        self.parameters = {name: p for name, p in self.student.named_parameters() if p.requires_grad}
        self.optimizer = optimizer(self.student, settings.rates)
        self.top_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.step, self.part_done = 0, 0.0
        self.step_seconds: list[float] = []
        self.closing_seconds = 0.0
        self.start, self.seconds_before = time.monotonic(), 0.0

    def run(self) -> Outcome:
        """From the last state to the end."""
        torch.backends.cuda.matmul.allow_tf32 = True  # the head's float32 products
        first = self._resume()
        teacher_perplexity = self._perplexity(self.teacher)
        start = time.monotonic()
        perplexity = self._perplexity(self.student)
        self._save()
        self.closing_seconds = 2 * (time.monotonic() - start)
        first = perplexity if first is None else first
        self._log({"step": self.step, "perplexity": perplexity, "teacher_perplexity": teacher_perplexity})
        bar = tqdm(total=self.settings.steps, initial=self.step, unit="step", desc="distill", disable=not self.plan.progress)
        with bar, stop_signals() as stopped:
            for batch in self._batches():
                planned = self._planned_steps()
                if self.step >= planned:
                    break
                bar.total = planned
                loss = self._train(batch, planned)
                bar.set_postfix_str(f"loss {loss:.4f}, perplexity {perplexity:.2f}")
                bar.update()
                if self.step % self.plan.evaluate_every == 0:
                    perplexity = self._perplexity(self.student)
                    self._log({"step": self.step, "perplexity": perplexity})
                if stopped.is_set() or time.monotonic() - self.saved >= self.plan.save_every:
                    self._save()
                if stopped.is_set():
                    raise KeyboardInterrupt
        perplexity = self._perplexity(self.student)
        self._log({"step": self.step, "perplexity": perplexity})
        self._save()
        draw_curve(self.folder / "log.jsonl", self.folder / "curve.png")
        return Outcome(models.trained(self.student, self.initial), self.step, self._tokens(), teacher_perplexity, first, perplexity)

    def _batches(self) -> Iterator[Tensor]:
        """From this step on, [B, L]: the sequences in a new order each time all were seen."""
        size, batch = len(self.sequences), self.settings.batch
        order, epoch = np.empty(0, np.int64), -1
        while True:
            start = self.step * batch
            rows = []
            for i in range(start, start + batch):
                if i // size != epoch:
                    epoch = i // size
                    order = np.random.default_rng([self.settings.seed, epoch]).permutation(size)
                rows.append(order[i % size])
            yield torch.from_numpy(self.sequences[rows]).to(self.plan.device)

    def _planned_steps(self) -> int:
        """How many steps there will be in all, as far as can be told now."""
        if self.settings.steps is not None:
            return self.settings.steps
        assert self.plan.deadline is not None
        left = self.plan.deadline - self.seconds_before - self.closing_seconds - time.monotonic()
        if not self.step_seconds:
            return self.step + (UNKNOWN_STEPS if left > 0 else 0)
        return self.step + max(0, int(left / statistics.median(self.step_seconds[-SPEED_STEPS:])))

    def _train(self, batch: Tensor, planned: int) -> float:
        """One step; its loss."""
        start = time.monotonic()
        # of what was left when the run was resumed, or the plan changed, each step takes its share
        self.part_done += (1 - self.part_done) / (planned - self.step)
        factor = min(1.0, self.part_done / WARM_UP) * (1 + math.cos(math.pi * min(1.0, self.part_done))) / 2
        for group, rate in zip(self.optimizer.param_groups, self.top_rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.zero_grad()
        loss = sum(self._backward(part, batch.numel()) for part in batch.split(self.settings.micro_batch))
        if not math.isfinite(loss):
            raise self._diverged(f"the loss of step {self.step} is {loss}")
        self.optimizer.step()
        self.step += 1
        seconds = time.monotonic() - start
        self.step_seconds.append(seconds)
        memory = torch.cuda.max_memory_allocated() if self.plan.device == "cuda" else None
        facts = {"step": self.step, "tokens": self._tokens(), "loss": loss, "rate_factor": factor, "planned_steps": planned}
        self._log(facts | {"tokens_per_second": batch.numel() / seconds, "gpu_memory_bytes": memory})
        return loss

    def _diverged(self, what: str) -> NonFiniteError:
        return NonFiniteError(
            f"{what}; {self.folder} keeps the last state before. Begin anew, in another folder, with a lower --learning-rate"
        )

    def _backward(self, ids: Tensor, tokens: int) -> float:
        """Gradients of the loss over a part of the step's tokens; the part's share of it."""
        with autocast(self.settings.precision, self.plan.device):
            with torch.no_grad():
                wanted_BLD = self.teacher.model(ids, use_cache=False).last_hidden_state
            hidden_BLD = self.body(ids, use_cache=False).last_hidden_state
        hidden_D = hidden_BLD.detach().flatten(0, 1).requires_grad_()
        total, head = 0.0, self.student.lm_head
        with head.rounded_for_all() if isinstance(head, QuantizedLinear) else nullcontext():
            for rows, wanted in zip(hidden_D.split(ROWS_AT_ONCE), wanted_BLD.flatten(0, 1).split(ROWS_AT_ONCE), strict=True):
                loss = self._divergence(rows, wanted) / tokens
                loss.backward()
                total += float(loss.detach())
        hidden_BLD.backward(hidden_D.grad.view_as(hidden_BLD))
        return total

    def _divergence(self, hidden: Tensor, wanted: Tensor) -> Tensor:
        """The sum over tokens [N, D] of KL(teacher || student)."""
        precision = self.settings.precision if self.plan.device == "cpu" else "float32"  # a GPU can afford exact logits
        with autocast(precision, self.plan.device):
            with torch.no_grad():
                teacher = self.teacher.lm_head(wanted.to(self.teacher.lm_head.weight.dtype))
            student = self.student.lm_head(hidden)
        return cast("Tensor", _Divergence.apply(student, teacher))

    def _perplexity(self, model: Any) -> float:
        """On the held-out sequences, each token given those before it in its sequence."""
        total = 0.0
        with torch.no_grad(), models.rounded_once(model), autocast(self.settings.precision, self.plan.device):
            for ids in self.held_out:
                logits = model(ids[None, :-1], use_cache=False).logits[0].float()
                total += float(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum"))
        return math.exp(min(total / (self.held_out.shape[0] * (self.held_out.shape[1] - 1)), 700))

    def _tokens(self) -> int:
        return self.step * self.settings.batch * self.sequences.shape[1]

    def _log(self, facts: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("state-*.safetensors"))

    def _save(self) -> None:
        """Write the state of this step, if it is sound, and keep the one before."""
        if not all(parameter.isfinite().all() for parameter in self.parameters.values()):
            raise self._diverged(f"after step {self.step} a weight is not finite")
        tensors = {f"parameter.{name}": parameter for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            tensors |= {f"{key}.{name}": value for key, value in self.optimizer.state.get(parameter, {}).items()}
        seconds = self.seconds_before + time.monotonic() - self.start
        facts = {"step": self.step, "part_done": self.part_done, "seconds": seconds}
        snapshots.write(self.folder / f"state-{self.step:08}.safetensors", tensors, self.name, facts)
        for old in self._states()[:-KEPT_STATES]:
            old.unlink()
        self.saved = time.monotonic()

    def _resume(self) -> float | None:
        """Go to the last state, if there is one; the log loses what came after it. The perplexity that the run began with, if known."""
        if not (states := self._states()):
            return None
        tensors, facts = snapshots.read(states[-1], self.name)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"parameter.{name}"])
                kept = {key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in tensors}
                if kept:
                    self.optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in kept.items()}
        self.step, self.part_done, self.seconds_before = facts["step"], facts["part_done"], facts["seconds"]
        log = self.folder / "log.jsonl"
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        kept_lines = [line for line in lines if line["step"] <= self.step]
        with replacing(log) as file:
            file.write("".join(json.dumps(line) + "\n" for line in kept_lines).encode())
        return next((line["perplexity"] for line in kept_lines if "perplexity" in line), None)
