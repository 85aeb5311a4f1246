"""So much at a time, the rest in the order in which it came. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Lane:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        self._waiting: list[Callable[[], None]] = []

    def enter(self, begin: Callable[[], None]) -> None:
        """Call `begin` now, or when one that runs has called `leave`."""
        if self.running >= self.limit:
            self._waiting.append(begin)
            return
        self.running += 1
        begin()

    def leave(self) -> None:
        self.running -= 1
        if self._waiting:
            self.enter(self._waiting.pop(0))
