"""The package as a revision of the sources builds it: a wheel, unpacked into a folder of its own, to be imported by a process of its own.

Building compiles every kernel, so packages are kept in build/revisions under the digest of what they were built from, until they are
unused for a day. It needs no network: the running environment's setuptools and cffi build.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from scripts.environment import ROOT, explain

KEPT = ROOT / "build" / "revisions"
BUILT_FROM = ("edgellm", "csrc", "scripts/prerequisites.py", "setup.py", "pyproject.toml")
MEASURED = ("edgellm", "csrc")
"""What decides how long a token takes."""
WORKING_TREE = "the working tree"


class RevisionError(Exception):
    """There is no such revision, or it does not build."""


@dataclass(frozen=True)
class Package:
    """A revision's package: `edgellm` lies in `folder`, `measured` is the digest of MEASURED, `csrc_hash` what its module must have."""

    revision: str
    folder: Path
    measured: str
    csrc_hash: str


@dataclass(frozen=True)
class Sources:
    """A revision's files, in a folder."""

    revision: str
    folder: Path

    @property
    def measured(self) -> str:
        """Equal for two revisions between which nothing changed that is measured."""
        return self._digest(MEASURED)

    def package(self) -> Package:
        """Build it, unless that was done before; RevisionError says why it does not build."""
        environment = f"{sys.version} {os.environ.get('CC')} {os.environ.get('EDGELLM_CFLAGS')}".encode()
        kept = KEPT / self._digest(BUILT_FROM, environment)
        KEPT.mkdir(parents=True, exist_ok=True)
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=KEPT) as scratch:
                self._build(Path(scratch) / "wheel")
                (wheel,) = (Path(scratch) / "wheel").glob("*.whl")
                with zipfile.ZipFile(wheel) as packed:
                    packed.extractall(Path(scratch) / "package")
                Path(scratch, "package").rename(kept)
        os.utime(kept)
        for other in KEPT.iterdir():
            if time.time() - other.stat().st_mtime > 24 * 3600:
                shutil.rmtree(other)
        return Package(
            self.revision, kept, self.measured, self._run(sys.executable, "-c", "from csrc.build_native import *; print(csrc_hash())")
        )

    def _build(self, folder: Path) -> None:
        pip = ("-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-build-isolation", "--no-deps", "--no-index")
        self._run(sys.executable, *pip, "--wheel-dir", str(folder), str(self.folder))

    def _run(self, *command: str) -> str:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # which may name other sources
        done = subprocess.run(command, cwd=self.folder, env=env, text=True, capture_output=True, check=False)
        if done.returncode:
            raise RevisionError(f"{self.revision} does not build: {_reason(done.stdout + done.stderr)}")
        return done.stdout.strip()

    def _digest(self, names: tuple[str, ...], salt: bytes = b"") -> str:
        state = hashlib.sha256(salt)
        for name in names:
            top = self.folder / name
            for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
                if path.is_file():
                    content = path.read_bytes()
                    state.update(f"{path.relative_to(self.folder)}\0{len(content)}\0".encode() + content)
        return state.hexdigest()[:16]


def working_tree(folder: Path, root: Path = ROOT) -> Sources:
    """The files as they are now, committed or not, but for those that git ignores; copied into `folder`."""
    for name in _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").rstrip("\0").split("\0"):
        source, copy = root / name, folder / name
        if source.is_file():  # not when it was deleted and that is not committed
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)
    return Sources(WORKING_TREE, folder)


def committed(revision: str, folder: Path, root: Path = ROOT) -> Sources:
    """The files of a commit, extracted into `folder`; RevisionError if git has none of that name."""
    missing = f"there is no commit {revision!r} here (a shallow clone lacks it until `git fetch --unshallow`)"
    commit = _git(root, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}", problem=missing).strip()
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder.with_suffix(".tar")
    _git(root, "archive", "--output", str(archive), commit)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return Sources(f"{revision} ({commit[:12]})", folder)


def _reason(output: str) -> str:
    """The first line that setup.py or the compiler wrote of what is wrong; pip's, where neither did."""
    said = [line.strip() for line in output.splitlines() if line.strip().startswith("edgellm:") or ": error: " in line]
    return said[0] if said else explain(output)


def _git(root: Path, *arguments: str, problem: str = "git cannot say what the sources are") -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, text=True, capture_output=True, check=False)
    except FileNotFoundError:
        raise RevisionError("git is not installed; it has the sources of other revisions: apt-get install git") from None
    if done.returncode:
        complaint = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise RevisionError(f"{problem}: {complaint}")
    return done.stdout
