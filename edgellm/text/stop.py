"""Stop strings in text that comes piece by piece."""

from __future__ import annotations

from edgellm.errors import InvalidRequestError


class StopStrings:
    """Lets text through until a stop string is complete; what could still become one is held back, so nothing is ever taken back.

    Where several stop strings match, the one that ends first counts, then the one that starts first: the pieces in which the
    text arrives do not matter.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        if not all(stops):
            raise InvalidRequestError(f"stop strings are {stops!r}; each needs at least one character")
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The text that is now known to lie before any stop string."""
        text = self._held + text
        matches = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if matches:
            self.found = True
            self._held = ""
            return text[: min(matches)[1]]
        free = len(text) - max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[free:]
        return text[:free]

    def flush(self) -> str:
        """What was held back, once no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that begins, but does not complete, the stop string."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
