"""The firewall plugin's other backend: firewalld, which takes a container's address into a zone. Upstream: firewalld.go.

Touches: firewalld, by the system bus. What it is told so lives as long as firewalld runs.
"""

from __future__ import annotations

from cni.dbus import Bus, BusError, NoBus
from cni.errors import CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NAME = "org.fedoraproject.FirewallD1"
_ZONE = (NAME, "/org/fedoraproject/FirewallD1", f"{NAME}.zone")
DEFAULT_ZONE = "trusted"
_ALREADY = "ZONE_ALREADY_SET"


def is_running(env: Mapping[str, str]) -> bool:
    """Whether firewalld answers on the system bus: then it is the backend, unless another one is asked for."""
    try:
        with Bus(env) as bus:
            return bus.has_owner(NAME)
    except (NoBus, BusError):
        return False


def _bus(env: Mapping[str, str]) -> Bus:
    try:
        return Bus(env)
    except NoBus as e:
        raise CniError(f"backend firewalld: {e}: is firewalld running?") from None


def add(env: Mapping[str, str], zone: str, hosts: Iterable[str]) -> None:
    """Take the addresses into the zone; what is in it already is left. Raises CniError."""
    with _bus(env) as bus:
        for host in hosts:
            try:
                bus.call(*_ZONE, "addSource", zone, host)
            except (BusError, NoBus) as e:
                if _ALREADY not in str(e):
                    raise CniError(f"failed to add the address {host} to {zone} zone: {e}") from None


def remove(env: Mapping[str, str], zone: str, hosts: Iterable[str]) -> None:
    """Take them out. Without firewalld there is nothing to take them out of; what it refuses is gone already."""
    try:
        with Bus(env) as bus:
            for host in hosts:
                try:
                    bus.call(*_ZONE, "removeSource", zone, host)
                except BusError:
                    continue
    except NoBus:
        return


def check(env: Mapping[str, str], zone: str, hosts: Iterable[str]) -> None:
    """Raise CniError for an address that is not in the zone."""
    with _bus(env) as bus:
        for host in hosts:
            try:
                found = bool(bus.call(*_ZONE, "querySource", zone, host)[0])
            except (BusError, NoBus, IndexError):
                found = False
            if not found:
                raise CniError(f"failed to find the address {host} in {zone} zone")
