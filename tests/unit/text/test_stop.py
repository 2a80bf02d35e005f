from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.errors import InvalidRequestError
from edgellm.text.stop import StopStrings


def feed(stops: tuple[str, ...], pieces: list[str]) -> tuple[list[str], bool]:
    matcher = StopStrings(stops)
    out = []
    for piece in pieces:
        out.append(matcher.push(piece))
        if matcher.found:
            break
    return [*out, matcher.flush()], matcher.found


@pytest.mark.parametrize(
    ("stops", "pieces", "out", "found"),
    [
        ((), ["a", "b"], ["a", "b", ""], False),
        (("END",), ["xE", "N", "Dy"], ["x", "", "", ""], True),
        (("END",), ["xE", "N", "O"], ["x", "", "ENO", ""], False),
        (("END",), ["xE", "N"], ["x", "", "EN"], False),
        (("aab",), ["aa", "ab"], ["", "a", ""], True),
        (("\n\n",), ["a\n", "b", "\n\nc"], ["a", "\nb", "", ""], True),
        (("b", "abc"), ["xabc"], ["xa", ""], True),
        (("bc", "abc"), ["xabc"], ["x", ""], True),
        (("日本",), ["は日", "本"], ["は", "", ""], True),
    ],
)
def test_what_is_let_through(stops: tuple[str, ...], pieces: list[str], out: list[str], found: bool) -> None:
    assert feed(stops, pieces) == (out, found)


@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3).map(tuple),
    pieces=st.lists(st.text("abc", max_size=5), max_size=6),
)
def test_the_pieces_do_not_matter(stops: tuple[str, ...], pieces: list[str]) -> None:
    text = "".join(pieces)
    in_pieces, found = feed(stops, pieces)
    at_once, found_at_once = feed(stops, list(text))
    assert ("".join(in_pieces), found) == ("".join(at_once), found_at_once)
    assert found == any(stop in text for stop in stops)
    assert text.startswith("".join(in_pieces))


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="at least one character"):
        StopStrings(("a", ""))
