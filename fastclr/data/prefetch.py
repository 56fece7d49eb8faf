"""Produce a bounded number of items ahead of the consumer, in a background thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Items that a background thread produces while earlier ones are used.

    The thread acquires one of ``depth`` slots before it begins an item, and hands the items over in order with
    :meth:`put`. A slot is released when the consumer takes its item, so at most ``depth`` items exist beside the one in
    use.

    Args:
        depth: number of slots.
        produce: what the thread runs; it has to return soon after :meth:`acquire` returns False.
    """

    def __init__(self, depth: int, produce: Callable[[Prefetcher[T]], None]) -> None:
        """Keep the arguments; the thread starts with the iteration."""
        self._slots = threading.Semaphore(depth)
        self._items: SimpleQueue[T | BaseException | None] = SimpleQueue()
        self._stop = threading.Event()
        self._produce = produce
        self._thread = threading.Thread(target=self._run, name="fastclr-prefetch", daemon=True)

    def _run(self) -> None:
        """Run `produce`; an error is raised in the consumer."""
        try:
            self._produce(self)
            self._items.put(None)
        except BaseException as error:  # else the consumer would wait for ever
            self._items.put(error)

    def has_room(self) -> bool:
        """Return whether a slot is free, so that :meth:`acquire` would not wait."""
        free = self._slots.acquire(blocking=False)
        if free:
            self._slots.release()
        return free

    def acquire(self) -> bool:
        """Wait for a free slot and acquire it; return False if the thread is to stop."""
        self._slots.acquire()
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
                self._slots.release()
                yield item
        finally:
            self.close()

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._stop.set()
        self._slots.release()
        if self._thread.is_alive():
            self._thread.join()
