"""Evaluation texts. They are not part of the package: the environment variable EDGELLM_DATA names the folder that holds them."""

from __future__ import annotations

import gzip
import hashlib
import os
import pydoc_data.topics
import zlib
from collections.abc import Mapping
from pathlib import Path

from edgellm.errors import FetchError, InvalidRequestError

SMOKE = "smoke"
FILES: Mapping[str, tuple[str, str]] = {
    "wikitext2_test": ("wikitext2_test.raw.txt.gz", "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08"),
    "tinyshakespeare": ("tinyshakespeare.txt.gz", "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),
}
"""Text -> its file, and the sha256 of what is in it: WikiText-2's raw test text (`wiki.test.raw`), and as a second domain Shakespeare's
dialogues as Karpathy's char-rnn has them."""
TEXTS = (*FILES, SMOKE)


def text(name: str) -> str:
    """A text of TEXTS, or that of a UTF-8 file by its path, gzipped if it ends in .gz.

    FetchError where it is missing or altered; InvalidRequestError for a name that is none, and a file that is empty or binary.
    """
    if name == SMOKE:
        return smoke()
    if name not in FILES:
        return _own(Path(name))
    file, sha256 = FILES[name]
    path = data_folder() / file
    raw = _decompressed(path, "; EDGELLM_DATA must name a folder that holds this file")
    if (found := hashlib.sha256(raw).hexdigest()) != sha256:
        raise FetchError(f"{path} is not the text {name}: its sha256 is {found}, not {sha256}")
    return raw.decode("utf-8")


def wikitext2_test() -> str:
    """The raw test text of WikiText-2; errors as in `text`."""
    return text("wikitext2_test")


def smoke() -> str:
    """Python's language reference, which every CPython carries and each version changes: figures of it compare within one run alone."""
    return "\n".join(topic for _, topic in sorted(pydoc_data.topics.topics.items()))


def data_folder() -> Path:
    """The folder that EDGELLM_DATA names; FetchError where it is not set."""
    if not (folder := os.environ.get("EDGELLM_DATA")):
        raise FetchError("EDGELLM_DATA is not set; it must name the folder that holds the evaluation texts")
    return Path(folder)


def _own(path: Path) -> str:
    if not path.is_file():
        raise InvalidRequestError(f"the text {path} is unknown: neither a file nor one of {', '.join(TEXTS)}")
    raw = _decompressed(path, "") if path.suffix == ".gz" else path.read_bytes()
    try:
        content = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{path} is no text in UTF-8: {error}") from error
    if not content.strip():
        raise InvalidRequestError(f"{path} is empty: there is nothing to score")
    return content


def _decompressed(path: Path, remedy: str) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise FetchError(f"cannot read {path}: {error}{remedy}") from error
