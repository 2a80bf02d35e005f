"""Intel and AMD processors' energy counters (RAPL), as Linux shows them below /sys/class/powercap.

Format: Documentation/power/powercap/powercap.rst of the kernel. A zone is a folder `intel-rapl:0`, a part of it `intel-rapl:0:1`, AMD's
too, each with `name`, `energy_uj` (a counter of microjoules) and `max_energy_range_uj` (after which it begins again at 0).

    package-N   a processor, its cores, caches and graphics; the parts `core` and `uncore` are in it already
    dram        memory; shown as a part of a package, but its energy is not in the package's (Intel SDM, volume 3, "RAPL domains")
    psys        the whole board as its maker wired it, the packages included; a provider of its own, because it contains the others
    intel-rapl-mmio:0   package-0 once more, over another bus

So packages and dram are added, and nothing else. One wrap between two readings is seen, a second one is not: for 262,144 J (usual), at
`MOST_WATTS`, it comes after 524 s, and longer windows get no reading.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgellm.measure.energy.provider import EnergyUnavailableError, Kind

POWERCAP = "sys/class/powercap"
MOST_WATTS = 500.0
"""Of one zone; the largest server processors are rated at this."""
SHORTEST_WINDOW_S = 0.05
"""The counters move once a millisecond or so: less than this, and their steps are more than 2% of what is between."""
MODELLED_INTEL = {0x2A, 0x2D, 0x3A, 0x3E}
"""Sandy and Ivy Bridge (family 6), whose counters are a model's; later ones measure (Hackenberg et al., "An Energy Efficiency Feature
Survey of the Intel Haswell Processor", 2015). AMD's are a model's (Schöne et al., "Energy Efficiency Aspects of the AMD Zen 2
Architecture", 2021)."""

HOW_TO_PERMIT = (
    "only root may read it, because it lets programs spy on each other (CVE-2020-8694). Run as root, or let everyone read it until the "
    "next start: `sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj`; or always, with this line in "
    '/etc/udev/rules.d/70-rapl.rules: SUBSYSTEM=="powercap", ACTION=="add", RUN+="/bin/chmod a+r /sys%p/energy_uj"; or one Python only: '
    "`sudo setcap cap_dac_read_search=ep PATH_OF_PYTHON`, which may then read every file"
)


@dataclass(frozen=True)
class Zone:
    """One counter: its folder, its name, and the microjoules after which it begins again."""

    folder: Path
    name: str
    range_uj: int

    def read_uj(self) -> int:
        """The counter; EnergyUnavailableError."""
        return _read_number(self.folder / "energy_uj")

    def seconds_to_wrap(self, watts: float) -> float:
        """How long the counter goes without coming round."""
        return self.range_uj / 1e6 / watts


class RaplProvider:
    """Adds zones up, none of which contains another."""

    sample_rate_hz = None
    shortest_window_s = SHORTEST_WINDOW_S

    def __init__(self, name: str, zones: Sequence[Zone], kind: Kind) -> None:
        self.name, self.kind, self._zones = name, kind, tuple(zones)
        self.longest_window_s = min(zone.seconds_to_wrap(MOST_WATTS) for zone in zones)
        covered = " + ".join(zone.name for zone in zones)
        self.source = f"RAPL {covered} via /{POWERCAP}; the processor's own counter, without power supply and other devices"

    def read(self) -> tuple[int, ...]:
        """See `CounterProvider.read`."""
        return tuple(zone.read_uj() for zone in self._zones)

    def joules(self, before: tuple[int, ...], after: tuple[int, ...]) -> float:
        """See `CounterProvider.joules`."""
        pairs = zip(self._zones, before, after, strict=True)
        return sum((end - begin) % zone.range_uj for zone, begin, end in pairs) / 1e6


def find(root: Path) -> RaplProvider:
    """Packages and memory below this root; EnergyUnavailableError says why not."""
    zones = _zones(root, lambda name: name.startswith("package-") or name == "dram")
    if not any(zone.name.startswith("package-") for zone in zones):
        raise EnergyUnavailableError(f"no RAPL (/{POWERCAP} has no zone package-*: no such counter in this processor or virtual machine)")
    return RaplProvider("rapl", zones, _kind(root))


def find_psys(root: Path) -> RaplProvider:
    """The board's own zone; EnergyUnavailableError says why not."""
    zones = _zones(root, lambda name: name == "psys")
    if not zones:
        raise EnergyUnavailableError(f"no RAPL psys (/{POWERCAP} has no zone of this name)")
    return RaplProvider("rapl-psys", zones[:1], _kind(root))


def kind_of(cpuinfo: str) -> Kind:
    """Whether the processor that /proc/cpuinfo describes measures or models; who is not known is taken to model."""
    fields = dict(re.findall(r"^(vendor_id|cpu family|model)\s*:\s*(\S+)$", cpuinfo, re.MULTILINE))
    intel = fields.get("vendor_id") == "GenuineIntel" and fields.get("cpu family") == "6"
    return "measured" if intel and int(fields.get("model", 0)) not in MODELLED_INTEL else "estimated"


def _kind(root: Path) -> Kind:
    try:
        return kind_of((root / "proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        return "estimated"


def _zones(root: Path, wanted: Callable[[str], bool]) -> list[Zone]:
    powercap = root / POWERCAP
    if not powercap.is_dir():
        raise EnergyUnavailableError(f"no RAPL (/{POWERCAP} is missing)")
    zones = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        name = _read_text(folder / "name")
        if wanted(name):
            zone = Zone(folder, name, _read_number(folder / "max_energy_range_uj"))
            zone.read_uj()  # what may not be read is found out here, not in the middle of a run
            zones.append(zone)
    return zones


def _read_number(path: Path) -> int:
    text = _read_text(path)
    if not text.isdecimal() or (path.name.startswith("max") and int(text) == 0):
        raise EnergyUnavailableError(f"RAPL: {path} says {text!r}, not a number of microjoules")
    return int(text)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except PermissionError as error:
        raise EnergyUnavailableError(f"RAPL: {path}: {HOW_TO_PERMIT}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise EnergyUnavailableError(f"RAPL: cannot read {path}: {error}") from error
