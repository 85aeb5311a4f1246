"""Run a function when asked, not too often, and from time to time anyway. Upstream: pkg/proxy/runner. Touches: event loop clock.

At least `min_interval_s` lies between the end of a run and the start of the next; what is asked for meanwhile collapses
into one run. A first or isolated request runs at once. A failed run is repeated after `retry_s`; a run happens at least
every `max_interval_s`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("runner")


class BoundedFrequencyRunner:
    def __init__(
        self, run: Callable[[], Awaitable[bool]], *, min_interval_s: float, retry_s: float, max_interval_s: float
    ) -> None:
        """`run` returns whether it went well."""
        self._run = run
        self._min_interval_s = min_interval_s
        self._retry_s = retry_s
        self._max_interval_s = max_interval_s
        self._asked = asyncio.Event()

    def request(self) -> None:
        """Ask for a run; returns at once."""
        self._asked.set()

    async def loop(self) -> None:
        """Serve requests for ever. Cancel to stop."""
        wait_s = self._max_interval_s
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    await self._asked.wait()
            except TimeoutError:
                pass
            self._asked.clear()
            try:
                good = await self._run()
            except Exception:
                log.exception("the run failed")
                good = False
            wait_s = self._max_interval_s if good else self._retry_s
            await asyncio.sleep(self._min_interval_s)
