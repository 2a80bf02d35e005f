"""What a test of the engine runs in a process of its own: `python -m tests.unit.runtime.programs NAME MODEL`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

import numpy as np

import edgellm

PROMPT = [i * 7 % 271 for i in range(500)]


def interrupt(model: Path) -> None:
    """Ctrl-C among prefills: KeyboardInterrupt once the step that runs is over, and the engine goes on where it was."""
    engine = edgellm.load(model, threads=2, isa="scalar", prefill_chunk=16)
    expected = engine.prefill(PROMPT).copy()
    pressed_at: list[float] = []

    def press_ctrl_c() -> None:
        while not 32 <= len(engine.cached_tokens) < len(PROMPT):
            time.sleep(0)
        pressed_at.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press_ctrl_c)
    presser.start()
    with suppress(KeyboardInterrupt):
        while True:  # so that the signal can't come too late
            engine.reset()
            engine.prefill(PROMPT)
    took = time.monotonic() - pressed_at[0]
    presser.join()
    assert took < 10, f"{took} s to stop"
    assert engine.cached_tokens == tuple(PROMPT[: len(engine.cached_tokens)])
    np.testing.assert_array_equal(engine.prefill(PROMPT), expected)


def fork(model: Path) -> None:
    """A loaded engine works on in a child, from the cache that its parent filled, and in the parent."""
    engine = edgellm.load(model, threads=2)
    expected = engine.logits(PROMPT[:40])[-1]
    engine.prefill(PROMPT[:20])
    child = os.fork()
    if child == 0:
        status = 1
        try:
            np.testing.assert_array_equal(engine.prefill(PROMPT[:40]), expected)
            status = 0
        except BaseException:  # noqa: BLE001 - the child ends here
            traceback.print_exc()
        finally:
            os._exit(status)
    np.testing.assert_array_equal(engine.prefill(PROMPT[:40]), expected)
    assert os.waitpid(child, 0)[1] == 0


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
