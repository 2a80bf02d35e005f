from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgellm.measure.energy import rapl
from edgellm.measure.energy.provider import EnergyUnavailableError

RANGE_UJ = 262_143_328_850
CPU = "processor\t: 0\nvendor_id\t: {}\ncpu family\t: {}\nmodel\t\t: {}\nmodel name\t: Some CPU\n"


def zone(root: Path, folder: str, name: str, energy_uj: str = "1000", range_uj: str = f"{RANGE_UJ}") -> Path:
    """A zone as the kernel shows it (Documentation/power/powercap/powercap.rst)."""
    path = root / rapl.POWERCAP / folder
    path.mkdir(parents=True)
    for file, text in (("name", name), ("energy_uj", energy_uj), ("max_energy_range_uj", range_uj), ("enabled", "1")):
        (path / file).write_text(f"{text}\n")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two packages with parts, memory, the whole board, and package 0 once more over another bus."""
    for folder, name in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:0:1", "uncore"),
        ("intel-rapl:0:2", "dram"),
        ("intel-rapl:1", "package-1"),
        ("intel-rapl:1:0", "core"),
        ("intel-rapl:2", "psys"),
        ("intel-rapl-mmio:0", "package-0"),
    ):
        zone(tmp_path, folder, name)
    (tmp_path / rapl.POWERCAP / "intel-rapl").mkdir()  # the control type, which is no zone
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(CPU.format("GenuineIntel", 6, 143))
    return tmp_path


def counts(root: Path, **microjoules: int) -> None:
    for folder in (root / rapl.POWERCAP).glob("*:*"):
        (folder / "energy_uj").write_text(f"{microjoules.get((folder / 'name').read_text().strip().replace('-', '_'), 1000)}\n")


def test_nothing_is_counted_twice(root: Path) -> None:
    provider = rapl.find(root)
    before = provider.read()
    counts(root, package_0=1_001_000, core=700_000, uncore=200_000, dram=501_000, package_1=251_000, psys=9_000_000)
    assert provider.joules(before, provider.read()) == pytest.approx(1.0 + 0.5 + 0.25)
    assert "RAPL package-0 + dram + package-1 via /sys/class/powercap" in provider.source
    assert (provider.kind, provider.sample_rate_hz) == ("measured", None)


def test_psys_is_a_provider_of_its_own(root: Path) -> None:
    provider = rapl.find_psys(root)
    before = provider.read()
    counts(root, package_0=1_001_000, psys=3_001_000)
    assert provider.joules(before, provider.read()) == pytest.approx(3)


def test_a_counter_that_comes_round(root: Path) -> None:
    provider = rapl.find_psys(root)
    counts(root, psys=RANGE_UJ - 1_000_000)
    before = provider.read()
    counts(root, psys=500_000)
    assert provider.joules(before, provider.read()) == pytest.approx(1.5)


def test_how_long_a_window_may_be_so_that_no_wrap_goes_unseen(root: Path) -> None:
    assert rapl.Zone(root, "package-0", RANGE_UJ).seconds_to_wrap(100) == pytest.approx(2621.4, rel=1e-3)
    zone(root, "intel-rapl:3", "package-2", range_uj="65532610987")
    assert rapl.find(root).longest_window_s == pytest.approx(131.07, rel=1e-3)


@pytest.mark.parametrize(
    ("cpuinfo", "kind"),
    [
        (CPU.format("GenuineIntel", 6, 0x3C), "measured"),
        (CPU.format("GenuineIntel", 6, 0x2D), "estimated"),
        (CPU.format("AuthenticAMD", 25, 97), "estimated"),
        ("", "estimated"),
    ],
    ids=["Haswell", "Sandy Bridge", "AMD", "unknown"],
)
def test_who_measures_and_who_models(cpuinfo: str, kind: str) -> None:
    assert rapl.kind_of(cpuinfo) == kind


def test_a_counter_for_root_only_explains_itself(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_text = Path.read_text

    def refuse(path: Path, encoding: str | None = None) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, encoding)

    monkeypatch.setattr(Path, "read_text", refuse)
    for fix in ("Run as root", "sudo chmod a+r", "/etc/udev/rules.d/70-rapl.rules", "sudo setcap cap_dac_read_search=ep"):
        with pytest.raises(EnergyUnavailableError, match=re.escape(fix)):
            rapl.find(root)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(EnergyUnavailableError, match=r"no RAPL \(/sys/class/powercap is missing\)"):
        rapl.find(tmp_path)
    zone(tmp_path, "dtpm:0", "package-0")
    zone(tmp_path, "intel-rapl:0:0", "dram")
    with pytest.raises(EnergyUnavailableError, match="has no zone package-"):
        rapl.find(tmp_path)
    with pytest.raises(EnergyUnavailableError, match="no RAPL psys"):
        rapl.find_psys(tmp_path)


@pytest.mark.parametrize(("energy_uj", "range_uj"), [("", f"{RANGE_UJ}"), ("-5", f"{RANGE_UJ}"), ("1e9", f"{RANGE_UJ}"), ("1", "0")])
def test_a_file_that_holds_something_else(energy_uj: str, range_uj: str, tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", energy_uj, range_uj)
    with pytest.raises(EnergyUnavailableError, match="not a number of microjoules"):
        rapl.find(tmp_path)


def test_a_zone_that_lacks_a_file(tmp_path: Path) -> None:
    (zone(tmp_path, "intel-rapl:0", "package-0") / "max_energy_range_uj").unlink()
    with pytest.raises(EnergyUnavailableError, match=r"cannot read .*max_energy_range_uj"):
        rapl.find(tmp_path)
