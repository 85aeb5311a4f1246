"""userspace mode's load balancer: the endpoints in turn, or a client's own again. Pure: time and dice are passed in.

Upstream (until 1.25): pkg/proxy/userspace/roundrobin.go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nsk8s.proxy.endpoints import Endpoint
from nsk8s.proxy.services import PortName

Shuffle = Callable[[list[Endpoint]], None]


@dataclass(slots=True)
class _State:
    endpoints: list[Endpoint] = field(default_factory=list)
    turn: int = 0
    affinity_s: int = 0
    clients: dict[str, tuple[Endpoint, float]] = field(default_factory=dict)
    """Client address → the endpoint it had, and when it last came."""


class RoundRobin:
    """The endpoints of every service port, and which client had which."""

    def __init__(self, shuffle: Shuffle) -> None:
        self._shuffle = shuffle
        self._states: dict[PortName, _State] = {}

    def set(self, name: PortName, endpoints: Sequence[Endpoint], affinity_s: int) -> None:
        """What serves a port from now on. Where the endpoints are others than before they are shuffled, so that not every node
        begins with the same one; clients of those that are gone are forgotten."""
        state = self._states.setdefault(name, _State())
        if state.affinity_s != affinity_s:
            state.affinity_s, state.clients = affinity_s, {}
        if {(e.ip, e.port) for e in state.endpoints} == {(e.ip, e.port) for e in endpoints}:
            return
        state.endpoints, state.turn = list(endpoints), 0
        self._shuffle(state.endpoints)
        left = {(e.ip, e.port) for e in endpoints}
        state.clients = {c: had for c, had in state.clients.items() if (had[0].ip, had[0].port) in left}

    def forget(self, name: PortName) -> None:
        self._states.pop(name, None)

    def next(self, name: PortName, client: str, now: float, *, afresh: bool = False) -> Endpoint | None:
        """Whose turn it is; None when nobody serves the port. `afresh`: not the client's last one, which did not answer."""
        state = self._states.get(name)
        if state is None or not state.endpoints:
            return None
        if state.affinity_s:
            had = state.clients.get(client)
            if had is not None and not afresh and now - had[1] < state.affinity_s:
                state.clients[client] = (had[0], now)
                return had[0]
        chosen = state.endpoints[state.turn]
        state.turn = (state.turn + 1) % len(state.endpoints)
        if state.affinity_s:
            state.clients[client] = (chosen, now)
        return chosen

    def forget_idle_clients(self, now: float) -> None:
        for state in self._states.values():
            if state.clients:
                state.clients = {c: had for c, had in state.clients.items() if now - had[1] < state.affinity_s}
