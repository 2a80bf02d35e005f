"""How Linux finds the machine made and set up, as far as it bears on speed. What it does not say is null, never guessed.

board_revision       of a Raspberry Pi, in hexadecimal
microcode            of the first processor, as /proc/cpuinfo has it
caches               of the first processor: level, type ("Data", "Instruction", "Unified"), bytes, and cpus that share it ("0-3")
numa_nodes           how many
smt, boost           whether cores run several threads, and whether they may exceed their base frequency
governor             of the first processor's frequency ("performance", "schedutil", ...)
clocksource          what time is read from ("tsc", "arch_sys_counter"): others than these cost a system call
transparent_huge_pages   "always", "madvise" or "never"
swap_used_bytes      at this moment
kernel_arguments     those of KERNEL_ARGUMENTS that it was started with, and their values, "" for one without
hypervisor           its name, "unnamed" where only the processor's flag tells of one, "none" where that flag is missing
container            "docker", "lxc", ...
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from edgellm.runtime.machine import output_of, read_text

KERNEL_ARGUMENTS = ("isolcpus", "nohz_full", "rcu_nocbs", "mitigations", "idle", "processor.max_cstate", "intel_idle.max_cstate")

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def linux(root: Path = Path("/")) -> dict[str, Any]:
    """The fields above; `root` is where /proc and /sys lie."""
    cpus = root / "sys/devices/system/cpu"
    cpuinfo = read_text(root / "proc/cpuinfo")
    return {
        "board_revision": _cpuinfo_field(cpuinfo, "Revision"),
        "microcode": _cpuinfo_field(cpuinfo, "microcode"),
        "caches": _caches(cpus / "cpu0/cache"),
        "numa_nodes": len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) or None,
        "smt": _flag(cpus / "smt/active"),
        "boost": _boost(cpus),
        "governor": read_text(cpus / "cpu0/cpufreq/scaling_governor"),
        "clocksource": read_text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "transparent_huge_pages": _chosen(read_text(root / "sys/kernel/mm/transparent_hugepage/enabled")),
        "swap_used_bytes": _swap_used_bytes(read_text(root / "proc/meminfo")),
        "kernel_arguments": _kernel_arguments(read_text(root / "proc/cmdline")),
        "hypervisor": output_of("systemd-detect-virt", "--vm") or _hypervisor_flag(cpuinfo),
        "container": output_of("systemd-detect-virt", "--container"),
    }


def _cpuinfo_field(text: str | None, name: str) -> str | None:
    match = re.search(rf"^{name}\s*: *(\S+)$", text or "", re.MULTILINE)
    return match[1] if match else None


def _hypervisor_flag(cpuinfo: str | None) -> str | None:
    """Only x86 has one."""
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo or "", re.MULTILINE)
    return ("unnamed" if "hypervisor" in flags[1].split() else "none") if flags else None


def _caches(folder: Path) -> list[dict[str, Any]] | None:
    found = [
        {
            "level": _number(read_text(index / "level")),
            "type": read_text(index / "type"),
            "bytes": _size(read_text(index / "size")),
            "cpus": read_text(index / "shared_cpu_list"),
        }
        for index in sorted(folder.glob("index[0-9]*"))
    ]
    return found or None


def _boost(cpus: Path) -> bool | None:
    """As cpufreq says, or as intel_pstate says, the other way round."""
    boost, no_turbo = _flag(cpus / "cpufreq/boost"), _flag(cpus / "intel_pstate/no_turbo")
    return boost if no_turbo is None else not no_turbo


def _chosen(text: str | None) -> str | None:
    """Of several words, the one in brackets."""
    match = re.search(r"\[(\w+)\]", text or "")
    return match[1] if match else None


def _swap_used_bytes(meminfo: str | None) -> int | None:
    total, free = (re.search(rf"^{name}:\s*(\d+) kB$", meminfo or "", re.MULTILINE) for name in ("SwapTotal", "SwapFree"))
    return (int(total[1]) - int(free[1])) * 1024 if total and free else None


def _kernel_arguments(text: str | None) -> dict[str, str] | None:
    if text is None:
        return None
    arguments = (word.partition("=") for word in text.split())
    return {name: value for name, _, value in arguments if name in KERNEL_ARGUMENTS}


def _size(text: str | None) -> int | None:
    match = re.fullmatch(r"(\d+)([KMG]?)", text or "")
    return int(match[1]) * _UNITS[match[2]] if match else None


def _flag(path: Path) -> bool | None:
    return {"0": False, "1": True}.get(read_text(path) or "")


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None
