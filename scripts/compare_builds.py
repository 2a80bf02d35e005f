"""What a change of the sources gives: built checkouts take turns at the same work, and a results file keeps every sample.

    python -m scripts.compare_builds MODEL NAME=FOLDER NAME=FOLDER ... [--threads 1,2] [--cases tg8@128,tg8@2048,pp128] -o FILE

A checkout has its C module built in place. tgN@D decodes N tokens after D cached ones, each timed; ppN prefills N tokens at once. Then the
last step is repeated op by op. Ratios are of a build's time to the first one's, of the same round.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from statistics import median

import click

from edgellm.measure.fingerprint import fingerprint
from edgellm.measure.results import Record, ResultsFile
from edgellm.measure.table import markdown
from scripts.build_process import Build, BuildError, Work

COLUMNS = ("build", "threads", "test", "us a call", "ratio", "us of each op")


def compare(model: Path, folders: dict[str, Path], threads: int, cases: list[str], rounds: int) -> list[Record]:
    """A record for each case and build. The first round of a case warms up, and fills the caches that the later ones find filled."""
    samples_ns: dict[tuple[str, str], list[list[int]]] = {(case, name): [] for case in cases for name in folders}
    ops_ns: dict[tuple[str, str], list[dict[str, int]]] = {key: [] for key in samples_ns}
    with ExitStack() as stack:
        builds = {name: stack.enter_context(Build(folder, model, threads)) for name, folder in folders.items()}
        for case in cases:
            for number in range(1 + rounds):
                for name, build in builds.items():
                    calls_ns, ops = build.run(case), build.ops_ns()
                    if number:
                        samples_ns[case, name].append(calls_ns)
                        ops_ns[case, name].append(ops)
    times = {key: [median(calls_ns) for calls_ns in found] for key, found in samples_ns.items()}
    records = []
    for (case, name), found in ops_ns.items():
        first = times[case, next(iter(folders))]
        records.append(
            {
                "test": case,
                "build": name,
                "n_threads": threads,
                "median_ns": median(times[case, name]),
                "median_ratio": median(own / other for own, other in zip(times[case, name], first, strict=True)),
                "ops_median_ns": {op: median(ops[op] for ops in found) for op in found[0]},
                "samples_ns": samples_ns[case, name],
                "ops_samples_ns": {op: [ops[op] for ops in found] for op in found[0]},
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
    for case in cases.split(","):
        try:
            Work.parse(case)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
    folders = {name: Path(folder) for name, _, folder in (build.partition("=") for build in builds)}
    rows = []
    with ResultsFile(output, kind="builds", fingerprint=fingerprint()) as results:
        for count in map(int, threads.split(",")):
            try:
                records = compare(model.resolve(), folders, count, cases.split(","), rounds)
            except BuildError as error:
                raise click.ClickException(str(error)) from error
            for record in records:
                results.append(record)
                ops = " ".join(f"{op} {ns / 1e3:.0f}" for op, ns in sorted(record["ops_median_ns"].items()))
                figures = (f"{record['median_ns'] / 1e3:.0f}", f"{record['median_ratio']:.3f}", ops)
                rows.append((record["build"], str(count), record["test"], *figures))
    click.echo(markdown(COLUMNS, rows))


if __name__ == "__main__":
    main()
