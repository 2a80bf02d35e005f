"""Kernels of another processor, in a process that an emulator runs: built, started, asked."""

from __future__ import annotations

import hashlib
import select
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from csrc.build_native import CSRC, FLAGS, ROOT, csrc_files, csrc_hash
from tests.emulated import arena

SOURCE = Path(__file__).with_name("process.c")
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64-static"
PACKAGES = "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static"  # Debian's
CPUS = {"neon": "cortex-a53", "neon_dotprod": "cortex-a76"}
"""Instruction set -> the processor that is emulated: one that has nothing beyond it, so that a newer instruction is an illegal one."""

PATIENCE = 300  # seconds that one answer may take


def missing() -> str | None:
    """What the emulation lacks on this machine, and how to get it; None when nothing."""
    lacking = [program for program in (COMPILER, EMULATOR) if shutil.which(program) is None]
    return f"emulating it takes {' and '.join(lacking)}: apt-get install {PACKAGES}" if lacking else None


def logging(log: Path) -> tuple[str, ...]:
    """QEMU's options to write a line for each instruction that is executed."""
    options = subprocess.run([EMULATOR, "-h"], check=False, capture_output=True, text=True).stdout
    one_by_one = "-one-insn-per-tb" if "-one-insn-per-tb" in options else "-singlestep"  # its name until QEMU 8.1
    return (one_by_one, "-d", "exec,nochain", "-D", str(log))


def build() -> Path:
    """The program that holds the kernels, compiled for ARM from the sources as they are; kept until they change."""
    digest = hashlib.blake2b(csrc_hash().encode() + SOURCE.read_bytes(), digest_size=8).hexdigest()
    program = ROOT / "build" / "emulated" / digest / "process"
    program.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(program.with_suffix(".lock")):
        if not program.exists():
            sources = [path for path in csrc_files() if path.suffix == ".c"]
            made = program.with_suffix(".new")
            subprocess.run([COMPILER, *FLAGS, "-Werror", "-static", "-I", CSRC, *sources, SOURCE, "-lm", "-o", made], check=True)
            made.rename(program)
    return program


class Process:
    """One instruction set's kernels, emulated; they share the arena's memory. `options` are QEMU's."""

    def __init__(self, isa: str, memory: arena.Arena, *options: str) -> None:
        self.isa = isa
        self._process = subprocess.Popen(
            [EMULATOR, "-cpu", CPUS[isa], *options, build(), str(memory.fd), str(arena.ADDRESS), str(arena.NBYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=[memory.fd],
        )

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, function: int, *arguments: int) -> int:
        """The answer of one of process.c's functions; an AssertionError that says how the process ended, if it did instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = (function, *arguments, *[0] * (7 - len(arguments)))
        with suppress(BrokenPipeError):  # it has ended: what follows says how
            self._process.stdin.write(b"".join(value.to_bytes(8, "little", signed=True) for value in request))
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            self._process.kill()
        answer = self._process.stdout.read(8)
        assert len(answer) == 8, f"emulated {self.isa}: the process ended by {self._end()}"
        return int.from_bytes(answer, "little", signed=True)

    def _end(self) -> str:
        _, errors = self._process.communicate()
        status = self._process.returncode
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return f"{how}: {errors.decode().strip()}"

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
