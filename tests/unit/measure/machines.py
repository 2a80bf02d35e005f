"""Parts of /proc and /sys as some machines show them, to be laid out under a folder."""

from __future__ import annotations

from pathlib import Path

CPU, THERMAL, HWMON = "sys/devices/system/cpu", "sys/class/thermal", "sys/class/hwmon"

RPI5 = {
    **{f"{CPU}/cpu{i}/cpufreq/scaling_cur_freq": "2400000\n" for i in range(4)},
    f"{CPU}/cpu0/cpufreq/scaling_governor": "ondemand\n",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "arch_sys_counter\n",
    **{f"sys/devices/system/node/node{i}/cpulist": "0-3\n" for i in range(8)},
    "proc/cmdline": "coherent_pool=1M numa=fake=8 isolcpus=2,3 nohz_full=2,3 nohz root=PARTUUID=5ecret-02 rootwait\n",
    "proc/meminfo": "MemTotal:        8256240 kB\nSwapTotal:        524272 kB\nSwapFree:         524000 kB\n",
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 108.00\n\nRevision\t: d04170\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n",
    f"{THERMAL}/thermal_zone0/type": "cpu-thermal\n",
    f"{THERMAL}/thermal_zone0/temp": "58450\n",
    f"{HWMON}/hwmon0/name": "cpu_thermal\n",
    f"{HWMON}/hwmon0/temp1_input": "58450\n",
    f"{HWMON}/hwmon1/name": "rp1_adc\n",
    f"{HWMON}/hwmon1/temp1_input": "61000\n",
}
"""Its kernel has no get_throttled: only vcgencmd tells."""

RPI_ZERO_2W = {
    **{f"{CPU}/cpu{i}/cpufreq/scaling_cur_freq": "600000\n" for i in range(4)},
    f"{THERMAL}/thermal_zone0/type": "cpu-thermal\n",
    f"{THERMAL}/thermal_zone0/temp": "82173\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "d0008\n",
}

LAPTOP = {
    **{f"{CPU}/cpu{i}/cpufreq/scaling_cur_freq": f"{800 + i}000\n" for i in range(12)},
    **{f"{CPU}/cpu{i}/thermal_throttle/core_throttle_count": f"{i}\n" for i in range(12)},
    **{f"{CPU}/cpu{i}/thermal_throttle/package_throttle_count": "100\n" for i in range(12)},
    f"{THERMAL}/thermal_zone0/type": "acpitz\n",
    f"{THERMAL}/thermal_zone0/temp": "99000\n",
    f"{THERMAL}/thermal_zone1/type": "x86_pkg_temp\n",
    f"{THERMAL}/thermal_zone1/temp": "71000\n",
    f"{CPU}/intel_pstate/no_turbo": "0\n",
    f"{CPU}/smt/active": "1\n",
    f"{CPU}/cpu0/cache/index0/level": "1\n",
    f"{CPU}/cpu0/cache/index0/type": "Data\n",
    f"{CPU}/cpu0/cache/index0/size": "48K\n",
    f"{CPU}/cpu0/cache/index0/shared_cpu_list": "0-1\n",
    f"{CPU}/cpu0/cache/index3/level": "3\n",
    f"{CPU}/cpu0/cache/index3/size": "12M\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "proc/cpuinfo": "processor\t: 0\nmicrocode\t: 0x42c\nflags\t\t: fpu vme\n\nprocessor\t: 1\nmicrocode\t: 0x42d\nflags\t\t: fpu vme\n",
    "sys/class/drm/card1/device/gpu_busy_percent": "37\n",
    "sys/class/drm/card1-eDP-1/status": "connected\n",
}

DESKTOP = {
    f"{HWMON}/hwmon0/name": "nvme\n",
    f"{HWMON}/hwmon0/temp1_input": "90000\n",
    f"{HWMON}/hwmon2/name": "k10temp\n",
    f"{HWMON}/hwmon2/temp1_input": "45125\n",
}

VM = {"proc/cpuinfo": "".join(f"processor\t: {i}\ncpu MHz\t\t: 2596.{i}00\nflags\t\t: fpu hypervisor lahf_lm\n\n" for i in range(2))}

CONTAINER = {
    f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "",
    f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "",
    f"{CPU}/cpu1/thermal_throttle/core_throttle_count": "3\n",
    f"{THERMAL}/thermal_zone0/type": "x86_pkg_temp\n",
    f"{THERMAL}/thermal_zone0/temp/is-a-folder": "",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "\xff\x00?",
    "sys/class/drm/card0/device/gpu_busy_percent": "1e3",
    "proc/cpuinfo": "",
    "proc/meminfo": "SwapTotal:  0 kB\nSwapFree: none\n",
    f"{CPU}/cpu0/cache/index0/size": "big",
    f"{CPU}/cpufreq/boost": "2",
    "sys/kernel/mm/transparent_hugepage/enabled": "always",
}
"""Files that are masked: empty, something else than a file, or garbage."""


def lay_out(files: dict[str, str], root: Path) -> Path:
    """The files under the folder, which it gives back."""
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(text.encode("latin-1"))
    return root
