"""How much memory all threads may take for decoded pictures at the same time."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Room:
    """Bytes that are lent; whoever wants more than are left waits, and nobody passes who came later."""

    def __init__(self, size: int):
        self.size = size
        self._free = size
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, wanted: int) -> Iterator[None]:
        """Takes so many bytes for the block; one that wants more than there are gets all, when nobody else has any.

        Must not be nested: a thread that holds some and waits for more may wait for ever.
        """
        wanted, place = min(wanted, self.size), object()
        with self._changed:
            self._waiting.append(place)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is place and self._free >= wanted)
                self._free -= wanted
            finally:
                self._waiting.remove(place)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += wanted
                self._changed.notify_all()
