"""Work ahead of a consumer in one background thread, by a bounded number of items."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Items that a background thread makes while earlier ones are used.

    The thread takes a place with :meth:`acquire` before it begins an item and hands items over in order with
    :meth:`put`. A place becomes free when the consumer asks for the item in it, so at most ``depth`` items exist beside
    the one in use.

    Args:
        depth: number of places.
        produce: what the thread runs; it is to return soon after :meth:`acquire` has returned False.
    """

    def __init__(self, depth: int, produce: Callable[[Prefetcher[T]], None]) -> None:
        """Keep the arguments; the thread starts with the iteration."""
        self._places = threading.Semaphore(depth)
        self._items: SimpleQueue[T | BaseException | None] = SimpleQueue()
        self._stop = threading.Event()
        self._produce = produce
        self._thread = threading.Thread(target=self._run, name="fastclr-prefetch", daemon=True)

    def _run(self) -> None:
        """Produce until done; an error goes to the consumer."""
        try:
            self._produce(self)
            self._items.put(None)
        except BaseException as error:  # the consumer would wait for ever
            self._items.put(error)

    def has_room(self) -> bool:
        """Return whether :meth:`acquire` would not wait."""
        free = self._places.acquire(blocking=False)
        if free:
            self._places.release()
        return free

    def acquire(self) -> bool:
        """Wait for a place and take it; False means stop."""
        self._places.acquire()
        return not self._stop.is_set()

    def put(self, item: T) -> None:
        """Hand the next item over."""
        self._items.put(item)

    def __iter__(self) -> Iterator[T]:
        """Yield the items; the thread ends with the iteration."""
        self._thread.start()
        try:
            while not self._stop.is_set():
                item = self._items.get()
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                self._places.release()
                yield item
        finally:
            self.close()

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._stop.set()
        self._places.release()
        if self._thread.is_alive():
            self._thread.join()
