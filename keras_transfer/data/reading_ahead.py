"""Threads that make things before they are asked for."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


def made_ahead(
    make: Callable[[_Item], _Made], items: Iterable[_Item], threads: int
) -> Generator[_Made, None, None]:
    """Yield what `make` gives for each item, in order, while threads make the next ones.

    An error comes where its item would. After one, and when the iterator is closed or let go of, the
    threads end with what they are at and begin nothing more.

    Args:
        make: is called by several threads at once.
        items: without end, if need be.
        threads: how many there are; as many items are made ahead. 0: each is made when it is asked for.
    """
    if not threads:
        yield from map(make, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="keras_transfer-reading")
    try:
        ahead: deque[Future[_Made]] = deque()
        for item in items:
            ahead.append(pool.submit(make, item))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        # Without waiting, as the iterator may be let go of in one of these threads, by a collection.
        pool.shutdown(wait=False, cancel_futures=True)
