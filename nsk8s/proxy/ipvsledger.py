"""Which service port wants which item of ipvs mode, so that a change in one takes away nothing that another needs. Pure.

Two Services with the same pods share entries of KUBE-LOOP-BACK. A virtual server that two ask for (an external IP) is the
first's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from nsk8s.net.ipvs import Entry, Item, Items, Real, Server, Value
from nsk8s.proxy.services import PortName


class Ledger:
    def __init__(self) -> None:
        self._of: dict[PortName, Items] = {}
        self._holders: dict[Item, tuple[PortName, ...]] = {}
        """Sorted: the first is heard."""
        self._filled: Counter[str] = Counter()

    def set(self, name: PortName, items: Items) -> set[Item]:
        """What a service port wants from now on; returns the items that may be wanted otherwise than before."""
        before = self._of.get(name, {})
        touched = {i for i in (*before, *items) if i not in before or i not in items or before[i] != items[i]}
        if items:
            self._of[name] = items
        else:
            self._of.pop(name, None)
        for item in touched:
            self._hold(item, name, item in items)
        # Whose real servers count may be another's choice now.
        shared = [i for i in touched if isinstance(i, Server) and (i in before) != (i in items) and i in self._holders]
        for server in shared:
            for holder in self._holders[server]:
                touched.update(i for i in self._of[holder] if isinstance(i, Real) and i.server == server)
        return touched

    def _hold(self, item: Item, name: PortName, wants: bool) -> None:
        held = self._holders.get(item, ())
        now = tuple(sorted({*held, name} if wants else {*held} - {name}))
        if now:
            self._holders[item] = now
        else:
            self._holders.pop(item, None)
        if isinstance(item, Entry):
            self._filled[item.set] += bool(now) - bool(held)

    def names(self) -> Iterator[PortName]:
        yield from self._of

    def filled(self) -> frozenset[str]:
        """The sets that have entries."""
        return frozenset(name for name, count in self._filled.items() if count)

    def wanted(self, among: Iterable[Item] | None = None) -> dict[Item, Value]:
        """The state that all want together, or that part of it which concerns the items `among`."""
        found: dict[Item, Value] = {}
        for item in self._holders if among is None else among:
            holders = self._holders.get(item, ())
            if isinstance(item, Real) and holders:
                owner = self._holders[item.server][0]
                holders = (owner,) if owner in holders else ()
            if holders:
                found[item] = self._of[holders[0]][item]
        return found
