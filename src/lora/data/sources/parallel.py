"""Working on clips in threads, in order and in bounded memory.

Threads are enough: decoding, resampling and FLAC encoding all release Python's lock.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

MAX_DEFAULT_WORKERS = 8
MAX_BYTES = 256 * 2**20
"""What the items in work may need together; one that needs more is worked on alone."""

T = TypeVar("T")
R = TypeVar("R")


def default_workers() -> int:
    """Return one worker a processor, at most `MAX_DEFAULT_WORKERS`."""
    return min(os.cpu_count() or 1, MAX_DEFAULT_WORKERS)


def map_in_order(
    function: Callable[[T], R], items: Iterable[T], workers: int, *, size_of: Callable[[T], int]
) -> Iterator[tuple[T, R]]:
    """Yield each item with what `function` makes of it, in the order of `items`.

    Args:
        size_of: bytes that an item needs while it is worked on.
    """
    waiting: deque[tuple[T, int, Future[R]]] = deque()
    held = 0
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="clip")
    try:
        for item in items:
            size = size_of(item)
            while waiting and (len(waiting) >= 2 * workers or held + size > MAX_BYTES):
                done, done_size, future = waiting.popleft()
                held -= done_size
                yield done, future.result()
            waiting.append((item, size, pool.submit(function, item)))
            held += size
        while waiting:
            done, _, future = waiting.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
