"""Work that threads do before its result is asked for; what comes, and in which order, stays."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def ahead(function: Callable[[S], T], values: Iterable[S], threads: int, most: int) -> Iterator[T]:
    """As map(function, values), by threads that are up to `most` results ahead.

    What `function` or `values` raises is raised where that result would have come. Values are
    taken in the thread that asks.

    Args:
        function: may be called by several threads at once.
        values: without end, or with one.
        threads: 0 for none, as map.
        most: results to be ahead.
    """
    if threads == 0:
        yield from map(function, values)
        return
    pool, source = ThreadPoolExecutor(threads), iter(values)
    due: deque[Future[T]] = deque()
    more = True
    try:
        while more or due:
            while more and len(due) <= most:
                try:
                    due.append(pool.submit(function, next(source)))
                except StopIteration:
                    more = False
                except Exception as error:
                    due.append(Future())
                    due[-1].set_exception(error)
                    more = False
            if due:
                yield due.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def made_ahead(endless: Iterator[T], most: int) -> Iterator[T]:
    """What an iterator without end gives, made by one thread that is up to `most` ahead."""
    return ahead(lambda _: next(endless), itertools.repeat(None), 1, most)
