"""describe: objects in full, with what belongs to them and their events. Touches: the API, stdout."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from nsk8s.cli.common import cluster_option, show_error, with_client
from nsk8s.cli.targets import expand_all, namespace_options, parse_targets
from nsk8s.errors import NotFound, Nsk8sError, StatusError

if TYPE_CHECKING:
    from nsk8s.api.meta import Object
    from nsk8s.client.resources import Resource
    from nsk8s.client.rest import Client

WITHOUT_EVENTS = {"Namespace", "Secret"}


@click.command(epilog="Example: sudo nsk8s describe pod/web-1 -n default")
@click.argument("words", nargs=-1, metavar="TYPE [NAME…] | TYPE/NAME…")
@namespace_options
@click.option("-A", "--all-namespaces", is_flag=True, help="In every namespace.")
@click.option("-l", "--selector", default="", help="Label selector.")
@cluster_option
def describe(words: tuple[str, ...], namespace: str, all_namespaces: bool, selector: str, cluster: str) -> None:
    """Show objects in full, with their events, as `kubectl describe` does."""
    targets = parse_targets(words)
    if selector and any(name for _, name in targets):
        raise Nsk8sError("selectors may not be used when resources are named", "leave out the name, or the selector")
    where = "" if all_namespaces else namespace

    async def work(client: Client) -> bool:
        from nsk8s.client.discovery import discover

        shown = 0
        well = True
        for resource, name in expand_all(await discover(client), targets):
            try:
                found, by_prefix = await _objects(client, resource, name, where, selector)
            except StatusError as e:
                show_error(e)
                well = False
                continue
            for obj in found:
                body = await text(client, resource, obj)
                click.echo(f"{body}\n" if by_prefix else "\n\n" + body if shown else body, nl=False)
                shown += 1
        if not shown and well:
            click.echo(f"No resources found in {where} namespace." if where else "No resources found", err=True)
        return well

    if not with_client(cluster, work):
        sys.exit(1)


async def _objects(client: Client, resource: Resource, name: str, namespace: str, selector: str) -> tuple[list[Object], bool]:
    """The object named; or (and True) all whose names begin so, as kubectl does when there is none of that very name."""
    where = namespace if resource.namespaced else ""
    if not name:
        return (await client.list(resource, where, label_selector=selector))["items"], False
    try:
        return [await client.get(resource, name, where)], False
    except NotFound:
        found = [o for o in (await client.list(resource, where))["items"] if o["metadata"]["name"].startswith(name)]
        if not found:
            raise
        return found, True


async def text(client: Client, resource: Resource, obj: Object, now: datetime | None = None) -> str:
    """The description of one object, ending with a line break."""
    from nsk8s.cli.describers.events import events
    from nsk8s.cli.describers.text import Text

    out = Text()
    now = now or datetime.now(UTC)
    await _body(client, resource.kind if resource.group in KNOWN_GROUPS else "", out, obj, now)
    if resource.kind not in WITHOUT_EVENTS:
        events(out, await _events(client, resource, obj), now)
    return out.render()


KNOWN_GROUPS = {"", "apps", "batch", "discovery.k8s.io", "scheduling.k8s.io"}


async def _body(client: Client, kind: str, out: object, obj: Object, now: datetime) -> None:
    from nsk8s.api.selectors import from_label_selector
    from nsk8s.cli.describers import generic, jobs, network, node, others, pod, workloads
    from nsk8s.cli.describers.text import Text
    from nsk8s.client import resources

    assert isinstance(out, Text)
    name, namespace, uid = obj["metadata"]["name"], obj["metadata"].get("namespace", ""), obj["metadata"]["uid"]

    async def owned(resource: Resource) -> list[Object]:
        selector = str(from_label_selector(obj["spec"].get("selector")))
        listed = (await client.list(resource, namespace, label_selector=selector))["items"]
        return [o for o in listed if any(r["uid"] == uid for r in o["metadata"].get("ownerReferences") or [])]

    if kind == "Pod":
        pod.pod(out, obj, now)
    elif kind == "Node":
        try:
            lease: Object | None = await client.get(resources.LEASES, name, "kube-node-lease")
        except NotFound:
            lease = None
        fields = f"spec.nodeName={name},status.phase!=Succeeded,status.phase!=Failed"
        node.node(out, obj, lease, (await client.list(resources.PODS, field_selector=fields))["items"], now)
    elif kind == "Service":
        labels = f"kubernetes.io/service-name={name}"
        network.service(out, obj, (await client.list(resources.ENDPOINTSLICES, namespace, label_selector=labels))["items"])
    elif kind == "Deployment":
        workloads.deployment(out, obj, await owned(resources.REPLICASETS))
    elif kind in ("ReplicaSet", "DaemonSet", "StatefulSet"):
        render = {"ReplicaSet": workloads.replica_set, "DaemonSet": workloads.daemon_set, "StatefulSet": workloads.stateful_set}
        render[kind](out, obj, await owned(resources.PODS))
    elif kind == "ServiceAccount":
        secrets = (await client.list(resources.SECRETS, namespace, field_selector="type=kubernetes.io/service-account-token"))
        tokens = [s["metadata"]["name"] for s in secrets["items"]
                  if (s["metadata"].get("annotations") or {}).get("kubernetes.io/service-account.uid") == uid]  # fmt: skip
        others.service_account(out, obj, tokens)
    else:
        plain = {
            "Endpoints": network.endpoints, "EndpointSlice": network.endpoint_slice, "Namespace": others.namespace,
            "ConfigMap": others.config_map, "Secret": others.secret, "PriorityClass": others.priority_class,
            "Job": jobs.job, "CronJob": jobs.cron_job,
        }  # fmt: skip
        plain.get(kind, generic.generic)(out, obj)


async def _events(client: Client, resource: Resource, obj: Object) -> list[Object]:
    """What was recorded about the object. About a Node also what its kubelet says, which knows the name only."""
    from nsk8s.client.resources import EVENTS

    metadata = obj["metadata"]
    about = f"involvedObject.name={metadata['name']},involvedObject.kind={resource.kind}"
    if resource.namespaced:
        about += f",involvedObject.namespace={metadata['namespace']}"
    found: list[Object] = []
    for uid in [metadata["uid"], *([metadata["name"]] if resource.kind == "Node" else [])]:
        selector = f"{about},involvedObject.uid={uid}"
        found += (await client.list(EVENTS, metadata.get("namespace", ""), field_selector=selector))["items"]
    return found
