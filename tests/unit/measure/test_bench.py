from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.errors import InvalidRequestError
from edgellm.measure import bench
from edgellm.measure.backends.protocol import F32, LoadTokenBackend

CALLS = list[tuple[Any, ...]]


class FakeBackend:
    """Writes down what it is asked."""

    vocab_size = 11

    def __init__(self, name: str, threads: int, calls: CALLS) -> None:
        self.name, self.threads, self.calls = name, threads, calls

    def prefill(self, token_ids: Sequence[int]) -> F32:
        self.calls.append((self.name, "prefill", tuple(token_ids)))
        return np.zeros(self.vocab_size, np.float32)

    def decode(self, token_id: int) -> F32:
        self.calls.append((self.name, "decode", token_id))
        return np.zeros(self.vocab_size, np.float32)

    def logits(self, token_ids: Sequence[int]) -> F32:
        raise NotImplementedError

    def description(self) -> dict[str, Any]:
        model = {"model_filename": "m.bin", "model_type": "llama", "model_size": 3 * 2**20, "model_n_params": 2_000_000}
        build = {"build_commit": f"of {self.name}", "csrc_hash": None}
        return {"backend_version": "0", "isa": "scalar", "settings": {}, **build, **model}

    def unload(self) -> None:
        self.calls.append((self.name, "unload"))


@pytest.fixture
def calls() -> CALLS:
    return []


@pytest.fixture
def load(calls: CALLS) -> LoadTokenBackend:
    def load(model: Path, *, threads: int, context: int) -> FakeBackend:
        calls.append(("fake", "load", model.name, threads, context))
        return FakeBackend("fake", threads, calls)

    return load


def test_records_have_llama_bench_fields(load: LoadTokenBackend) -> None:
    records = list(bench.run("m.bin", [8, 16], [4], [1, 2], rounds=3, progress=False, load=load))
    assert [(record["test"], record["n_threads"]) for record in records] == [(test, t) for t in (1, 2) for test in ("pp8", "pp16", "tg4")]
    for record in records:
        assert len(record["samples_ns"]) == len(record["samples_ts"]) == 3
        assert record["avg_ns"] == pytest.approx(np.mean(record["samples_ns"]))
        assert record["stddev_ts"] == pytest.approx(np.std(record["samples_ts"], ddof=1))
        tokens = record["n_prompt"] + record["n_gen"]
        assert record["samples_ts"] == pytest.approx([tokens * 1e9 / ns for ns in record["samples_ns"]])
        assert str(tokens) == record["test"][2:]
        assert record["isa"] == "scalar"
        assert {"build_commit", "csrc_hash", "cpu_info", "backend", "model_size", "test_time"} <= set(record)
    assert json.loads(json.dumps(records)) == records


def test_work_of_a_run(load: LoadTokenBackend, calls: CALLS) -> None:
    list(bench.run("m.bin", [8], [4], [2], rounds=3, progress=False, load=load))
    assert calls[0] == ("fake", "load", "m.bin", 2, 8)
    prefills = [ids for _, what, ids in (call for call in calls if call[1] == "prefill")]
    assert [len(ids) for ids in prefills] == [8] * (1 + 3) + [bench.DEPTH] * (1 + 3)
    assert len(set(prefills)) == 2, "the same token ids in every round"
    assert len([call for call in calls if call[1] == "decode"]) == 4 * (1 + 3)
    assert calls[-1] == ("fake", "unload")


def test_backends_take_turns_on_the_same_ids(calls: CALLS) -> None:
    backends = [FakeBackend(name, 1, calls) for name in "AB"]
    records = list(bench.measure(backends, [bench.Case("pp", 5)], rounds=2, progress=False))
    assert [call[0] for call in calls] == list("ABABAB")
    assert len({call[2] for call in calls}) == 1
    assert [record["backend"] for record in records] == ["A", "B"]


def test_turns_of_any_cases_are_interleaved(calls: CALLS) -> None:
    """The same backend at two depths, say: what is compared is timed in the same minutes."""
    backend = FakeBackend("A", 1, calls)
    cases = [bench.Case("tg", 2, depth=3), bench.Case("pp", 4), bench.Case("tg", 2, depth=6)]
    records = list(bench.interleave([bench.Turn(backend, case) for case in cases], rounds=1, progress=False))
    assert [len(ids) for _, what, ids in (call for call in calls if call[1] == "prefill")] == [3, 4, 6] * 2
    assert [(record["test"], record["n_depth"]) for record in records] == [("tg2 @ d3", 3), ("pp4", 0), ("tg2 @ d6", 6)]
    assert cases[2].context == 8


def test_each_decoded_token_is_timed(load: LoadTokenBackend) -> None:
    prefill, decode = bench.run("m.bin", [8], [4], [1], rounds=3, progress=False, load=load)
    assert [len(tokens) for tokens in decode["itl_ns"]] == [4] * 3
    assert [sum(tokens) for tokens in decode["itl_ns"]] == decode["samples_ns"]
    assert "itl_ns" not in prefill


def test_a_record_names_its_backends_build_and_not_ours(calls: CALLS) -> None:
    backends = [FakeBackend(name, 1, calls) for name in "AB"]
    records = list(bench.measure(backends, [bench.Case("pp", 5)], rounds=1, progress=False))
    assert [(record["build_commit"], record["csrc_hash"]) for record in records] == [("of A", None), ("of B", None)]


def test_ctrl_c_keeps_the_rounds_done_so_far(calls: CALLS) -> None:
    class Interrupted(FakeBackend):
        def prefill(self, token_ids: Sequence[int]) -> F32:
            if len(self.calls) == 3:
                raise KeyboardInterrupt
            return super().prefill(token_ids)

    records = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the loop is what is tested
        for record in bench.measure([Interrupted("A", 1, calls)], [bench.Case("pp", 5), bench.Case("pp", 6)], rounds=9, progress=False):
            records.append(record)  # noqa: PERF402 - list() would lose them
    assert [(record["test"], len(record["samples_ns"])) for record in records] == [("pp5", 2)]


def test_model_is_unloaded_after_a_failure(calls: CALLS) -> None:
    class Broken(FakeBackend):
        def prefill(self, token_ids: Sequence[int]) -> F32:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        list(
            bench.run("m.bin", [8], [], [1], rounds=1, progress=False, load=lambda model, *, threads, context: Broken("A", threads, calls))
        )
    assert calls == [("A", "unload")]


def test_one_round_has_no_deviation(load: LoadTokenBackend) -> None:
    (record,) = list(bench.run("m.bin", [8], [], [1], rounds=1, progress=False, load=load))
    assert record["stddev_ts"] is None
    assert "±" not in bench.table([record])


def test_progress_goes_to_stderr(load: LoadTokenBackend, capsys: pytest.CaptureFixture[str]) -> None:
    list(bench.run("m.bin", [8], [], [1], rounds=2, load=load))
    said = capsys.readouterr()
    assert said.out == ""
    assert "pp8" in said.err


@pytest.mark.parametrize(
    ("prompt_sizes", "gen_sizes", "threads", "rounds", "problem"),
    [
        ([], [], [1], 1, "at least one prompt size or one generation size"),
        ([8], [], [], 1, "at least one number of threads"),
        ([0], [], [1], 1, "prompt size 0 is not possible"),
        ([8], [-4], [1], 1, "generation size -4 is not possible"),
        ([8], [], [1, 0], 1, "threads 0 is not possible"),
        ([8], [], [1], 0, "rounds 0 is not possible"),
    ],
)
def test_silly_arguments(
    prompt_sizes: list[int], gen_sizes: list[int], threads: list[int], rounds: int, problem: str, load: LoadTokenBackend, calls: CALLS
) -> None:
    with pytest.raises(InvalidRequestError, match=problem):
        list(bench.run("m.bin", prompt_sizes, gen_sizes, threads, rounds, progress=False, load=load))
    assert calls == []


def test_table(load: LoadTokenBackend) -> None:
    head, rule, *rows = bench.table(list(bench.run("m.bin", [8], [4], [1], rounds=2, progress=False, load=load))).splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == ["model", "size", "params", "backend", "threads", "test", "t/s"]
    assert len({len(line) for line in (head, rule, *rows)}) == 1
    assert [row.split("|")[6].strip() for row in rows] == ["pp8", "tg4"]
    assert "3.00 MiB" in rows[0]
    assert "2.00 M" in rows[0]
