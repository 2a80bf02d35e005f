"""In real time a token, however it is drawn, takes no page fault, no malloc and nothing that outlives it."""

from __future__ import annotations

from pathlib import Path

from edgellm.formats.tmac2 import write_tmac2
from tests.unit.runtime import token_loop
from tests.unit.runtime.synthetic import checkpoint

pytestmark = token_loop.NEEDS


def test_what_a_token_takes(tmp_path: Path, tokenizer_json: str) -> None:
    model = tmp_path / "synthetic.tmac2.bin"
    write_tmac2(model, checkpoint(tokenizer_json, max_position_embeddings=token_loop.CONTEXT))
    token_loop.check(model, tmp_path)
