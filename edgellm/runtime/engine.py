"""The public face: load a model, get an `Engine`, ask it for logits or text."""

from __future__ import annotations

import operator
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from edgellm.errors import (
    CacheReplacedError,
    ContextOverflowError,
    InvalidRequestError,
    ModelFileError,
    NonFiniteError,
)
from edgellm.formats import open_checkpoint
from edgellm.formats.checkpoint import Checkpoint
from edgellm.formats.fetch import resolve_model
from edgellm.formats.tensors import LazyTensors
from edgellm.model.config import ModelConfig
from edgellm.model.decoder import DecoderState, DecoderWeights, forward, op_names
from edgellm.ops import native
from edgellm.ops.checked import Checked, Finding, finding, forget
from edgellm.ops.interface import I64, KEY_TILE, CheckingOps, Layout, Ops, PackedMatrix, Step
from edgellm.ops.scoring import Scores, score
from edgellm.runtime.cores import default_threads, everywhere, warn_of_too_many
from edgellm.runtime.generate import Generation, generate
from edgellm.runtime.kernels import choose_layouts
from edgellm.runtime.realtime import lock, real_time
from edgellm.runtime.sampling import SamplingParams
from edgellm.runtime.weights import load_weights
from edgellm.runtime.workspace import Arena, new_cache, new_first, new_state, with_lookup_room
from edgellm.text.tokenizer import Tokenizer

F32 = npt.NDArray[np.float32]
KVDtype = Literal["f16", "f32"]

DEFAULT_CONTEXT = 8192  # tokens, where the model allows as many; ask for more by name
PREFILL_CHUNK = 128  # tokens that one replay takes


@dataclass(frozen=True)
class Execution:
    """How steps are to be run over packed weights; what `Engine` was asked, and with `all_taken` that all memory will be touched."""

    layout: Layout | None
    all_taken: bool
    check_finite: bool
    make_ops: Callable[[str, native.Pool], CheckingOps] | None
    make_recorder: Callable[[str], native.Recorder]
    keep_exact_activations: bool


class Engine:
    """A loaded model. One request at a time; a second thread's call is refused while one runs.

    Made by `edgellm.load`. For tests and ablations, `make_ops` (isa, pool -> ops) runs NumPy's or eager ops in place of the recorded
    plan, and `plan` is None then; `make_recorder` (isa -> recorder) records another plan. For measurements,
    `fixed_team` makes every step run on all the threads, also while other processes keep some of them from running.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        context: int | None = None,
        kv_dtype: KVDtype = "f16",
        isa: str | None = None,
        prefill_chunk: int = PREFILL_CHUNK,
        layout: Layout | None = None,
        lock_memory: bool = False,
        realtime: bool = False,
        check_finite: bool = False,
        fixed_team: bool = False,
        make_ops: Callable[[str, native.Pool], CheckingOps] | None = None,
        make_recorder: Callable[[str], native.Recorder] = native.Recorder,
        keep_exact_activations: bool = False,
    ) -> None:
        self.path = path
        self.isa = native.choose_isa(isa)
        self.threads = default_threads() if threads is None else threads
        with everywhere():
            self._pool = native.Pool(self.threads, may_shrink=not (fixed_team or realtime))
        warn_of_too_many(self.threads)
        self.kv_dtype = _checked_kv_dtype(kv_dtype)
        self.prefill_chunk = _checked_chunk(prefill_chunk)
        self._step = Step()
        self.plan: native.Plan | None = None
        how = Execution(layout, lock_memory or realtime, check_finite, make_ops, make_recorder, keep_exact_activations)
        self._replay = self._prepare(self._read(context), how)  # then the file is mapped no more, so that none of it is locked in memory
        self._bytes = {name: arena.nbytes for name, arena in self._arenas.items()}
        self._ids = np.zeros(self.context, np.int32)  # of the tokens in the cache, of which there are so many:
        self._cached = 0
        self.epoch = 0
        """Counts the texts that the cache has held: each call but `decode` and `profile` begins another."""
        self._busy = threading.Lock()
        self._closing = ExitStack()
        if realtime:
            self.tokenizer.prepare(self.config.vocab_size)
            self._closing.enter_context(real_time(self._pool.thread_ids(), tuple(self._arenas.values())))
        elif lock_memory:
            lock(tuple(self._arenas.values()))
        self._real_time_process = os.getpid() if realtime else None
        weakref.finalize(self, self._closing.close)  # for engines that nobody closes
        self.closed = False

    def _read(self, context: int | None) -> Checkpoint:
        """The model's file; what is known of the model besides its weights is noted."""
        checkpoint = open_checkpoint(self.path)
        self.config = ModelConfig.from_hf(checkpoint.config)
        self.context = _checked_context(context, self.config.max_position_embeddings)
        self.tokenizer = Tokenizer(checkpoint.tokenizer_json, checkpoint.config)
        if self.tokenizer.vocab_size > self.config.vocab_size:
            known, rows = self.tokenizer.vocab_size, self.config.vocab_size
            raise ModelFileError(f"{self.path}: the tokenizer has {known} tokens, the model only {rows}")
        self.chat_template = checkpoint.chat_template
        native.trim()  # parsing took far more than the tokenizer does, and what stays free in the heap is held beside the weights
        return checkpoint

    def _prepare(self, checkpoint: Checkpoint, how: Execution) -> Callable[[], None]:
        """Have weights and buffers, in `_arenas` and `_state`; what is returned runs a step over them."""
        chosen = choose_layouts(self.path, LazyTensors.over(checkpoint.tensors).specs, self.isa, self.threads, how.layout)
        self.layouts_from = chosen.source
        """Who chose the kernels of matrices: "asked", "tuned" or "default"."""
        weights, arena = load_weights(checkpoint, self.config, chosen.layouts.__getitem__)
        state, arenas = self._allocate(how.all_taken, checkpoint.activations == "int8-token", how.keep_exact_activations)
        self._state, lookup_arena = with_lookup_room(state, weights, self.threads)
        self._arenas = {"weights": arena, **arenas, "lookup": lookup_arena}
        first = new_first() if how.check_finite else None
        if how.make_ops is None:
            run = self._record(how.make_recorder(self.isa), weights, first)
        else:
            run = self._forward(how.make_ops(self.isa, self._pool), weights, first)
        return run if first is None else self._refusing(run, first)

    def _allocate(self, all_taken: bool, per_token: bool, exact: bool) -> tuple[DecoderState, dict[str, Arena]]:
        """The buffers of a step, and by what `memory` calls them where they lie. all_taken: all of the cache will be touched, so huge pages
        cost nothing; per_token, exact: as in `new_state`.
        """
        room = -(-self.context // KEY_TILE) * KEY_TILE
        cache, cache_arena = new_cache(self.config, room, np.float16 if self.kv_dtype == "f16" else np.float32, all_taken)
        state, state_arena = new_state(self.config, cache, min(self.prefill_chunk, self.context), self.context, per_token, exact)
        return state, {"kv_cache": cache_arena, "workspace": state_arena}

    @property
    def realtime(self) -> bool:
        """Whether real time was asked for; not in a forked child, which has to load the model itself."""
        return self._real_time_process == os.getpid()

    def close(self) -> None:
        """Give back memory and threads, and undo what `realtime` changed in the process. Another call does nothing; any other method is
        refused from now on. An engine that is a context manager closes at the end of the block.
        """
        if self.closed:
            return
        with self._alone():
            self.closed = True
            self._closing.close()
            self.plan = None
            del self._replay, self._state, self._arenas, self._pool

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _record(self, recorder: native.Recorder, weights: DecoderWeights[PackedMatrix], first: I64 | None) -> Callable[[], None]:
        self._forward(recorder, weights, first)()
        self.plan = recorder.plan
        bound = recorder.plan.bind(self._pool, self._step)
        return lambda: native.replay(bound)

    def _forward(self, ops: CheckingOps, weights: DecoderWeights[PackedMatrix], first: I64 | None) -> Callable[[], None]:
        def run() -> None:
            called: Ops = ops if first is None else Checked(ops, first)
            forward(called, self.config, weights, self._state, self._step)

        return run

    def _refusing(self, run: Callable[[], None], first: I64) -> Callable[[], None]:
        """Run, and raise what its checks found."""

        def run_or_raise() -> None:
            forget(first)
            run()
            found = finding(first)
            if found is not None:
                raise self._not_finite(found)

        return run_or_raise

    def _not_finite(self, found: Finding) -> NonFiniteError:
        name = op_names(self.config)[found.op]
        hint = "; kv_dtype f32 has room for larger keys and values" if name.endswith(".cache") and self.kv_dtype == "f16" else ""
        return NonFiniteError(
            f"{name} gave NaN or infinity at position {self._step.position + found.token}, element {found.element}: the model's numbers "
            f"outgrow their type{hint}. The cache is as it was before this step"
        )

    @property
    def cached_tokens(self) -> tuple[int, ...]:
        """The tokens whose keys and values the cache holds."""
        return tuple(self._ids[: self._cached].tolist())

    def memory(self) -> dict[str, int]:
        """Bytes of weights, kv_cache, workspace, and lookup (tables, where there are any). All but the weights are address space: pages
        are touched as they are used."""
        return dict(self._bytes)

    def reset(self) -> None:
        """Forget the cached tokens."""
        with self._alone():
            self.epoch += 1
            self._cached = 0

    def prefill(self, token_ids: Sequence[int]) -> F32:
        """Logits float32 [V] after these tokens; what the cache already holds of them, from the start, is not computed again.

        The result is a view that the next call overwrites. InvalidRequestError: no tokens, or an id outside the vocabulary.
        ContextOverflowError: more tokens than the context; the cache is as it was.
        """
        ids = self._checked(token_ids)
        with self._alone():
            return self._run_up_to(ids)

    def decode(self, token_id: int, epoch: int | None = None) -> F32:
        """Append one token; logits float32 [V] as from `prefill`, with the same errors.

        With `epoch`, as it was after the text's prefill: CacheReplacedError if another text has taken the cache since.
        """
        with self._alone():
            if epoch not in (None, self.epoch):
                raise CacheReplacedError("the engine has run another text since; prefill this one again")
            (token_id,) = self._checked((token_id,))
            if self._cached >= self.context:
                raise ContextOverflowError(f"the context of {self.context} tokens is full; load with a larger context or start anew")
            self._advance((token_id,), 1)
            return self._last_logits()

    def logits(self, token_ids: Sequence[int]) -> F32:
        """Logits float32 [L, V] at every position, from an empty cache; a fresh array. Errors as in `prefill`."""
        ids = self._checked(token_ids)
        out = np.empty((len(ids), self.config.vocab_size), np.float32)
        with self._alone():
            self.epoch += 1
            self._cached = 0
            for chunk, _ in self._chunks(ids):
                done = self._cached
                self._advance(chunk, len(chunk))
                out[done : done + len(chunk)] = self._state.logits_LV[: len(chunk)]
        return out

    def score(self, token_ids: Sequence[int], start: int = 1) -> Scores:
        """The scores of token_ids[start:], n = len(token_ids) - start of them, each given all that precede it; start >= 1.

        The cache then holds all but the last token, which is not run, so that a text may have one token more than the context; what it
        held of them before, from the start up to the first that is scored, is not computed again. Errors as in `prefill`, and
        NonFiniteError where logits hold NaN or an infinity: the cache then holds nothing.
        """
        ids = [*self._checked(token_ids[:-1]), *self._checked(token_ids[-1:])]
        if not 1 <= start < len(ids):
            raise InvalidRequestError(f"start is {start}; of {len(ids)} tokens, those from 1 to {len(ids) - 1} can be scored")
        nll, greedy = np.empty(len(ids) - start), np.empty(len(ids) - start, np.bool_)
        with self._alone():
            self.epoch += 1
            self._cached = min(_common_prefix(self._ids[: self._cached], ids), start - 1)
            for chunk, _ in self._chunks(ids[self._cached : -1]):
                outputs = min(len(chunk), max(0, self._cached + len(chunk) + 1 - start))
                self._advance(chunk, outputs)
                scored = slice(self._cached + 1 - outputs, self._cached + 1)
                targets = np.array(ids[scored], np.int32)
                at = slice(scored.start - start, scored.stop - start)
                nll[at], greedy[at] = score(self._state.logits_LV[:outputs], targets, self._pool, self.isa)
                self._require_finite(nll[at])
        return Scores(nll, greedy)

    def score_next(self, token_ids: Sequence[int], candidates: Sequence[int]) -> Scores:
        """The scores of n candidates, each as the token after token_ids, all by the logits of one `prefill`. Errors as in `score`."""
        ids, targets = self._checked(token_ids), np.array(self._checked(candidates), np.int32)
        with self._alone():
            logits = self._run_up_to(ids)[np.newaxis]
            each = [score(logits, targets[i : i + 1], self._pool, self.isa) for i in range(len(targets))]
            self._require_finite(each[0].nll)
        return Scores(*map(np.concatenate, zip(*each, strict=True)))

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int = 128,
        stop: str | Sequence[str] = (),
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        ignore_eos: bool = False,
    ) -> Generation:
        """Continue a text or token ids: an iterator of tokens with their text and timestamps (see `runtime.generate`)."""
        sampling = SamplingParams(temperature, top_k, top_p, min_p, repetition_penalty, seed)
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        return generate(self, ids, sampling, max_tokens, stop, ignore_eos)

    def repeat(self) -> None:
        """Run the last step again, on the same tokens at the same positions: the same logits, for whoever times it."""
        with self._alone():
            if not self._cached:
                raise InvalidRequestError("there is no step to repeat: prefill or decode first")
            self._replay()

    def profile(self) -> list[tuple[str, int]]:
        """Repeat the last step with a barrier after each op: (op, nanoseconds) in order. Needs a step to repeat."""
        with self._alone():
            if self.plan is None or not self._cached:
                raise InvalidRequestError("there is no recorded step to profile: prefill or decode first, with the recorded plan")
            times = self.plan.profile(self._pool, self._step)
        return list(zip((op.name for op in self.plan.ops), times.tolist(), strict=True))

    def _run_up_to(self, ids: list[int]) -> F32:
        """Logits after these tokens, of which those are run that the cache does not begin with."""
        self.epoch += 1
        shared = _common_prefix(self._ids[: self._cached], ids)
        self._cached = min(shared, len(ids) - 1)  # the last token is run again for its logits
        for chunk, is_last in self._chunks(ids[self._cached :]):
            self._advance(chunk, 1 if is_last else 0)
        return self._last_logits()

    def _advance(self, ids: Sequence[int], n_outputs: int) -> None:
        """Run one step and note its tokens as cached."""
        self._state.tokens_L[: len(ids)] = ids
        self._step.set(self._cached, len(ids), n_outputs)
        self._replay()
        self._ids[self._cached : self._cached + len(ids)] = ids
        self._cached += len(ids)

    def _require_finite(self, nll: npt.NDArray[np.float64]) -> None:
        """Of the last tokens that were scored."""
        if np.isnan(nll).any():
            position = self._cached - len(nll) + int(np.isnan(nll).argmax())
            self._cached = 0
            raise NonFiniteError(
                f"the logits after position {position} hold NaN or an infinity, so that no token has a probability there; "
                "load the model with check_finite to see which operation gives them"
            )

    def _last_logits(self) -> F32:
        view: F32 = self._state.logits_LV[0]
        return view

    def _chunks(self, ids: list[int]) -> Iterator[tuple[list[int], bool]]:
        for start in range(0, len(ids), self.prefill_chunk):
            yield ids[start : start + self.prefill_chunk], start + self.prefill_chunk >= len(ids)

    def _checked(self, token_ids: Sequence[int]) -> list[int]:
        ids = [operator.index(token) for token in token_ids]
        if not ids:
            raise InvalidRequestError("there are no tokens to run; at least one is needed")
        if len(ids) > self.context:
            raise ContextOverflowError(f"{len(ids)} tokens were given; the context holds {self.context}")
        if min(ids) < 0 or max(ids) >= self.config.vocab_size:
            wrong = next(token for token in ids if not 0 <= token < self.config.vocab_size)
            raise InvalidRequestError(f"token id {wrong} is outside the vocabulary of {self.config.vocab_size}")
        return ids

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._busy.locked():
            raise InvalidRequestError("the engine is busy with another thread's request; use one engine per thread, or wait")
        with self._busy:  # between taking it and being sure to give it back no Ctrl-C can come
            if self.closed:
                raise InvalidRequestError("the engine is closed; load the model again")
            yield


def load(
    path: str | Path,
    *,
    threads: int | None = None,
    context: int | None = None,
    kv_dtype: KVDtype = "f16",
    isa: str | None = None,
    prefill_chunk: int = PREFILL_CHUNK,
    layout: Layout | None = None,
    lock_memory: bool = False,
    realtime: bool = False,
    check_finite: bool = False,
) -> Engine:
    """Load a `.tmac2.bin` (or the name of a converted model in the cache).

    threads: default, the physical cores that this process may use. context: tokens, default the model's up to 8192; where a model has two
    ropes for short and for long contexts (Phi-3's longrope), it chooses between them (see `model.rope.LongScaling`).
    kv_dtype: "f16" or "f32". isa: one of `ops.native.ISAS`, default EDGELLM_ISA or the best this processor runs.
    prefill_chunk: prompt tokens that one step takes; it changes speed and memory, never a bit of the result.
    layout: "multiply-add" or "lookup" for every matrix that has it (int8 is always multiplied), default what `edgellm tune` found to be
    faster on this machine, or else what was on another of its kind; it changes no bit either. A tuning that does not hold here, because
    the machine, the kernels, the model or the threads are others, is an EdgeLLMWarning and not used.
    lock_memory: have all of the engine's memory at once and keep it, the cache of the whole context included.
    realtime: also lock the process in memory, bind each thread to a core, and run before all ordinary processes, on the calling thread
    (see `runtime.realtime`, also for what threads, programs and forked children that it starts get). For lock_memory and realtime, what the
    system refuses is an EdgeLLMWarning.
    check_finite: after each operation look for NaN and infinities in what it wrote; a step that has one is a NonFiniteError that says where
    it came up first, and the cache is as it was before the step. Otherwise they go unnoticed until no token can be drawn.
    Raises an `EdgeLLMError` that says what is wrong and what is possible.
    """
    return Engine(
        resolve_model(path),
        threads=threads,
        context=context,
        kv_dtype=kv_dtype,
        isa=isa,
        prefill_chunk=prefill_chunk,
        layout=layout,
        lock_memory=lock_memory,
        realtime=realtime,
        check_finite=check_finite,
    )


def _common_prefix(cached: npt.NDArray[np.int32], ids: list[int]) -> int:
    shared = min(len(cached), len(ids))
    differ = np.flatnonzero(cached[:shared] != ids[:shared])
    return int(differ[0]) if len(differ) else shared


def _checked_context(asked: int | None, largest: int) -> int:
    if asked is None:
        return min(DEFAULT_CONTEXT, largest)
    if not 1 <= asked <= largest:
        raise InvalidRequestError(f"context must be between 1 and the model's {largest} tokens, not {asked}")
    return asked


def _checked_kv_dtype(asked: str) -> str:
    if asked not in ("f16", "f32"):
        raise InvalidRequestError(f"kv_dtype must be 'f16' or 'f32', not {asked!r}")
    return asked


def _checked_chunk(asked: int) -> int:
    if not 1 <= asked <= 4096:
        raise InvalidRequestError(f"prefill_chunk must be between 1 and 4096, not {asked}")
    return asked
