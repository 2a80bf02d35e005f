"""What a change of the sources gives: built checkouts take turns at the same work, and a results file keeps every sample.

    python -m scripts.compare_builds MODEL NAME=FOLDER NAME=FOLDER ... [--threads 1,2] [--cases tg8@128,tg8@2048,pp128] -o FILE

A checkout has its C module built in place. tgN@D decodes N tokens after D cached ones, each timed; ppN prefills N tokens at once. Then the
last step is repeated op by op. Ratios are of a build's time to the first one's, of the same round.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click

from edgellm.measure.fingerprint import fingerprint
from edgellm.measure.results import Record, ResultsFile
from edgellm.measure.table import markdown

COLUMNS = ("build", "threads", "test", "us a call", "ratio", "us of each op")


@dataclass(frozen=True)
class Work:
    """`tokens` decoded one at a time after `depth` others (`kind` "tg"), or prefilled at once ("pp")."""

    kind: str
    tokens: int
    depth: int

    @classmethod
    def parse(cls, text: str) -> Work:
        """From "tg8@2048" or "pp128"."""
        match = re.fullmatch(r"(?:(tg)(\d+)@(\d+)|(pp)(\d+))", text)
        if not match:
            raise click.BadParameter(f"{text!r} is neither like tg8@2048 nor like pp128")
        return cls("tg", int(match[2]), int(match[3])) if match[1] else cls("pp", int(match[5]), 0)


class Build:
    """The parent's end of a process that runs a checkout's engine: it answers {calls_ns: [...], ops_ns: {op: ...}}."""

    def __init__(self, folder: Path, model: Path, threads: int) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "--child", str(model), str(threads)]
        env = os.environ | {"PYTHONPATH": str(folder.resolve())}
        self._child = subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, work: str) -> Any:
        """One round."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        print(work, file=self._child.stdin, flush=True)
        line = self._child.stdout.readline()
        if not line:
            raise click.ClickException(f"a build's process ended with {self._child.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self._child.communicate()


def serve(model: str, threads: int) -> None:
    """The child's end; only what every checkout has is called."""
    import edgellm

    engine = edgellm.load(model, threads=threads)
    for line in sys.stdin:
        work, calls_ns = Work.parse(line.strip()), []
        ids = [i * 7919 % engine.config.vocab_size for i in range(work.depth + work.tokens)]
        if work.kind == "pp":
            engine.reset()
        else:
            engine.prefill(ids[: work.depth])
        for i in range(work.tokens if work.kind == "tg" else 1):
            start = time.perf_counter_ns()
            engine.prefill(ids) if work.kind == "pp" else engine.decode(ids[work.depth + i])
            calls_ns.append(time.perf_counter_ns() - start)
        ops_ns: Counter[str] = Counter()
        for name, op_ns in engine.profile():
            ops_ns[name] += op_ns
        print(json.dumps({"calls_ns": calls_ns, "ops_ns": ops_ns}), flush=True)


def compare(model: Path, folders: dict[str, Path], threads: int, cases: list[str], rounds: int) -> list[Record]:
    """A record for each case and build. The first round of a case warms up, and fills the caches that the later ones find filled."""
    builds = {name: Build(folder, model, threads) for name, folder in folders.items()}
    answers: dict[tuple[str, str], list[Any]] = {(case, name): [] for case in cases for name in builds}
    for case in cases:
        for number in range(1 + rounds):
            for name, build in builds.items():
                answer = build.run(case)
                if number:
                    answers[case, name].append(answer)
    for build in builds.values():
        build.close()
    times = {key: [median(answer["calls_ns"]) for answer in found] for key, found in answers.items()}
    records = []
    for (case, name), found in answers.items():
        first = times[case, next(iter(builds))]
        records.append(
            {
                "test": case,
                "build": name,
                "n_threads": threads,
                "median_ns": median(times[case, name]),
                "median_ratio": median(own / other for own, other in zip(times[case, name], first, strict=True)),
                "ops_median_ns": {op: median(answer["ops_ns"][op] for answer in found) for op in found[0]["ops_ns"]},
                "samples_ns": [answer["calls_ns"] for answer in found],
                "ops_samples_ns": {op: [answer["ops_ns"][op] for answer in found] for op in found[0]["ops_ns"]},
            }
        )
    return records


@click.command(help=__doc__)
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("builds", nargs=-1, required=True, metavar="NAME=FOLDER...")
@click.option("-t", "--threads", default="1,2", show_default=True)
@click.option("-c", "--cases", default="tg8@128,pp128", show_default=True)
@click.option("-r", "--rounds", default=10, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The results file.")
def main(model: Path, builds: tuple[str, ...], threads: str, cases: str, rounds: int, output: Path) -> None:
    """Time them and write the file."""
    folders = {name: Path(folder) for name, _, folder in (build.partition("=") for build in builds)}
    rows = []
    with ResultsFile(output, kind="builds", fingerprint=fingerprint()) as results:
        for count in map(int, threads.split(",")):
            for record in compare(model.resolve(), folders, count, cases.split(","), rounds):
                results.append(record)
                ops = " ".join(f"{op} {ns / 1e3:.0f}" for op, ns in sorted(record["ops_median_ns"].items()))
                figures = (f"{record['median_ns'] / 1e3:.0f}", f"{record['median_ratio']:.3f}", ops)
                rows.append((record["build"], str(count), record["test"], *figures))
    click.echo(markdown(COLUMNS, rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        main()
