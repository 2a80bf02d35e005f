from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgellm.measure.process import OtherProcess, OwnProcess, Usage, memory_of, peak_rss_bytes, stat_fields, switches_between, switches_of
from tests.unit.measure.machines import lay_out

ID = 1 << 22  # more than Linux numbers processes
STATUS = "Name:\tollama\nVmHWM:\t  102400 kB\nVmRSS:\t    2048 kB\nvoluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t45\n"


def stat(name: str = "ollama", state: str = "S", started: int = 777) -> str:
    """As of 6.6: the fields are 1 pid, 2 name, 3 state, 10 minflt, 12 majflt, 14 utime, 22 starttime."""
    return f"{ID} ({name}) {state} 1 {ID} {ID} 0 -1 4194560 1500 11 12 13 140 60 0 0 20 0 14 0 {started} 1234567 512\n"


SERVER = {
    f"proc/{ID}/stat": stat(),
    f"proc/{ID}/status": STATUS,
    f"proc/{ID}/io": "rchar: 5\nwchar: 6\nread_bytes: 4096\nwrite_bytes: 7\n",
    f"proc/{ID}/task/{ID}/status": STATUS,
    f"proc/{ID}/task/{ID + 1}/status": "voluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t3\n",
}


def test_a_server(tmp_path: Path) -> None:
    assert OtherProcess(ID, lay_out(SERVER, tmp_path)).usage() == Usage(
        cpu_seconds=None,  # its clock is this system's, which has no such process
        minor_faults=1500,
        major_faults=12,
        switches={ID: (150, 45), ID + 1: (7, 3)},
        storage_read_bytes=4096,
        rss_bytes=2048 * 1024,
        peak_rss_bytes=102400 * 1024,
    )


@pytest.mark.parametrize("name", ["a b", "x) R 1 (y", "", ") ) )", "(" * 15])
def test_any_program_name(name: str) -> None:
    assert stat_fields(stat(name)) == {"minflt": "1500", "majflt": "12", "starttime": "777"}


@pytest.mark.parametrize(
    "replaced", [{}, {f"proc/{ID}/stat": stat(started=778)}, {f"proc/{ID}/stat": stat(state="Z")}, {f"proc/{ID}/stat": "4"}]
)
def test_an_ended_process_says_nothing(replaced: dict[str, str], tmp_path: Path) -> None:
    """Nor does another that got its number, nor what is left of it until its parent asks."""
    server = OtherProcess(ID, lay_out(SERVER, tmp_path))
    (tmp_path / f"proc/{ID}/stat").unlink()
    lay_out(replaced, tmp_path)
    assert server.usage() == Usage()


def test_a_process_that_never_was(tmp_path: Path) -> None:
    nobody = OtherProcess(ID, tmp_path)
    assert nobody.usage() == Usage()
    lay_out(SERVER, tmp_path)
    assert nobody.usage() == Usage()


def test_masked_files_leave_gaps(tmp_path: Path) -> None:
    masked = {f"proc/{ID}/stat": stat(), f"proc/{ID}/status": "", f"proc/{ID}/io/folder": "", f"proc/{ID}/task/{ID}/status": "\xff\n"}
    assert OtherProcess(ID, lay_out(masked, tmp_path)).usage() == Usage(minor_faults=1500, major_faults=12)


@pytest.mark.parametrize("text", [None, "", "VmRSS:\n", "VmRSS:\t-5 kB\n", "VmRSS:\tmany kB\n", "XVmRSS:\t5 kB\n", "VmRSS:\t5 MB\n"])
def test_status_without_memory(text: str | None) -> None:
    """Kernel threads have none."""
    assert memory_of(text) == (None, None)
    assert switches_of(text) is None


def test_switches_of_threads_that_come_and_go() -> None:
    before = Usage(switches={1: (100, 10), 2: (50, 5)})
    after = Usage(switches={1: (130, 11), 3: (4, 2)})
    assert switches_between(before, after) == (34, 3)
    assert switches_between(Usage(), after) == switches_between(before, Usage()) == (None, None)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """One that works for some hundredths of a second, says so, and waits."""
    program = "import sys, time\nwhile time.process_time() < 0.08: pass\nprint(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-S", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout
        running.stdout.readline()
        yield running
        running.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell of other processes")
def test_another_process(child: subprocess.Popen[bytes]) -> None:
    watched = OtherProcess(child.pid)
    found = watched.usage()
    assert found.cpu_seconds is not None
    assert 0.08 <= found.cpu_seconds < 10
    assert found.rss_bytes is not None
    assert found.peak_rss_bytes is not None
    assert 2**20 < found.rss_bytes <= found.peak_rss_bytes < 2**30
    assert found.minor_faults
    assert found.switches is not None
    assert set(found.switches) == {child.pid}
    child.kill()
    child.wait()
    assert watched.usage() == Usage()


def test_all_threads_of_this_process_count() -> None:
    before = OwnProcess().usage()

    def sleep_often() -> None:
        for _ in range(20):
            threading.Event().wait(0.0005)

    thread = threading.Thread(target=sleep_often)
    thread.start()
    thread.join()
    voluntary, _ = switches_between(before, OwnProcess().usage())
    assert voluntary is not None
    assert voluntary >= 20


def test_this_process(tmp_path: Path) -> None:
    found = OwnProcess().usage()
    assert found.rss_bytes is None or found.rss_bytes > 2**20
    assert found.cpu_seconds is not None
    assert found.cpu_seconds > 0
    without_files = OwnProcess(tmp_path).usage()
    assert (without_files.rss_bytes, without_files.storage_read_bytes) == (None, None)
    assert without_files.peak_rss_bytes is not None
    assert without_files.peak_rss_bytes > 2**20
    assert without_files.switches is not None
    assert set(without_files.switches) == {os.getpid()}


def test_peak_memory_counts_what_was_given_back() -> None:
    before = peak_rss_bytes()
    block = b"x" * (before + 2**24)
    del block
    assert peak_rss_bytes() > before + 2**24


@pytest.mark.parametrize(("system", "unit"), [("linux", 1024), ("darwin", 1)])
def test_largest_memory_is_in_kilobytes_but_for_macos(system: str, unit: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", system)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert OwnProcess(tmp_path).usage().peak_rss_bytes == largest * unit
