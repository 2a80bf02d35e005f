"""Evaluation texts. They are not part of the package: the environment variable EDGELLM_DATA names the folder that holds them."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from pathlib import Path

from edgellm.errors import FetchError

WIKITEXT2_TEST_SHA256 = "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08"


def wikitext2_test() -> str:
    """The raw test text of WikiText-2 (`wiki.test.raw`), from `wikitext2_test.raw.txt.gz`; FetchError where it is missing or altered."""
    path = data_folder() / "wikitext2_test.raw.txt.gz"
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise FetchError(f"cannot read {path}: {error}; EDGELLM_DATA must name a folder that holds this file") from error
    if (found := hashlib.sha256(raw).hexdigest()) != WIKITEXT2_TEST_SHA256:
        raise FetchError(f"{path} is not the WikiText-2 raw test text: its sha256 is {found}, not {WIKITEXT2_TEST_SHA256}")
    return raw.decode("utf-8")


def data_folder() -> Path:
    """The folder that EDGELLM_DATA names; FetchError where it is not set."""
    if not (folder := os.environ.get("EDGELLM_DATA")):
        raise FetchError("EDGELLM_DATA is not set; it must name the folder that holds the evaluation texts")
    return Path(folder)
