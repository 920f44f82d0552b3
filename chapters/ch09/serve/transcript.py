"""From tokens to text that may be shown: each character once it is complete, and nothing of a stop string."""

import codecs
from collections.abc import Sequence
from typing import Any, NamedTuple


class Shown(NamedTuple):
    """A text that may be shown now, and its tokens, each with the number of characters before it."""

    text: str
    tokens: list[tuple[Any, int]]
    stopped: bool  # whether a stop string came next


class Transcript:
    """Withholds an incomplete character, and text with which a stop string may begin.

    Args:
        stop: strings that end the text.
        prefix: bytes before the first token, already shown. The first token may complete their last character.

    >>> transcript = Transcript(stop=["the end"])
    >>> [transcript.add(word, word.encode()).text for word in ("go", " the", " way", " the", " end")]
    ['go', ' ', 'the way', ' ', '']
    """

    def __init__(self, stop: Sequence[str] = (), prefix: bytes = b"") -> None:
        self.stop, self.utf8 = stop, codecs.getincrementaldecoder("utf-8")("replace")
        self.utf8.decode(prefix)
        self.withheld, self.shown = "", 0  # text; number of characters
        self.tokens: list[tuple[Any, int]] = []  # tokens of which nothing was shown

    def add(self, token: Any, piece: bytes) -> Shown:
        """Add a token with these bytes."""
        self.tokens.append((token, self.shown + len(self.withheld)))
        self.withheld += self.utf8.decode(piece)
        places = [place for place in map(self.withheld.find, self.stop) if place >= 0]
        if places:
            return self._show(min(places), stopped=True)
        return self._show(len(self.withheld) - self._possible_stop())

    def end(self) -> Shown:
        """No token follows: show the rest, with U+FFFD for an incomplete character."""
        self.withheld += self.utf8.decode(b"", final=True)
        return self._show(len(self.withheld))

    def _possible_stop(self) -> int:
        """Length of the longest end of the withheld text with which a stop string begins."""
        lengths = (n for s in self.stop for n in range(1, len(s)) if self.withheld.endswith(s[:n]))
        return max(lengths, default=0)

    def _show(self, characters: int, stopped: bool = False) -> Shown:
        text, self.withheld = self.withheld[:characters], self.withheld[characters:]
        self.shown += characters
        begun = [pair for pair in self.tokens if pair[1] < self.shown]
        self.tokens = self.tokens[len(begun) :]
        return Shown(text, begun, stopped)
