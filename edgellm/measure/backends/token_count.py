"""Whether a server sends its tokens one by one: otherwise the times between what it sent are no inter-token latencies."""

from __future__ import annotations

from edgellm.measure.backends.protocol import BackendFailedError


class TokenCount:
    """Of one completion by `server`: the pieces of text that came, of which there should be one per token and `asked` at most."""

    def __init__(self, server: str, asked: int) -> None:
        self._server = server
        self._asked = asked
        self._pieces = 0

    def add(self) -> None:
        """One more piece came. BackendFailedError: more than were asked for, so perhaps without end."""
        self._pieces += 1
        if self._pieces > self._asked:
            raise BackendFailedError(f"{self._server} sends more than the {self._asked} tokens that it was asked for")

    def check(self, tokens: object, stopped: bool) -> None:
        """Compare with the tokens that the server says it generated; BackendFailedError where they differ, and where it does not say.

        stopped: it ended the text itself. Then one token more is well: that of the end, which has no text to send.
        """
        cannot_time = f"cannot time the tokens of {self._server}"
        if not isinstance(tokens, int):
            raise BackendFailedError(f"{cannot_time}: it does not say how many are in its {self._pieces} pieces of text")
        if self._pieces not in (tokens, tokens - 1 if stopped else tokens):
            raise BackendFailedError(f"{cannot_time}: it sends {tokens} tokens in {self._pieces} pieces of text")
