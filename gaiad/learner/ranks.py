"""Context parallelism on a CPU: threads that each compute some columns of a row, and meet where these see each other.

A step of a small base is thousands of short operations, and threads inside each of them wait for one another at every
one: two were a fifth to a half faster than one. Here each thread runs through all layers with columns of its own, and
hands over keys and values, and on the way back their gradients, once a layer (as ranks do in Ring Attention, arXiv
2310.01889, and in context parallelism, there between devices). What each computes, and the order of sums, depends on no
timing.

Knows nothing of layers or rows: `packing` divides these, `attention` lets its ranks meet.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from queue import SimpleQueue
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class Broken(Exception):
    """Another rank failed, and nothing more will come of it."""


class Meeting:
    """Where `count` ranks hand over what others need: on the way there to all later ones, on the way back to all
    earlier ones. Each waits for those alone, and gets things in the order in which they were handed over.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._between: dict[tuple[int, int], SimpleQueue[Any]] = {}
        self.forget()

    def handed_on(self, rank: int, own: T) -> list[T]:
        """Hand one's own to all later ranks, and get what all earlier ones did, by rank; one's own is the last.

        Raises:
            Broken: an earlier rank failed.
        """
        for later in range(rank + 1, self._count):
            self._between[rank, later].put(own)
        return [*(self._got(earlier, rank) for earlier in range(rank)), own]

    def handed_back(self, rank: int, own: T) -> list[T]:
        """Hand one's own to all earlier ranks, and get what all later ones did, by rank; one's own is the first.

        Raises:
            Broken: a later rank failed.
        """
        for earlier in range(rank):
            self._between[rank, earlier].put(own)
        return [own, *(self._got(later, rank) for later in range(rank + 1, self._count))]

    def _got(self, giver: int, rank: int) -> Any:  # noqa: ANN401 whatever was handed over
        given = self._between[giver, rank].get()
        if given is _NOTHING_MORE:
            raise Broken
        return given

    def break_up(self) -> None:
        """Let nobody wait any longer, now or later."""
        for between in self._between.values():
            between.put(_NOTHING_MORE)

    def forget(self) -> None:
        """Begin anew, when nobody is there."""
        self._between = {pair: SimpleQueue() for pair in itertools.permutations(range(self._count), 2)}


_NOTHING_MORE = object()


def each(works: Sequence[Callable[[], T]], meeting: Meeting) -> list[T]:
    """Carry out every rank's work at the same time, the first in this thread; torch's threads are divided among them.

    Raises:
        Exception: what the first of them raised that did not fail because of another.
    """
    threads, learning = torch.get_num_threads(), torch.is_grad_enabled()

    def carried_out(work: Callable[[], T]) -> T:
        torch.set_num_threads(max(1, threads // len(works)))
        with torch.set_grad_enabled(learning):
            try:
                return work()
            except BaseException:
                meeting.break_up()
                raise

    others: list[Future[T]] = []
    first: Future[T] = Future()
    try:
        others += [_threads(len(works) - 1).submit(carried_out, work) for work in works[1:]]
        first.set_result(carried_out(works[0]))
    except Exception as own:  # noqa: BLE001 it is raised below, unless another one caused it
        first.set_exception(own)
    finally:
        if not first.done() or first.exception() is not None:
            meeting.break_up()
        wait(others)
        torch.set_num_threads(threads)
        meeting.forget()
    cause = _cause([first, *others])
    try:
        if cause is not None:
            raise cause
        return [one.result() for one in (first, *others)]
    finally:
        # A failure holds its frames, and so what they were computing; nothing here may hold it in turn.
        del cause, first, others


def _cause(ended: Sequence[Future[T]]) -> BaseException | None:
    """The first failure that is not the consequence of another, if any is one."""
    failures = [failure for one in ended if (failure := one.exception()) is not None]
    return next((one for one in failures if not isinstance(one, Broken)), next(iter(failures), None))


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="rank")
