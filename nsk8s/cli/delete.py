"""delete, scale: objects ended, and counted anew. Touches: the API, stdout."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import click

from nsk8s.cli.common import cluster_option, show_error, with_client
from nsk8s.cli.printers import type_name
from nsk8s.cli.targets import expand_all, namespace_options, parse_targets
from nsk8s.errors import NotFound, Nsk8sError, StatusError

if TYPE_CHECKING:
    from nsk8s.cli.manifests import Manifest
    from nsk8s.client.discovery import Found
    from nsk8s.client.resources import Resource
    from nsk8s.client.rest import Client


class Chosen(NamedTuple):
    """An object to delete; `uid` once the server has said which it was."""

    resource: Resource
    namespace: str
    name: str
    uid: str = ""

    def __str__(self) -> str:
        return f"{type_name(self.resource)}/{self.name}"


@click.command(epilog="Example: sudo nsk8s delete -f examples/hello.yaml")
@click.argument("words", nargs=-1, metavar="[TYPE NAME… | TYPE/NAME…]")
@click.option("-f", "--filename", "paths", multiple=True, metavar="FILE|DIR|-", help="Delete what these manifests name.")
@click.option("-R", "--recursive", is_flag=True, help="Also the folders below.")
@namespace_options
@click.option("-l", "--selector", default="", help="Label selector.")
@click.option("--all", "every", is_flag=True, help="All objects of the type, in the namespace.")
@click.option("--grace-period", type=click.IntRange(-1), default=-1, help="Seconds a pod gets to end by itself.")
@click.option("--now", is_flag=True, help="The same as --grace-period 1.")
@click.option("--force", is_flag=True, help="With a grace period of 0: remove at once, without waiting for the node.")
@click.option("--ignore-not-found", is_flag=True, help="Missing objects are no error.")
@click.option("--wait", type=bool, is_flag=False, flag_value="true", default=True, show_default=True, metavar="BOOL",
              help="Wait until the objects are gone: --wait=false does not.")
@click.option("--timeout", default=120.0, show_default=True, type=click.FloatRange(0), help="Seconds to wait.")
@cluster_option
def delete(
    words: tuple[str, ...], paths: tuple[str, ...], recursive: bool, namespace: str, selector: str, every: bool,
    grace_period: int, now: bool, force: bool, ignore_not_found: bool, wait: bool, timeout: float, cluster: str,
) -> None:  # fmt: skip
    """Delete objects, and wait until they are gone. Exit code 1 when one was not there, or not gone in time."""
    if bool(words) == bool(paths):
        raise click.UsageError("give either resources or -f FILE")
    if every and selector:
        raise click.UsageError("give either --all or -l SELECTOR")
    grace = grace_of(grace_period, now, force)
    targets = parse_targets(words) if words else []
    if words and not (selector or every) and not all(name for _, name in targets):
        raise Nsk8sError("resource(s) were provided, but no name was specified", "name them, or use -l SELECTOR or --all")
    manifests: list[Manifest] = []
    if paths:
        from nsk8s.cli.manifests import read

        manifests = read(paths, recursive)

    async def work(client: Client) -> bool:
        from nsk8s.client.discovery import discover

        found = await discover(client)
        if manifests:
            chosen = _named_by(found, manifests, namespace)
        else:
            chosen = await _selected(client, expand_all(found, targets), namespace, selector)
        if not chosen:
            click.echo("No resources found")
        return await _delete_all(client, chosen, grace, force and grace == 0, ignore_not_found, timeout if wait else None)

    if force and grace == 0:
        click.echo("Warning: nothing will confirm that what ran has ended; it may go on running for a while.", err=True)
    if not with_client(cluster, work):
        sys.exit(1)


def grace_of(grace_period: int, now: bool, force: bool) -> int | None:
    """Seconds to send, None for the object's own. Pure. Raises UsageError for what kubectl refuses."""
    if now:
        if grace_period != -1:
            raise click.UsageError("give either --now or --grace-period")
        return 1
    if force and grace_period > 0:
        raise click.UsageError("--force and --grace-period greater than 0 cannot be specified together")
    if grace_period == 0 and not force:
        return 1  # as kubectl: 0 would skip the node, and that needs --force
    if grace_period == -1:
        return 0 if force else None
    return grace_period


def _named_by(found: list[Found], manifests: list[Manifest], namespace: str) -> list[Chosen]:
    """What the manifests name, in their order."""
    from nsk8s.client.discovery import by_kind

    out = []
    for origin, obj in manifests:
        try:
            resource = by_kind(found, obj["apiVersion"], obj["kind"])
        except Nsk8sError as e:
            raise Nsk8sError(f"{origin}: {e.message}", e.remedy) from e
        name = obj["metadata"].get("name")
        if not name:
            raise Nsk8sError(f"{origin}: {obj['kind']} without metadata.name cannot be deleted", "delete it by its name")
        out.append(Chosen(resource, obj["metadata"].get("namespace") or namespace, name))
    return out


async def _selected(client: Client, resources: list[tuple[Resource, str]], namespace: str, selector: str) -> list[Chosen]:
    out = []
    for resource, name in resources:
        if name:
            out.append(Chosen(resource, namespace, name))
            continue
        listed = await client.list(resource, namespace if resource.namespaced else "", label_selector=selector)
        out += [Chosen(resource, namespace, item["metadata"]["name"]) for item in listed["items"]]
    return out


async def _delete_all(
    client: Client, chosen: list[Chosen], grace: int | None, forced: bool, ignore_missing: bool, wait_s: float | None
) -> bool:
    """Delete each and, unless `wait_s` is None, see it gone; whether all of it went well."""
    well = True
    going: list[Chosen] = []
    for target in chosen:
        where = target.namespace if target.resource.namespaced else ""
        try:
            answer = await client.delete(target.resource, target.name, where, grace_period_s=grace, propagation="Background")
        except StatusError as e:
            if not (isinstance(e, NotFound) and ignore_missing):
                show_error(e)
                well = False
            continue
        uid = (answer.get("details") or {}).get("uid") or (answer.get("metadata") or {}).get("uid", "")
        going.append(target._replace(namespace=where, uid=uid))
        click.echo(f'{type_name(target.resource)} "{target.name}" {"force deleted" if forced else "deleted"}')
    deadline = time.monotonic() + (wait_s or 0)
    for target in going if wait_s is not None else []:
        if not await _gone(client, target, deadline):
            raise Nsk8sError(
                f"timed out waiting for {target} to go",
                f"it has finalizers, or its node is off: nsk8s get {target} -o yaml, or delete it with --force",
            )
    return well


async def _gone(client: Client, target: Chosen, deadline: float) -> bool:
    pause = 0.02
    while True:
        try:
            have = await client.get(target.resource, target.name, target.namespace)
            if target.uid and have["metadata"]["uid"] != target.uid:
                return True  # another one of the same name
        except NotFound:
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 0.5)


@click.command(epilog="Example: sudo nsk8s scale deployment/hello --replicas 5")
@click.argument("words", nargs=-1, required=True, metavar="TYPE NAME… | TYPE/NAME…")
@click.option("--replicas", type=click.IntRange(0), required=True, help="The number wanted.")
@namespace_options
@cluster_option
def scale(words: tuple[str, ...], replicas: int, namespace: str, cluster: str) -> None:
    """Set the number of replicas of a Deployment, ReplicaSet or StatefulSet."""
    targets = parse_targets(words)
    if not all(name for _, name in targets):
        raise Nsk8sError("name what to scale", f"e.g. nsk8s scale {targets[0][0]}/NAME --replicas {replicas}")

    async def work(client: Client) -> bool:
        from nsk8s.client.discovery import discover

        well = True
        for resource, name in expand_all(await discover(client), targets):
            try:
                await client.get(resource, name, namespace if resource.namespaced else "")
                await client.patch(resource, name, {"spec": {"replicas": replicas}}, namespace, subresource="scale")
            except StatusError as e:
                cannot = e.code in (404, 405) and e.details.get("name") != name
                remedy = "deployments, replicasets and statefulsets have replicas"
                show_error(Nsk8sError(f"cannot scale {resource.plural}", remedy) if cannot else e)
                well = False
                continue
            click.echo(f"{type_name(resource)}/{name} scaled")
        return well

    if not with_client(cluster, work):
        sys.exit(1)
