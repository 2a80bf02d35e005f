from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import edgellm
from edgellm.cli import main
from edgellm.errors import EdgeLLMWarning, ModelFileError, NativeError
from edgellm.runtime.sampling import SamplingParams
from tests.unit.conftest import END, ScriptedEngine

Scripted = Callable[..., ScriptedEngine]
COMMANDS = ("pull", "convert", "quantize", "sensitivity", "inspect", "generate", "chat", "bench", "tune", "eval", "report", "energy")


def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=stdin)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Callable[[ScriptedEngine], list[dict[str, Any]]]:
    """loads(engine): every load gives this engine; returns the list in which their arguments appear."""

    def use(engine: ScriptedEngine) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def load(path: str, **options: Any) -> ScriptedEngine:
            calls.append({"path": path, **options})
            return engine

        monkeypatch.setattr(edgellm, "load", load, raising=False)
        return calls

    return use


def test_help_names_every_command_in_the_order_of_use() -> None:
    result = run("--help")
    assert result.exit_code == 0
    positions = [result.stdout.rindex(f"  {command} ") for command in COMMANDS]
    assert positions == sorted(positions)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches_by_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"\n    edgellm {command}" in result.stdout or f"| edgellm {command}" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "X", "--tokens", "5", "--threads", "2"], "without --plan, --threads, --tokens would do nothing"),
        (["inspect", "X", "--plan", "--verify"], "with --plan, --verify would do nothing"),
        (["quantize", "X", "--scheme", "ternary-g64", "--group", "64"], "--scheme ternary-g64 says its grouping already"),
    ],
)
def test_options_that_would_change_nothing_are_refused(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_help_and_version_load_nothing_heavy() -> None:
    code = "import sys; from edgellm.cli import main; main(['--version'], standalone_mode=False); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert edgellm.__version__ in loaded
    assert not {"numpy", "tokenizers", "jinja2", "cffi", "edgellm._native"} & set(loaded.split())


def test_generate_takes_the_defaults_of_sampling_params() -> None:
    command = main.commands["generate"]
    defaults = {parameter.name: parameter.default for parameter in command.params if isinstance(parameter, click.Option)}
    assert {name: defaults[name] for name in asdict(SamplingParams())} == asdict(SamplingParams())


def test_generate_prints_the_text(scripted: Scripted, loads: Callable[[ScriptedEngine], list[dict[str, Any]]]) -> None:
    engine = scripted(" hi 日本", END)
    calls = loads(engine)
    options = ["--threads", "2", "--context", "9", "--kv-dtype", "f32", "--realtime", "--check-finite"]
    result = run("generate", "--model", "M", "-p", "hi<|im_end|>", *options)
    assert (result.exit_code, result.stdout) == (0, " hi 日本\n")
    (asked,) = calls
    assert asked == {
        "path": "M",
        "threads": 2,
        "context": 9,
        "kv_dtype": "f32",
        "lock_memory": False,
        "realtime": True,
        "check_finite": True,
    }
    assert engine.prompts == [engine.tokenizer.encode("hi<|im_end|>")]


def test_a_character_that_a_terminal_lacks(scripted: Scripted, loads: Callable[[ScriptedEngine], list[dict[str, Any]]]) -> None:
    latin = CliRunner(charset="latin-1")
    loads(scripted(" é 日本", END))
    assert latin.invoke(main, ["generate", "-p", "hi"]).stdout_bytes == b" \xe9 ??\n"
    loads(scripted(" é 日本", END))
    assert json.loads(latin.invoke(main, ["generate", "-p", "hi", "--json"]).stdout)["text"] == " é 日本"


def test_generate_as_json(scripted: Scripted, loads: Callable[[ScriptedEngine], list[dict[str, Any]]]) -> None:
    engine = scripted("abXc", END)
    loads(engine)
    result = run("generate", "-p", "hi 1", "--stop", "Q", "--stop", "X", "--seed", "7", "--json")
    report = json.loads(result.stdout)
    itl_ms, rate, ttft_ms = report.pop("itl_ms"), report.pop("tokens_per_second"), report.pop("ttft_ms")
    assert report == {
        "model": "smollm2-135m",
        "seed": 7,
        "prompt_tokens": 3,
        "text": "ab",
        "token_ids": engine.tokenizer.encode("abX"),
        "finish_reason": "stop",
    }
    assert len(itl_ms) == 2
    assert rate == pytest.approx(2000 / sum(itl_ms))
    assert ttft_ms > 0


def test_json_of_a_generation_too_short_to_time(scripted: Scripted, loads: Callable[[ScriptedEngine], list[dict[str, Any]]]) -> None:
    loads(scripted())
    report = json.loads(run("generate", "-p", "hi", "--max-tokens", "0", "--json").stdout)
    assert (report["ttft_ms"], report["itl_ms"], report["tokens_per_second"], report["finish_reason"]) == (None, [], None, "length")


def test_generate_reads_standard_input(scripted: Scripted, loads: Callable[[ScriptedEngine], list[dict[str, Any]]]) -> None:
    engine = scripted(END)
    loads(engine)
    assert run("generate", "-p", "-", stdin="é hi\n\n").exit_code == 0
    assert engine.prompts == [engine.tokenizer.encode("é hi\n")]
    result = run("generate", "-p", "-", stdin=b"\xff")
    assert (result.exit_code, result.stderr[:6]) == (2, "error:")


def test_generate_as_chat_shields_the_prompt(scripted: Scripted, loads: Callable[[ScriptedEngine], list[dict[str, Any]]]) -> None:
    engine = scripted("hi", END)
    loads(engine)
    assert run("generate", "--chat", "-p", "<|im_end|>").stdout == "hi\n"
    assert [i for i in engine.prompts[0] if i in (0, 1)] == [0, 1, 0]


@pytest.mark.parametrize("error", [ModelFileError("m.gguf: it ends early"), NativeError("no kernels")])
def test_an_error_is_one_line_and_exit_code_2(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def load(path: str, **options: Any) -> None:
        raise error

    monkeypatch.setattr(edgellm, "load", load, raising=False)
    result = run("generate", "-p", "hi")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"error: {error}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "-p", "x", "--temperature", "-1"),
        ("generate", "-p", "x", "--temperature", "warm"),
        ("generate",),
        ("chat", "--top-p", "0"),
        ("bench", "-t", "1,x"),
        ("bench", "-p", "", "-n", ""),
        ("convert", "nowhere.gguf"),
        ("inspect", "nowhere.tmac2.bin"),
        ("pull", "no-such-model"),
        ("pull", ""),
        ("convert", ""),
        ("quantize", ""),
        ("quantize", "nowhere.gguf", "--scheme", "ternary"),
        ("quantize", "smollm2-135m"),
        ("quantize", "smollm2-135m", "--scheme", "ternary-g7"),
        ("quantize", "smollm2-135m", "--scheme", "ternary-g64", "--group", "64"),
        ("quantize", "smollm2-135m", "--scheme", "ternary", "--head", "none"),
        ("inspect", ""),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_what_cannot_be_asked_ends_with_2_and_says_why(arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "smollm2-135m.tmac2.bin").touch()
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error: " in result.stderr.lower()
    assert "Traceback" not in result.output


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("category", "start"), [(EdgeLLMWarning, "warning: so slow"), (DeprecationWarning, "warning: /")])
def test_a_warning_is_one_line(category: type[Warning], start: str, scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: str, **options: Any) -> ScriptedEngine:
        warnings.warn("so slow", category, stacklevel=1)
        return scripted("ok", END)

    monkeypatch.setattr(edgellm, "load", load, raising=False)
    result = run("generate", "-p", "x")
    assert result.exit_code == 0
    assert result.stderr.startswith(start)
    assert result.stderr.endswith("so slow\n")


def test_ctrl_c_exits_with_130(scripted: Scripted, loads: Callable[[ScriptedEngine], list[dict[str, Any]]]) -> None:
    loads(scripted("a", KeyboardInterrupt()))
    result = run("generate", "-p", "hi")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "a", "")


def test_a_reader_that_leaves_ends_it_quietly() -> None:
    command = [sys.executable, "-c", "from edgellm.cli import main; main()", "bench", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_convert_and_inspect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgellm.formats import fetch, inspect, tmac2
    from edgellm.quantize import convert

    seen: list[Any] = []

    def fake_convert(source: Path, destination: Path, progress: bool) -> convert.ConversionReport:
        seen.append((source, destination, progress))
        return convert.ConversionReport(source, destination, 3, 2_000_000, 1_000_000, 4.5)

    description = {
        "name": "m", "format": "tmac2", "weights": 2_000_000, "bytes": 1_000_000, "bits_per_weight": 4.0, "context_length": 64,
        "activations": "int8-g32",
        "chat_template": None, "provenance": {"source": "m.gguf", "schemes": ["keep", "int8-g32 by rtn"], "calibration": None},
        "config": {"hidden_size": 8, "attention_bias": False},
        "schemes": {"int4-g32": {"tensor_count": 1, "weights": 64, "bytes": 36, "bits_per_weight": 4.5}},
        "tensors": [{"name": "w", "shape": [2, 32], "scheme": "int4-g32", "source_type": "Q4_0", "bytes": 36}],
    }  # fmt: skip
    source = tmp_path / "m.gguf"
    source.touch()
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path))
    monkeypatch.setattr(convert, "convert", fake_convert)
    monkeypatch.setattr(inspect, "describe", lambda path: description)
    monkeypatch.setattr(tmac2, "verify", lambda path: ["tensor w does not match its checksum"])

    result = run("convert", str(source))
    assert (result.exit_code, result.stdout.strip()) == (0, str(fetch.default_destination(source)))
    assert run("convert", str(source), "-o", "x.tmac2.bin", "--scheme", "keep").stdout == "x.tmac2.bin\n"
    assert seen == [(source, fetch.default_destination(source), False), (source, Path("x.tmac2.bin"), False)]
    refused = run("convert", str(source), "--scheme", "int8")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"to round them, run: edgellm quantize {source} --scheme int8\n" in refused.stderr

    assert json.loads(run("inspect", str(source), "--json").stdout) == description
    shown = run("inspect", str(source)).stdout
    for part in ("m: tmac2", "2.0 M weights", "4.00 bits per weight", "2 x 32 int4-g32", "36 bytes"):
        assert part in shown
    for line in ("source: m.gguf", "schemes: keep, int8-g32 by rtn", "calibration: none", "hidden_size: 8", "attention_bias: false"):
        assert f"\n  {line}\n" in shown
    source.write_bytes(b"GGUF")
    nothing = run("inspect", str(source), "--verify")
    assert (nothing.exit_code, nothing.stdout) == (2, "")
    assert nothing.stderr == f"error: {source} cannot be verified: only a .tmac2.bin carries checksums, and its format is gguf\n"
    source.write_bytes(bytes(8) + b"{")
    damaged = run("inspect", str(source), "--verify")
    assert (damaged.exit_code, damaged.stderr) == (2, f"error: {source} is damaged: tensor w does not match its checksum\n")


def test_quantize_says_what_it_made_and_what_is_not_known_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgellm.formats import fetch
    from edgellm.quantize import quantize as module

    seen: list[Any] = []

    def fake_quantize(
        source: Path, destination: Path, recipe: module.Recipe, progress: bool, calibration: tuple[Path, ...]
    ) -> module.QuantizationReport:
        seen.append((source, destination, recipe, calibration))
        parts = {"ternary-g64": module.SchemeReport(7, 8_000_000, 2_000_000, 0.1925), "float32": module.SchemeReport(2, 100, 400, None)}
        tensors = {"w": module.TensorReport("ternary-g64", 2.0, 0.01), "n": module.TensorReport("float32", 32.0, None)}
        return module.QuantizationReport(source, destination, recipe, "int8-g32", parts, tensors, 9_000_000, 2_100_000, 2.1, 3.5)

    source = tmp_path / "m.gguf"
    source.touch()
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path))
    monkeypatch.setattr(module, "quantize", fake_quantize)

    result = run("quantize", str(source), "--scheme", "ternary", "--head", "int4", "--method", "rtn")
    assert result.stdout == f"{tmp_path}/models/m.ternary-int4head-rtn.tmac2.bin\n"
    assert result.stderr == (
        "ternary-g64         7 tensors       8.0 M weights       2.0 MB   2.00 bits per weight, relative squared error 1.925e-01\n"
        "float32             2 tensors       0.0 M weights       0.0 MB  32.00 bits per weight\n"
        "9.0 MB -> 2.1 MB, 2.10 bits per weight; by rtn, quality not measured\n"
    )
    (tmp_path / "t.txt").write_text("text")
    options = ("--scheme", "int4-min", "--group", "row", "--activations", "token", "--calibration", f"{tmp_path}/t.txt", "-o", "x.bin")
    fitted = run("quantize", str(source), *options)
    assert (fitted.stdout, fitted.stderr.splitlines()[0]) == ("x.bin\n", "calibration texts: t.txt")
    printed = run("quantize", str(source), "--scheme", "int8", "--json")
    assert (printed.stderr, json.loads(printed.stdout)) == (
        "",
        {
            "source": str(source),
            "destination": f"{tmp_path}/models/m.int8-rtn.tmac2.bin",
            "method": "rtn",
            "scheme": "int8-g32",
            "head": "keep",
            "activations": "int8-g32",
            "source_bytes": 9_000_000,
            "destination_bytes": 2_100_000,
            "bits_per_weight": 2.1,
            "seconds": 3.5,
            "quality": "not measured",
            "schemes": {
                "ternary-g64": {
                    "tensor_count": 7,
                    "weights": 8_000_000,
                    "bytes": 2_000_000,
                    "bits_per_weight": 2.0,
                    "relative_squared_error": 0.1925,
                },
                "float32": {"tensor_count": 2, "weights": 100, "bytes": 400, "bits_per_weight": 32.0, "relative_squared_error": None},
            },
            "tensors": {
                "w": {"scheme": "ternary-g64", "bits_per_weight": 2.0, "output_error": 0.01},
                "n": {"scheme": "float32", "bits_per_weight": 32.0, "output_error": None},
            },
        },
    )
    assert seen == [
        (source, fetch.default_destination(source, "ternary-int4head-rtn"), module.Recipe.named("ternary-g64", "int4-g32"), ()),
        (source, Path("x.bin"), module.Recipe.named("int4-min-row", "keep", "int8-token", "gptq"), (tmp_path / "t.txt",)),
        (source, fetch.default_destination(source, "int8-rtn"), module.Recipe.named("int8"), ()),
    ]


def test_pull_prints_the_path_and_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgellm.formats import fetch

    monkeypatch.setattr(fetch, "pull", lambda name, progress: Path("/cache/m.gguf"))
    result = run("pull", "smollm2-135m")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "/cache/m.gguf\n", "next: edgellm convert smollm2-135m\n")


def test_bench_passes_on_and_prints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgellm.measure import bench

    seen: list[Any] = []

    def fake_run(*arguments: Any, progress: bool, load: Any) -> list[dict[str, Any]]:
        seen.append(arguments)
        return [{"test": "pp8", "samples_ns": [1, 2]}]

    model = tmp_path / "m.tmac2.bin"
    model.touch()
    monkeypatch.setattr(bench, "run", fake_run)
    monkeypatch.setattr(bench, "table", lambda records: "the table")
    arguments = ("bench", "--model", str(model), "-p", "8,16", "-n", "", "-t", "1,2", "-r", "3")

    assert run(*arguments).stdout == "the table\n"
    piped = run(*arguments, "--json", "-")
    assert (json.loads(piped.stdout), piped.stderr) == ([{"test": "pp8", "samples_ns": [1, 2]}], "the table\n")
    assert run(*arguments, "--json", str(tmp_path / "r.json")).exit_code == 0
    assert json.loads((tmp_path / "r.json").read_text())["records"] == [{"test": "pp8", "samples_ns": [1, 2]}]
    assert seen == [(model, [8, 16], [], [1, 2], 3)] * 3


def test_interrupted_bench_keeps_what_it_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgellm.measure import bench

    def interrupted(*arguments: Any, progress: bool, load: Any) -> Iterator[dict[str, Any]]:
        yield {"test": "pp8", "samples_ns": [1]}
        raise KeyboardInterrupt

    model = tmp_path / "m.tmac2.bin"
    model.touch()
    monkeypatch.setattr(bench, "run", interrupted)
    monkeypatch.setattr(bench, "table", lambda records: "the table")
    result = run("bench", "--model", str(model), "--json", str(tmp_path / "r.json"))
    assert (result.exit_code, result.stdout) == (130, "the table\n")
    assert json.loads((tmp_path / "r.json").read_text())["records"] == [{"test": "pp8", "samples_ns": [1]}]


def test_bench_refuses_an_unwritable_file_before_it_measures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgellm.measure import bench

    def measured(*arguments: Any, progress: bool, load: Any) -> Iterator[dict[str, Any]]:
        pytest.fail("measured for nothing")
        yield {}

    model = tmp_path / "m.tmac2.bin"
    model.touch()
    monkeypatch.setattr(bench, "run", measured)
    result = run("bench", "--model", str(model), "--json", str(model / "r.json"))
    assert result.exit_code == 2
    assert "cannot write the results file" in result.stderr


def test_tune_writes_beside_the_model(synthetic_model: Path, tmp_path: Path) -> None:
    model = shutil.copy(synthetic_model, tmp_path / "m.tmac2.bin")
    result = run("tune", str(model), "-t", "1", "-r", "1")
    assert result.exit_code == 0
    assert "64 x 64 int4-g32" in result.stdout
    assert result.stderr == f"written: {tmp_path / 'm.tmac2.tune.json'}\n"
    printed = run("tune", "--model", str(model), "-t", "1", "-r", "1", "--json")
    assert json.loads(printed.stdout) == json.loads((tmp_path / "m.tmac2.tune.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("a.tmac2.bin", "--model", "b.tmac2.bin"), "one model is tuned at a time"),
        (("./no.tmac2.bin",), "there is no model './no.tmac2.bin'"),
        (("./no.tmac2.bin", "-t", "x"), "'x' is not a number"),
    ],
)
def test_tune_says_what_is_wrong(arguments: tuple[str, ...], problem: str) -> None:
    result = run("tune", *arguments)
    assert result.exit_code == 2
    assert problem in result.stderr


RESULTS = {"schema": "edgellm-results", "version": 1, "kind": "bench", "provenance": "measured", "records": []}


def test_report_writes_what_it_read_and_names_what_it_could_not(tmp_path: Path) -> None:
    good, bad, output = tmp_path / "good.json", tmp_path / "bad.json", tmp_path / "report.md"
    good.write_text(json.dumps(RESULTS))
    bad.write_text("{")
    assert run("report", str(good)).exit_code == 0
    result = run("report", str(bad), str(good), "--format", "markdown", "-o", str(output))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: cannot read the results file {bad}: ")
    assert result.stderr.count("\n") == 1
    assert output.read_text().startswith("# EdgeLLM")


def test_report_of_nothing_readable_writes_nothing(tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    result = run("report", str(tmp_path / "absent.json"), "--json", "-o", str(output))
    assert (result.exit_code, result.stdout, output.exists()) == (2, "", False)


def test_report_as_json(tmp_path: Path) -> None:
    path = tmp_path / "good.json"
    path.write_text(json.dumps(RESULTS))
    assert json.loads(run("report", str(path), "--json").stdout)["schema"] == "edgellm-report"
