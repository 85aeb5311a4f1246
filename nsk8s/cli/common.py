"""What several commands share: the --name option, the API client of a cluster, output formats. Touches: stdout."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nsk8s.cluster.state import ClusterState, Paths, load_state
from nsk8s.errors import Nsk8sError
from nsk8s.net.topology import CONTROL_PLANE

if TYPE_CHECKING:
    from nsk8s.client.rest import Client

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def cluster_option(function: F) -> F:
    """`--name CLUSTER`, also from $NSK8S_CLUSTER."""
    return click.option(
        "--name", "cluster", default="nsk8s", envvar="NSK8S_CLUSTER", show_default=True, metavar="CLUSTER", help="The cluster.",
        callback=_cluster_name,
    )(function)  # fmt: skip


def _cluster_name(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """A name becomes part of paths that `down` removes: nothing but a name gets through."""
    if not re.fullmatch(r"[a-z][a-z0-9]{0,6}", value):
        raise click.BadParameter(f"{value!r} is not a cluster's name: a letter, then letters and digits, at most 7", ctx, param)
    return value


def output_option(*formats: str) -> Callable[[F], F]:
    """`-o json` and the like."""
    return click.option("-o", "--output", type=click.Choice(formats), default=None, help="Output format.")


def loaded(cluster: str) -> tuple[Paths, ClusterState]:
    """A cluster that exists and runs. Raises Nsk8sError."""
    from nsk8s.cluster.preflight import require_root

    require_root()
    paths = Paths(cluster)
    state = load_state(paths)
    if state is None:
        from nsk8s.cluster.lifecycle import no_such_cluster

        raise no_such_cluster(cluster)
    if state.stopped:
        raise Nsk8sError(f"cluster {cluster} is stopped", f"nsk8s start --name {cluster}")
    return paths, state


def heal(paths: Paths) -> None:
    """Every command that meets a cluster without its supervisor starts a new one, which takes over what runs."""
    from nsk8s.cluster import supervise

    supervise.ensure_running(paths)


def with_client(cluster: str, work: Callable[[Client], Awaitable[T]]) -> T:
    """Run `work(client)` as the cluster's admin. $KUBECONFIG is not looked at: --name says which cluster."""
    from nsk8s.client import kubeconfig
    from nsk8s.client.rest import PATIENT_CONNECT_TIMEOUT_S, Client, Unreachable

    paths, state = loaded(cluster)
    heal(paths)

    async def body() -> T:
        config = kubeconfig.load(paths.admin_conf)
        async with Client(config, user_agent="nsk8s-cli", connect_timeout_s=PATIENT_CONNECT_TIMEOUT_S) as client:
            return await work(client)

    try:
        return asyncio.run(body())
    except Unreachable as e:
        raise no_api(paths, state, e.message) from e


def no_api(paths: Paths, state: ClusterState, reason: str = "") -> Nsk8sError:
    """Why nobody answers at the API's address, and what to do; `reason` is what the connection said. Pure."""
    name = "" if paths.name == "nsk8s" else f" --name {paths.name}"
    if control_plane_is_off(state):
        return Nsk8sError(f"the control plane of cluster {paths.name} is switched off", f"nsk8s node start{name} control-plane")
    log = paths.log(CONTROL_PLANE, "kube-apiserver")
    why = f": {reason}" if reason else ""
    return Nsk8sError(f"the API server of cluster {paths.name} does not answer{why}", f"see nsk8s status{name}, and {log}")


def control_plane_is_off(state: ClusterState) -> bool:
    return any(n.stopped for n in state.nodes if n.name == CONTROL_PLANE)


def show_error(error: Nsk8sError) -> None:
    """One line on stderr: what is wrong, and what to do about it. The API's refusals in kubectl's words."""
    click.echo(error_line(error), err=True)


def error_line(error: Nsk8sError) -> str:
    """Pure."""
    from nsk8s.errors import StatusError

    prefix = "error"
    if isinstance(error, StatusError):
        prefix = f"Error from server ({error.reason})" if error.reason else "Error from server"
    message = " ".join(error.message.split())
    return f"{prefix}: {message}" + (f" → {error.remedy}" if error.remedy else "")


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def table(header: list[str], rows: list[list[str]]) -> None:
    """kubectl's table: columns three blanks apart, no lines."""
    widths = [max(len(str(r[i])) for r in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        click.echo("   ".join(str(c).ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())


def invoking_user() -> tuple[int, int, str] | None:
    """(uid, gid, home) of the user behind sudo; None when root logged in as root."""
    import pwd

    uid = os.environ.get("SUDO_UID")
    if not uid or uid == "0":
        return None
    entry = pwd.getpwuid(int(uid))
    return entry.pw_uid, entry.pw_gid, entry.pw_dir
