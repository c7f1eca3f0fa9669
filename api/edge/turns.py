"""The order of waiting callers: two lines take turns, and within a line groups do, then names.

Callers with a known credential wait in one line, all others, by address, in the other. Each line has its own places,
so that no number of strangers takes a user's place, and no user's flood takes theirs.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


@dataclass(frozen=True, slots=True)
class Caller:
    """`group` bounds how much runs at once, and has one turn in its line; within it its names take turns. Both are the
    user's id, or the IPv4 address; an IPv6 address has its /48 as its group and its /64 as its name; a device that has
    signed in before has the account's and its own."""

    group: str
    name: str
    is_known: bool


NOBODY = Caller("", "", is_known=False)


class Waiting(Protocol):
    @property
    def caller(self) -> Caller: ...


J = TypeVar("J", bound=Waiting)


class Turns(Generic[J]):
    """`places`: how many may wait in each of the two lines. Not safe from several threads."""

    def __init__(self, places: int) -> None:
        self._lines = {True: _Line[J](places), False: _Line[J](places)}
        self._next_known = True

    def add(self, job: J) -> None:
        """The caller of this then takes what may run (`take`) and what is too much (`take_excess`)."""
        self._lines[job.caller.is_known].add(job)

    def take_excess(self, newcomer: Caller) -> J | None:
        """The job without a place in the newcomer's line: the newest of the group with most jobs, and in it of the name
        with most; the newcomer's if it is among several with as many."""
        return self._lines[newcomer.is_known].take_excess(newcomer)

    def take(self, may_run: Callable[[str], bool]) -> J | None:
        """The next job of a group that may run. The other line comes first the next time."""
        for is_known in (self._next_known, not self._next_known):
            job = self._lines[is_known].take(may_run)
            if job is not None:
                self._next_known = not is_known
                return job
        return None

    def take_all(self) -> list[J]:
        return [job for line in self._lines.values() for job in line.take_all()]


class _Line(Generic[J]):
    def __init__(self, places: int) -> None:
        self._places = places
        self._count = 0
        # Group → name → its jobs; groups and names in the order of their turns.
        self._groups: OrderedDict[str, OrderedDict[str, deque[J]]] = OrderedDict()

    def add(self, job: J) -> None:
        caller = job.caller
        self._groups.setdefault(caller.group, OrderedDict()).setdefault(caller.name, deque()).append(job)
        self._count += 1

    def take_excess(self, newcomer: Caller) -> J | None:
        if self._count <= self._places:
            return None
        group = _largest(self._groups, newcomer.group, lambda names: sum(map(len, names.values())))
        name = _largest(self._groups[group], newcomer.name, len)
        return self._remove(group, name, deque.pop)

    def take(self, may_run: Callable[[str], bool]) -> J | None:
        group = next((group for group in self._groups if may_run(group)), None)
        if group is None:
            return None
        names = self._groups[group]
        name = next(iter(names))
        self._groups.move_to_end(group)
        names.move_to_end(name)
        return self._remove(group, name, deque.popleft)

    def take_all(self) -> list[J]:
        left = [job for names in self._groups.values() for jobs in names.values() for job in jobs]
        self._groups.clear()
        self._count = 0
        return left

    def _remove(self, group: str, name: str, take: Callable[[deque[J]], J]) -> J:
        names = self._groups[group]
        job = take(names[name])
        self._count -= 1
        if not names[name]:
            del names[name]
        if not names:
            del self._groups[group]
        return job


V = TypeVar("V")


def _largest(sizes: OrderedDict[str, V], newcomer: str, size: Callable[[V], int]) -> str:
    """The newcomer, unless another has more."""
    largest = max(sizes, key=lambda name: size(sizes[name]))
    return newcomer if newcomer in sizes and size(sizes[newcomer]) >= size(sizes[largest]) else largest
