from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgellm.measure import linux as module
from edgellm.measure.linux import linux
from tests.unit.measure.machines import CONTAINER, CPU, LAPTOP, RPI5, VM, lay_out

NOTHING = dict.fromkeys(
    (
        *("board_revision", "microcode", "caches", "numa_nodes", "smt", "boost", "governor", "clocksource"),
        *("transparent_huge_pages", "swap_used_bytes", "kernel_arguments", "hypervisor", "container"),
    )
)


@pytest.fixture(autouse=True)
def no_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "output_of", lambda *words: None)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        pytest.param(
            RPI5,
            {
                "board_revision": "d04170",
                "numa_nodes": 8,
                "governor": "ondemand",
                "clocksource": "arch_sys_counter",
                "swap_used_bytes": 272 * 1024,
                "kernel_arguments": {"isolcpus": "2,3", "nohz_full": "2,3"},
            },
            id="rpi5",
        ),
        pytest.param(
            LAPTOP,
            {
                "microcode": "0x42c",
                "caches": [
                    {"level": 1, "type": "Data", "bytes": 48 * 1024, "cpus": "0-1"},
                    {"level": 3, "type": None, "bytes": 12 * 2**20, "cpus": None},
                ],
                "smt": True,
                "boost": True,
                "transparent_huge_pages": "madvise",
                "hypervisor": "none",
            },
            id="laptop",
        ),
        pytest.param(VM, {"hypervisor": "unnamed"}, id="vm"),
        pytest.param(CONTAINER, {"caches": [{"level": None, "type": None, "bytes": None, "cpus": None}]}, id="container"),
        pytest.param({}, {}, id="nothing"),
    ],
)
def test_fields(files: dict[str, str], found: dict[str, Any], tmp_path: Path) -> None:
    assert linux(lay_out(files, tmp_path)) == NOTHING | found


@pytest.mark.parametrize(
    ("files", "boost"),
    [
        ({f"{CPU}/cpufreq/boost": "1\n"}, True),
        ({f"{CPU}/cpufreq/boost": "0\n"}, False),
        ({f"{CPU}/intel_pstate/no_turbo": "1\n", f"{CPU}/cpufreq/boost": "1\n"}, False),
    ],
)
def test_boost(files: dict[str, str], boost: bool, tmp_path: Path) -> None:
    assert linux(lay_out(files, tmp_path))["boost"] is boost


def test_arguments_of_the_kernel_without_a_value(tmp_path: Path) -> None:
    assert linux(lay_out({"proc/cmdline": "quiet nohz_full mitigations=off"}, tmp_path))["kernel_arguments"] == {
        "nohz_full": "",
        "mitigations": "off",
    }


def test_a_hypervisor_that_has_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "output_of", lambda *words: {"--vm": "kvm", "--container": "docker"}[words[1]])
    found = linux(lay_out(VM, tmp_path))
    assert (found["hypervisor"], found["container"]) == ("kvm", "docker")
