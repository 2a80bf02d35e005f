"""Revisions of a project small enough to build in a second."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from scripts import revisions
from scripts.revisions import WORKING_TREE, RevisionError, committed, working_tree

FILES = {
    "edgellm/__init__.py": "VALUE = 1\n",
    "csrc/build_native.py": "def csrc_hash(): return 'cafe'\n",
    "scripts/prerequisites.py": "",
    "setup.py": "from setuptools import setup\nsetup(name='edgellm', version='1', packages=['edgellm'])\n",
    "pyproject.toml": "[build-system]\nrequires = ['setuptools']\nbuild-backend = 'setuptools.build_meta'\n",
    ".gitignore": "ignored.py\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one commit; nothing is built yet."""
    monkeypatch.setattr(revisions, "KEPT", tmp_path / "kept")
    root = tmp_path / "project"
    for name, text in FILES.items():
        write(root / name, text)
    git(root, "init", "--quiet")
    commit(root)
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def git(root: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "x")


def test_working_tree_is_what_lies_there_and_a_commit_what_was_committed(project: Path, tmp_path: Path) -> None:
    write(project / "edgellm/__init__.py", "VALUE = 2\n")
    write(project / "edgellm/new.py", "")
    write(project / "edgellm/ignored.py", "")
    (project / "csrc/build_native.py").unlink()
    now, then = working_tree(tmp_path / "now", project), committed("HEAD", tmp_path / "then", project)
    assert {path.name for path in (now.folder / "edgellm").iterdir()} == {"__init__.py", "new.py"}
    assert not (now.folder / "csrc").exists()
    assert (then.folder / "edgellm/__init__.py").read_text() == "VALUE = 1\n"
    assert now.revision == WORKING_TREE
    assert now.measured != then.measured


def test_only_what_is_measured_makes_a_difference(project: Path, tmp_path: Path) -> None:
    then = committed("HEAD", tmp_path / "then", project)
    write(project / "README.md", "new")
    assert working_tree(tmp_path / "documented", project).measured == then.measured
    write(project / "csrc/kernel.c", "")
    assert working_tree(tmp_path / "changed", project).measured != then.measured


@pytest.mark.parametrize("revision", ["nosuch", "HEAD~1", "--help", "", "HEAD:setup.py"])
def test_what_is_no_revision_is_named(project: Path, tmp_path: Path, revision: str) -> None:
    with pytest.raises(RevisionError, match=f"there is no commit {revision!r} here") as caught:
        committed(revision, tmp_path / "then", project)
    assert "\n" not in str(caught.value)


def test_no_repository_and_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(RevisionError, match="not a git repository"):
        working_tree(tmp_path / "now", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RevisionError, match="git is not installed"):
        committed("HEAD", tmp_path / "then", tmp_path)


def test_package_is_built_once_and_kept_for_a_day(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = committed("HEAD", tmp_path / "then", project).package()
    assert (package.folder / "edgellm/__init__.py").read_text() == FILES["edgellm/__init__.py"]
    assert package.csrc_hash == "cafe"
    stale, (day, later) = revisions.KEPT / "stale", (24 * 3600, time.time())
    stale.mkdir()
    os.utime(stale, (0, later - day - 1))
    monkeypatch.setattr(revisions.Sources, "_build", pytest.fail)
    write(project / "README.md", "new")
    assert working_tree(tmp_path / "now", project).package().folder == package.folder
    assert not stale.exists()


def test_what_does_not_build_says_why_in_one_line_and_leaves_nothing(project: Path, tmp_path: Path) -> None:
    write(project / "setup.py", "raise SystemExit('edgellm: no C compiler')\n")
    with pytest.raises(RevisionError, match=r"^the working tree does not build: .*edgellm: no C compiler") as caught:
        working_tree(tmp_path / "now", project).package()
    assert "\n" not in str(caught.value)
    assert list(revisions.KEPT.iterdir()) == []
