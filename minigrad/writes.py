"""Records when memory was last written to, so that no gradient is computed from overwritten values.

The backward pass of a product needs the factors as the forward pass saw them. If one of them is changed in place in between,
the gradient would be wrong and nothing would say so. So every change in place calls `note_write`, and a Node refuses to run its
backward pass if a saved array's memory was written to after the forward pass. The check goes by memory, not by tensor: it
sees a write through any view, whatever the dtype, and a Function cannot forget to declare an array.

Time here is a count of events. An array that dies leaves its entry behind, which harms no array that gets the same id later:
the entry is older than everything that is saved from then on.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

_clock = itertools.count(1)
_last_write: dict[int, int] = {}  # id of the array that owns the memory -> time of the last write
_last_recorded: dict[int, int] = {}  # the same for changes in place that joined the graph -> time of their node


def now() -> int:
    """The time: every call returns a later one."""
    return next(_clock)


def note_write(array: Any) -> None:
    """Note that the memory behind an array is being written to."""
    _last_write[id(_owner(array))] = now()


def note_recorded(array: Any, time: int) -> None:
    """Note that a change in place of the memory behind an array has joined the graph, with a node of this time."""
    _last_recorded[id(_owner(array))] = time


def recorded_since(time: int, array: Any) -> bool:
    """Whether a change in place of the memory behind an array has joined the graph after `time`."""
    return bool(_last_recorded) and _last_recorded.get(id(_owner(array)), 0) > time


def written_since(time: int, values: Iterable[Any]) -> Any:
    """The first array among the values, nested or not, that was written to after `time`; None if there is none."""
    return next((a for a in _arrays_in(values) if _last_write.get(id(_owner(a)), 0) > time), None)


def _arrays_in(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, dict):
            value = tuple(value.values())
        if isinstance(value, (tuple, list)):
            yield from _arrays_in(value)
        elif hasattr(value, "base"):
            yield value


def _owner(array):
    """The array whose memory this array views; itself if it views no other."""
    while hasattr(array.base, "base"):
        array = array.base
    return array
