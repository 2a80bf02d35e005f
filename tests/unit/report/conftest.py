"""Small result files of every kind, as the programs that write them lay them out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Document = dict[str, Any]
Write = Callable[[str, object], Path]

FINGERPRINT: Document = {
    "cpu_model": "Cortex-A76",
    "architecture": "aarch64",
    "cpu_count": 4,
    "memory_bytes": 8 * 2**30,
    "governor": "performance",
    "system": "Linux",
    "kernel": "6.6.1",
    "hypervisor": "none",
    "container": "docker",
    "build": {"csrc_hash": "cafe", "compiler": "gcc 12.2.0"},
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
}


def backend(name: str = "edgellm", **changes: Any) -> Document:
    return {
        "name": name,
        "threads": 1,
        "backend_version": "0.1.0",
        "isa": "neon",
        "model_filename": "model.tmac2.bin",
        "model_size": 100_000_000,
        "model_n_params": 134_000_000,
        **changes,
    }


def round_of(milliseconds: float) -> Document:
    ns = round(milliseconds * 1e6)
    return {"ttft_ns": ns, "itl_ns": [ns // 10, ns // 5], "e2e_ns": ns + ns // 10 + ns // 5, "prompt_tokens": 128, "telemetry": {}}


def latency_test(whom: Document | None = None, prompt: str = "medium", rounds: int = 100, **changes: Any) -> Document:
    """One benchmark's `extra_info`."""
    return {
        "schema": "edgellm-latency",
        "version": 2,
        "provenance": "measured",
        "test": f"test_latency[{prompt}]",
        "backend": whom or backend(),
        "prompt": {"name": prompt, "tokens": {"short": 8, "medium": 128, "long": 512}[prompt], "counted": True},
        "warmup_rounds": 5,
        "rounds": [round_of(80)] * rounds,
        "figures": {
            "ttft_p50_ms": 80.5,
            "ttft_p95_ms": 90.25,
            "ttft_p99_ms": 95.0,
            "itl_p50_ms": 3.5,
            "itl_p99_ms": 4.25,
            "itl_mad_ms": 0.125,
            "itl_p99_over_p50": 1.21,
            "run_jitter_std_ms": 2.5,
            "tokens_per_second": 280.0,
        },
        "intervals": {"ttft_p50_ms": [80, 81], "ttft_p95_ms": [88, 104], "ttft_p99_ms": [91, None], "run_jitter_std_ms": [2, 3]},
        "rounds_needed": {"ttft_p99_ms": 299},
        "noise": {"spin_p99_over_p50": 1.75, "read_p99_over_p50": None},
        "not_measured": {"joules_per_token": "no energy provider: /sys/class/powercap is empty"},
        **changes,
    }


def latency_document(*tests: Document, **changes: Any) -> Document:
    return {
        "datetime": "2026-11-23T18:00:00+00:00",
        "benchmarks": [{"name": f"test_{number}", "extra_info": test} for number, test in enumerate(tests)],
        "fingerprint": FINGERPRINT,
        "bystanders": {"others": 0.031, "stolen": 0.0},
        **changes,
    }


def results_document(kind: str, *records: Document, **changes: Any) -> Document:
    return {
        "schema": "edgellm-results",
        "version": 1,
        "kind": kind,
        "created": "2026-11-23T18:10:00+00:00",
        "provenance": "measured",
        "fingerprint": FINGERPRINT,
        "records": list(records),
        **changes,
    }


def bench_record(**changes: Any) -> Document:
    description = backend()
    return {
        "backend": description.pop("name"),
        "n_threads": 1,
        **description,
        "test": "tg64",
        "samples_ts": [99.0, 101.0, 100.0],
        **changes,
    }


def quality_record(**changes: Any) -> Document:
    nlls = [3.0, 3.25, 3.5, 2.75]
    return {
        "backend": "edgellm",
        "text": "wikitext2_test",
        "window_tokens": 1024,
        "ppl": 22.9,
        "window_nlls": nlls,
        "reference": {"backend": "transformers", "ppl": 22.7, "window_nlls": [nll - 0.01 for nll in nlls]},
        **changes,
    }


def scheme_record(
    scheme: str = "int4-g64", bits: float = 4.5, ratio: float = 1.04, file_bytes: int = 90_000_000, **changes: Any
) -> Document:
    texts = ("wikitext2_test", "tinyshakespeare")
    figure = {"value": 0.25, "interval": [0.2, 0.3]}
    return {
        "scheme": scheme,
        "backend": "edgellm",
        "baseline": "dequantised",
        "file_bytes": file_bytes,
        "weights": 134_000_000,
        "layers_bits_per_weight": bits,
        "perplexity": [
            {"text": text, "bos": bos, "ppl": 20 * ratio, "ratio": ratio, "ratio_interval": [ratio - 0.005, ratio + 0.005]}
            for text in texts
            for bos in (False, True)
        ],
        "divergence": [
            {"text": text, "tokens": 2048, "kl_mean": figure, "kl_median": figure, "kl_p99": figure, "flip_rate": figure} for text in texts
        ],
        "tg64": {"avg_ts": 101.5},
        "energy": {"joules_per_token": None, "why_not": "no sensor"},
        **changes,
    }


def accuracy(**right: float) -> Document:
    """Of tasks, the baseline being right in half of the items of each."""
    return {
        "tasks": [
            {
                "task": task,
                "items": 200,
                "accuracy": share,
                "baseline_accuracy": 0.5,
                "delta": share - 0.5,
                "delta_interval": [share - 0.53125, share - 0.46875],
            }
            for task, share in right.items()
        ]
    }


def journal(*milliseconds: float, **head: Any) -> str:
    lines = [
        {"schema": "edgellm-journal", "version": 1, "created": "2026-11-23T18:20:00+00:00", "fingerprint": FINGERPRINT, **head},
        *(
            {
                "test": "test_latency[medium]",
                "backend": backend(),
                "prompt": {"name": "medium", "tokens": 128, "counted": True},
                "round": round_of(each),
            }
            for each in milliseconds
        ),
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """write(name, content): a file in the working folder with this text, these bytes, or this document as JSON."""
    monkeypatch.chdir(tmp_path)

    def written(name: str, content: object) -> Path:
        path = Path(name)
        data = content if isinstance(content, bytes) else (content if isinstance(content, str) else json.dumps(content)).encode()
        path.write_bytes(data)
        return path

    return written
