"""What matrices cost, and models of mixed schemes, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgellm.cli import main
from edgellm.formats.inspect import describe
from edgellm.quantize.calibrate import calibration_texts
from edgellm.quantize.sensitivity import MEASURED, SCHEMES, sensitivity
from tests.unit.formats.synthetic import LAYERS, hf_weights, write_hf

MATRICES = [name for name, weights in hf_weights().items() if weights.ndim == 2 and name != "model.embed_tokens.weight"]
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a model and a text."""
    write_hf(tmp_path / "m")
    (tmp_path / "text.txt").write_text("ab abc dede a cab " * 60)
    return tmp_path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_costs_add_up_to_what_was_measured_and_fall_with_the_error(files: Path) -> None:
    costs = sensitivity(files / "m", calibration_texts([files / "text.txt"]), progress=False)
    assert list(costs["tensors"]) == MATRICES
    for kind, nats in costs["measured"]["kl_of_kinds"].items():
        tensors = [costs["tensors"][name] for name in MATRICES if f"{kind}." in name]
        assert len(tensors) == LAYERS
        assert sum(tensor["schemes"][MEASURED]["kl"] for tensor in tensors) == pytest.approx(nats, rel=1e-3)
        assert nats > 0
        for tensor in tensors:
            by_error = sorted(tensor["schemes"].values(), key=lambda cost: cost["output_error"])
            assert [cost["kl"] for cost in by_error] == sorted(cost["kl"] for cost in by_error)
            assert list(tensor["schemes"]) == list(SCHEMES)


def test_from_costs_to_a_mixed_model(files: Path) -> None:
    made = run("sensitivity", files / "m", "-o", files / "costs.json", "--calibration", files / "text.txt")
    assert (made.exit_code, made.stdout.strip()) == (0, str(files / "costs.json"))
    assert "calibration texts: text.txt" in made.stderr
    options = ("--scheme", "int8", "--method", "rtn", "--mixed", files / "costs.json", "-o", files / "m.bin")
    sizes = []
    for target in (("--target-bits", "3"), ("--target-mb", "0.05"), ("--max-ppl-delta", "5%")):
        result = run("quantize", files / "m", *options, *target)
        assert result.exit_code == 0, result.stderr
        tensors = {row["name"]: row for row in describe(files / "m.bin")["tensors"]}
        assert {tensors[name]["scheme"] for name in MATRICES} <= set(SCHEMES)
        sizes.append(sum(tensors[name]["bytes"] for name in MATRICES))
    weights = sum(hf_weights()[name].size for name in MATRICES)
    assert sizes[0] <= 3 * weights / 8
    assert sizes[1] < 50_000


def test_a_plan_says_schemes_and_others_have_the_bodys(files: Path) -> None:
    (files / "plan.json").write_text(json.dumps({"tensors": {UP: "ternary-g64"}}))
    options = ("--scheme", "int4", "--method", "rtn", "-o", files / "m.bin")
    assert run("quantize", files / "m", *options, "--mixed", files / "plan.json").exit_code == 0
    forms = {row["name"]: row["scheme"] for row in describe(files / "m.bin")["tensors"]}
    assert forms[UP] == "ternary-g64"
    assert {forms[name] for name in MATRICES if name != UP} == {"int4-g64"}


@pytest.mark.parametrize(
    ("plan", "options", "message"),
    [
        ({UP: "int4-g32"}, ("--target-mb", "1"), "plan.json says every scheme already; leave --target-bits"),
        ({UP: {"schemes": {"int4-g32": {"bytes": 1, "kl": 1}}}}, (), "plan.json holds costs: give one of --target-bits"),
        ({UP: {"schemes": {"int4-g32": {"bytes": 1, "kl": 1}}}}, ("--max-ppl-delta", "x"), "--max-ppl-delta x is no percentage above 0"),
        ({"w": "int4-g32"}, (), "the plan has a scheme for w, which is no matrix of"),
        ({UP: "int5"}, (), "quantization scheme 'int5' is unknown"),
        (None, ("--target-bits", "3"), "choose among the costs of --mixed FILE; give that, too"),
    ],
)
def test_what_makes_no_plan_is_refused(plan: dict[str, object] | None, options: tuple[str, ...], message: str, files: Path) -> None:
    (files / "plan.json").write_text(json.dumps({"tensors": plan}))
    mixed = () if plan is None else ("--mixed", files / "plan.json")
    result = run("quantize", files / "m", "--scheme", "int4", "--method", "rtn", "-o", files / "m.bin", *mixed, *options)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    assert not (files / "m.bin").exists()
