"""Work on many encoded images with several threads, in order, within a budget of bytes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from fastclr.sources.byte_ranges import Encoded
from fastclr.sources.decode import decoding_bytes, explain

Result = TypeVar("Result")
# from an encoded image, or its beginning, to the bytes that work on it takes; None if it does not say so
Needs = Callable[[bytes], int | None]
WINDOW = 32  # images in flight for each thread
READ_AHEAD = 8  # this part of the budget may hold encoded images that could not be left where they are stored


class Budget:
    """A number of bytes that may be held at a time.

    Whoever needs some waits until they are free, and gets them in the order of the tickets, which are numbered from 0.
    So the oldest work always goes on, and work whose results are consumed in this order cannot wait for ever.

    Args:
        limit: number of bytes.
    """

    def __init__(self, limit: int) -> None:
        """Nothing is held at first."""
        self.limit = limit
        self._lock = threading.Lock()
        self._held = 0
        self._next = 0  # the ticket whose turn it is
        self._part = 0  # bytes that it holds already
        self._waiting: dict[int, tuple[int, bool, threading.Event | None]] = {}
        self._closed = False

    def take(self, ticket: int, count: int, last: bool = True) -> None:
        """Wait for `count` bytes; unless it is the `last` time for this ticket, no later one has its turn yet."""
        with self._lock:
            self._waiting[ticket] = (count, last, None)
            self._serve()
            if ticket not in self._waiting:
                return
            served = threading.Event()
            self._waiting[ticket] = (count, last, served)
        served.wait()

    def give_back(self, count: int) -> None:
        """Return bytes."""
        with self._lock:
            self._held -= count
            self._serve()

    def close(self) -> None:
        """Let everybody go on without waiting, because nobody will consume what they make."""
        with self._lock:
            self._closed = True
            self._serve()

    def _serve(self) -> None:
        """Serve those whose turn it is as long as there are bytes, and one in any case."""
        while self._waiting and (self._closed or self._next in self._waiting):
            ticket = next(iter(self._waiting)) if self._closed else self._next
            count, last, served = self._waiting[ticket]
            if not self._closed and self._held > self._part and self._held + count > self.limit:
                return
            del self._waiting[ticket]
            self._held += count
            self._part += count
            if last:
                self._next, self._part = self._next + 1, 0
            if served is not None:
                served.set()


class Admission:
    """The bytes that work on one image holds.

    Args:
        budget: where they come from.
        ticket: its place in the order.
        needs: how many bytes it takes.
    """

    def __init__(self, budget: Budget, ticket: int, needs: Needs) -> None:
        """Nothing is held at first."""
        self._budget, self._ticket, self._needs = budget, ticket, needs
        self._held = 0
        self._settled = False

    def __call__(self, head: bytes, size: int) -> None:
        """Wait until the image may be read and decoded, or only read if its first bytes do not say how large it is.

        Raises:
            MemoryError: it takes more than the whole budget.
        """
        needed = self._needs(head)
        self._take(size + (needed or 0), last=needed is not None or size <= len(head))

    def decode(self, data: bytes) -> None:
        """Wait until the image may be decoded, if only its whole file says how large it is."""
        if not self._settled:
            self._take(self._needs(data) or 0, last=True)

    def keep(self, count: int) -> None:
        """Return all but `count` bytes, and let the next one have its turn."""
        if not self._settled:
            self._take(0, last=True)
        self._budget.give_back(self._held - count)

    def _take(self, count: int, last: bool) -> None:
        """Wait for more bytes."""
        total = self._held + count
        check_image(total, self._budget.limit)
        self._budget.take(self._ticket, count, last)
        self._held, self._settled = total, last


def check_image(needed: int, limit: int) -> None:
    """Raise MemoryError if reading and decoding one image takes more than `limit` bytes."""
    if needed > limit:
        raise MemoryError(
            f"takes about {needed / 1e6:,.0f} MB to decode, and {limit / 1e6:,.0f} MB may be used for it (--memory)"
        )


def work_in_order(
    images: Iterable[tuple[str, Encoded]],
    work: Callable[[str, bytes], Result],
    limit: int,
    workers: int,
    needs: Needs | None = None,
    size_of: Callable[[Result], int] = lambda result: 0,
) -> Iterator[tuple[str, Result | str]]:
    """Read encoded images and do `work` on each in several threads; yield name and result or reason, in order.

    At most `limit` bytes are held, counting encoded images, what decoding them takes, and results not yet consumed. An
    image that takes more is not read.

    Args:
        images: their names, and how to read them.
        work: gets name and content; whatever it raises becomes a reason.
        limit: number of bytes.
        workers: number of threads.
        needs: the bytes that `work` takes. Default: those of decoding to RGB.
        size_of: the number of bytes that a result holds.
    """
    budget, needs = Budget(limit), needs or decoding_bytes
    window: deque[tuple[str, int, Future[tuple[Result | str, int]]]] = deque()
    ahead = 0

    def attempt(ticket: int, name: str, image: Encoded) -> tuple[Result | str, int]:
        admission = Admission(budget, ticket, needs)
        result: Result | str
        kept = 0
        try:
            data = image.read(admission)
            admission.decode(data)
            result = work(name, data)
            kept = size_of(result)
        except Exception as error:  # Pillow raises many types for a damaged file
            result = explain(error)
        admission.keep(kept)
        return result, kept

    def consume() -> Iterator[tuple[str, Result | str]]:
        nonlocal ahead
        name, read, future = window.popleft()
        result, kept = future.result()
        ahead -= read
        yield name, result
        budget.give_back(kept)

    with ThreadPoolExecutor(workers, thread_name_prefix="fastclr-decode") as pool:
        try:
            for ticket, (name, image) in enumerate(images):
                read = 0
                if image.in_sequence:
                    while window and ahead + image.size > limit // READ_AHEAD:
                        yield from consume()
                    read = image.size
                    ahead += read
                    image = image.fetched(limit)
                window.append((name, read, pool.submit(attempt, ticket, name, image)))
                while len(window) > WINDOW * workers:
                    yield from consume()
            while window:
                yield from consume()
        finally:
            budget.close()
