"""get, describe, apply, delete, scale: thin over the API. Tables come from the server, so they equal kubectl's."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from nsk8s.cli.common import cluster_option, print_json, with_client
from nsk8s.errors import Gone, NotFound, Nsk8sError, StatusError

if TYPE_CHECKING:
    from nsk8s.client.discovery import Found
    from nsk8s.client.resources import Resource
    from nsk8s.client.rest import Client

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


def namespace_options(function: Any) -> Any:
    """`-n NAMESPACE` (default: default)."""
    return click.option("-n", "--namespace", default="default", show_default=True, help="The namespace.")(function)


def parse_targets(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """`pods a b`, `pod/a svc/b`, `pods,svc` → (resource word, name or ""). Pure. Raises UsageError."""
    if not words:
        raise click.UsageError("name a resource, e.g. `pods` or `pod/NAME`")
    if any("/" in w for w in words):
        if not all("/" in w for w in words):
            raise click.UsageError("there is no mixing of `TYPE NAME` and `TYPE/NAME`")
        return [(w.partition("/")[0], w.partition("/")[2]) for w in words]
    kinds = words[0].split(",")
    if len(words) == 1:
        return [(k, "") for k in kinds]
    return [(k, name) for k in kinds for name in words[1:]]


def expand_all(found: list[Found], targets: list[tuple[str, str]]) -> list[tuple[Resource, str]]:
    """Resource words → resources; `all` is the category of that name."""
    from nsk8s.client.discovery import lookup

    out: list[tuple[Resource, str]] = []
    for word, name in targets:
        if word == "all":
            out += [(f.resource, name) for f in found if "all" in f.categories]
        else:
            out.append((lookup(found, word), name))
    return out


@click.command(epilog="Example: sudo nsk8s get pods,services -A -o wide")
@click.argument("words", nargs=-1, metavar="TYPE[,TYPE] [NAME…] | TYPE/NAME…")
@namespace_options
@click.option("-A", "--all-namespaces", is_flag=True, help="In every namespace.")
@click.option("-l", "--selector", default="", help="Label selector.")
@click.option("--field-selector", default="", help="Field selector.")
@click.option("-w", "--watch", is_flag=True, help="Go on printing changes.")
@click.option("--show-labels", is_flag=True, help="A column with the labels.")
@click.option("--no-headers", is_flag=True, help="No header line.")
@click.option("-o", "--output", type=click.Choice(["wide", "json", "yaml", "name"]), default=None, help="Output format.")
@cluster_option
def get(
    words: tuple[str, ...], namespace: str, all_namespaces: bool, selector: str, field_selector: str, watch: bool,
    show_labels: bool, no_headers: bool, output: str | None, cluster: str,
) -> None:  # fmt: skip
    """Show objects."""
    targets = parse_targets(words)
    options = _GetOptions("" if all_namespaces else namespace, selector, field_selector, show_labels, no_headers, output)

    async def work(client: Client) -> None:
        from nsk8s.client.discovery import discover

        resources = expand_all(await discover(client), targets)
        if watch and len(resources) > 1:
            raise Nsk8sError("you may only watch a single type of resource")
        if output in ("json", "yaml"):
            await _get_raw(client, resources, options, single=len(targets) == 1 and bool(targets[0][1]))
            return
        shown = 0
        several = len({r for r, _ in resources}) > 1
        for resource, name in resources:
            shown += await _get_table(client, resource, name, options, several, first=not shown)
        if not shown and not watch:
            where = f" in {namespace} namespace" if any(r.namespaced for r, _ in resources) and not all_namespaces else ""
            click.echo(f"No resources found{where}.", err=True)
        if watch:
            await _follow(client, resources[0], options)

    with_client(cluster, work)


class _GetOptions:
    def __init__(self, namespace: str, labels: str, fields: str, show_labels: bool, no_headers: bool, output: str | None) -> None:
        self.namespace, self.labels, self.fields = namespace, labels, fields
        self.show_labels, self.no_headers, self.output = show_labels, no_headers, output

    def params(self, name: str) -> dict[str, str]:
        chosen = {"labelSelector": self.labels, "fieldSelector": self.fields}
        return {} if name else {k: v for k, v in chosen.items() if v}


async def _get_raw(client: Client, resources: list[tuple[Resource, str]], options: _GetOptions, single: bool) -> None:
    items: list[dict[str, Any]] = []
    for resource, name in resources:
        path = resource.path(options.namespace, name)
        answer = await client.request("GET", path, params=options.params(name))
        if name:
            items.append(answer)
        else:
            items += [{"apiVersion": resource.api_version, "kind": resource.kind, **i} for i in answer["items"]]
    value: Any = items[0] if single else {"apiVersion": "v1", "kind": "List", "items": items, "metadata": {"resourceVersion": ""}}
    if options.output == "json":
        print_json(value)
    else:
        import yaml

        click.echo(yaml.safe_dump(value, sort_keys=False, default_flow_style=False), nl=False)


async def _get_table(
    client: Client, resource: Resource, name: str, options: _GetOptions, several: bool, first: bool
) -> int:
    params = {**options.params(name), "includeObject": "Metadata"}
    answer = await client.request("GET", resource.path(options.namespace, name), params=params, headers={"Accept": TABLE})
    rows = answer.get("rows") or []
    if not rows:
        return 0
    if options.output == "name":
        for row in rows:
            click.echo(f"{_type_name(resource)}/{row['object']['metadata']['name']}")
        return len(rows)
    if several and not first:
        click.echo()
    lines = render_table(answer, resource, options.namespace == "", options.output == "wide", options.show_labels, several)
    for line in lines[1:] if options.no_headers else lines:
        click.echo(line)
    return len(rows)


def _type_name(resource: Resource) -> str:
    kind = resource.kind.lower()
    return f"{kind}.{resource.group}" if resource.group else kind


def render_table(
    answer: dict[str, Any], resource: Resource, with_namespace: bool, wide: bool, show_labels: bool, prefix: bool
) -> list[str]:
    """A server's Table as kubectl prints it: header first. Pure."""
    columns = [(i, c["name"].upper()) for i, c in enumerate(answer["columnDefinitions"]) if wide or not c.get("priority")]
    header = [n for _, n in columns]
    body: list[list[str]] = []
    for row in answer.get("rows") or []:
        metadata = row["object"]["metadata"]
        cells = [_cell(row["cells"][i]) for i, _ in columns]
        if prefix:
            cells[0] = f"{_type_name(resource)}/{cells[0]}"
        if with_namespace and resource.namespaced:
            cells.insert(0, metadata.get("namespace", ""))
        if show_labels:
            cells.append(",".join(f"{k}={v}" for k, v in sorted((metadata.get("labels") or {}).items())) or "<none>")
        body.append(cells)
    if with_namespace and resource.namespaced:
        header.insert(0, "NAMESPACE")
    if show_labels:
        header.append("LABELS")
    widths = [max(len(r[i]) for r in [header, *body]) for i in range(len(header))]
    return ["".join(c.ljust(w + 3) for c, w in zip(r[:-1], widths, strict=False)) + r[-1] for r in [header, *body]]


def _cell(value: Any) -> str:
    return "<none>" if value is None else str(value)


async def _follow(client: Client, target: tuple[Resource, str], options: _GetOptions) -> None:
    """Print a row per change until interrupted."""
    resource, name = target
    fields = f"metadata.name={name}" if name else options.fields
    version = ""
    while True:
        if not version:
            version = (await client.list(resource, options.namespace, label_selector=options.labels, field_selector=fields))[
                "metadata"
            ]["resourceVersion"]
        try:
            async for event in client.watch(
                resource, options.namespace, resource_version=version, label_selector=options.labels, field_selector=fields
            ):
                version = event.object["metadata"]["resourceVersion"]
                if event.type == "BOOKMARK":
                    continue
                m = event.object["metadata"]
                if event.type == "DELETED":
                    click.echo(f"{_type_name(resource)}/{m['name']} deleted")
                    continue
                answer = await client.request(
                    "GET", resource.path(m.get("namespace", ""), m["name"]), headers={"Accept": TABLE}
                )
                click.echo(render_table(answer, resource, options.namespace == "", options.output == "wide", False, False)[1])
        except Gone:
            version = ""
        except NotFound:
            continue


@click.command(epilog="Example: sudo nsk8s describe pod/web-1 -n default")
@click.argument("words", nargs=-1, metavar="TYPE NAME… | TYPE/NAME…")
@namespace_options
@cluster_option
def describe(words: tuple[str, ...], namespace: str, cluster: str) -> None:
    """Show objects in full, with their events."""
    targets = parse_targets(words)

    async def work(client: Client) -> None:
        from nsk8s.cli.describe import describe as render
        from nsk8s.client.discovery import discover
        from nsk8s.client.resources import EVENTS

        first = True
        for resource, name in expand_all(await discover(client), targets):
            if name:
                objects = [await client.get(resource, name, namespace)]
            else:
                objects = (await client.list(resource, namespace if resource.namespaced else ""))["items"]
            for obj in objects:
                selector = f"involvedObject.uid={obj['metadata']['uid']}"
                events = (await client.list(EVENTS, field_selector=selector))["items"]
                click.echo(("" if first else "\n\n") + render(obj, events), nl=False)
                first = False

    with_client(cluster, work)


@click.command(epilog="Example: sudo nsk8s apply -f examples/hello.yaml")
@click.option("-f", "--filename", "paths", multiple=True, required=True, metavar="FILE|DIR|-", help="Manifests.")
@click.option("-R", "--recursive", is_flag=True, help="Also the folders below.")
@click.option("-n", "--namespace", default="default", show_default=True, help="For objects that name none.")
@click.option("-o", "--output", type=click.Choice(["json", "name"]), default=None, help="Output format.")
@cluster_option
def apply(paths: tuple[str, ...], recursive: bool, namespace: str, output: str | None, cluster: str) -> None:
    """Create or change objects so that they are as the manifests say (server-side apply as field manager `nsk8s`)."""
    from nsk8s.cli.manifests import read

    objects = read(paths, recursive)
    done: list[dict[str, Any]] = []

    async def work(client: Client) -> None:
        from nsk8s.client.discovery import by_kind, discover

        found = await discover(client)
        for obj in objects:
            try:
                resource = by_kind(found, obj["apiVersion"], obj["kind"])
            except Nsk8sError:
                found = await discover(client)  # an earlier manifest may have been its CustomResourceDefinition
                resource = by_kind(found, obj["apiVersion"], obj["kind"])
            word, answer = await _apply_one(client, resource, obj, namespace)
            done.append(answer)
            if output != "json":
                click.echo(f"{_type_name(resource)}/{answer['metadata']['name']}" + ("" if output == "name" else f" {word}"))

    with_client(cluster, work)
    if output == "json":
        print_json(done[0] if len(done) == 1 else {"apiVersion": "v1", "kind": "List", "items": done})


async def _apply_one(client: Client, resource: Resource, obj: dict[str, Any], namespace: str) -> tuple[str, dict[str, Any]]:
    """("created" | "configured" | "unchanged", the object as the server has it)."""
    from nsk8s.client.rest import APPLY_PATCH

    metadata = obj["metadata"]
    where = (metadata.get("namespace") or namespace) if resource.namespaced else ""
    if not metadata.get("name"):
        return "created", await client.create(resource, obj, where)
    before = ""
    with contextlib.suppress(NotFound):
        before = (await client.get(resource, metadata["name"], where))["metadata"]["resourceVersion"]
    answer = await client.patch(
        resource, metadata["name"], obj, where, content_type=APPLY_PATCH,
        params={"fieldManager": "nsk8s", "force": "true", "fieldValidation": "Strict"},
    )  # fmt: skip
    word = "created" if not before else "unchanged" if answer["metadata"]["resourceVersion"] == before else "configured"
    return word, answer


@click.command(epilog="Example: sudo nsk8s delete -f examples/hello.yaml")
@click.argument("words", nargs=-1, metavar="[TYPE NAME… | TYPE/NAME…]")
@click.option("-f", "--filename", "paths", multiple=True, metavar="FILE|DIR|-", help="Delete what these manifests name.")
@click.option("-R", "--recursive", is_flag=True, help="Also the folders below.")
@namespace_options
@click.option("-l", "--selector", default="", help="Label selector.")
@click.option("--all", "every", is_flag=True, help="All objects of the type.")
@click.option("--grace-period", type=int, default=None, help="Seconds a pod gets to end by itself.")
@click.option("--force", is_flag=True, help="Remove at once, without waiting for the node.")
@click.option("--ignore-not-found", is_flag=True, help="Missing objects are no error.")
@click.option("--wait/--no-wait", default=True, help="Wait until the objects are gone.")
@click.option("--timeout", default=120.0, show_default=True, help="Seconds to wait.")
@cluster_option
def delete(
    words: tuple[str, ...], paths: tuple[str, ...], recursive: bool, namespace: str, selector: str, every: bool,
    grace_period: int | None, force: bool, ignore_not_found: bool, wait: bool, timeout: float, cluster: str,
) -> None:  # fmt: skip
    """Delete objects."""
    if bool(words) == bool(paths):
        raise click.UsageError("give either resources or -f FILE")
    grace = 0 if force and grace_period is None else grace_period

    async def work(client: Client) -> None:
        from nsk8s.client.discovery import by_kind, discover

        found = await discover(client)
        chosen: list[tuple[Resource, str, str]] = []
        if paths:
            from nsk8s.cli.manifests import read

            for obj in read(paths, recursive):
                r = by_kind(found, obj["apiVersion"], obj["kind"])
                chosen.append((r, obj["metadata"].get("namespace") or namespace, obj["metadata"]["name"]))
        else:
            for r, name in expand_all(found, parse_targets(words)):
                if name:
                    chosen.append((r, namespace, name))
                elif selector or every:
                    listed = await client.list(r, namespace if r.namespaced else "", label_selector=selector)
                    chosen += [(r, namespace, i["metadata"]["name"]) for i in listed["items"]]
                else:
                    raise Nsk8sError("resource(s) were provided, but no name was specified", "name them, or use -l or --all")
        missing = await _delete_all(client, chosen, grace, wait, timeout)
        if missing and not ignore_not_found:
            sys.exit(1)

    with_client(cluster, work)


async def _delete_all(
    client: Client, chosen: list[tuple[Resource, str, str]], grace: int | None, wait: bool, timeout_s: float
) -> int:
    """Delete each and, with `wait`, see it gone; the number of those that were not there."""
    missing = 0
    uids: list[tuple[Resource, str, str, str]] = []
    for resource, namespace, name in chosen:
        where = namespace if resource.namespaced else ""
        try:
            answer = await client.delete(resource, name, where, grace_period_s=grace, propagation="Background")
        except NotFound as e:
            click.echo(f"Error from server (NotFound): {e.message}", err=True)
            missing += 1
            continue
        uid = (answer.get("details") or {}).get("uid") or answer.get("metadata", {}).get("uid", "")
        uids.append((resource, where, name, uid))
        click.echo(f'{_type_name(resource)} "{name}" deleted')
    deadline = time.monotonic() + timeout_s
    for resource, where, name, uid in uids if wait else []:
        pause = 0.02
        while True:
            try:
                if uid and (await client.get(resource, name, where))["metadata"]["uid"] != uid:
                    break
            except NotFound:
                break
            if time.monotonic() > deadline:
                raise Nsk8sError(f"timed out waiting for {_type_name(resource)}/{name} to go")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.5)
    return missing


@click.command(epilog="Example: sudo nsk8s scale deployment/hello --replicas 5")
@click.argument("words", nargs=-1, required=True, metavar="TYPE NAME… | TYPE/NAME…")
@click.option("--replicas", type=click.IntRange(0), required=True, help="The number wanted.")
@namespace_options
@cluster_option
def scale(words: tuple[str, ...], replicas: int, namespace: str, cluster: str) -> None:
    """Set the number of replicas of a Deployment, ReplicaSet or StatefulSet."""
    targets = parse_targets(words)

    async def work(client: Client) -> None:
        from nsk8s.client.discovery import discover

        for resource, name in expand_all(await discover(client), targets):
            if not name:
                raise Nsk8sError("name what to scale", f"e.g. {resource.plural}/NAME")
            try:
                await client.patch(resource, name, {"spec": {"replicas": replicas}}, namespace, subresource="scale")
            except NotFound as e:
                raise NotFound(e.message or f"{resource.plural} cannot be scaled") from e
            except StatusError as e:
                raise Nsk8sError(f"cannot scale {resource.plural}/{name}: {e.message}") from e
            click.echo(f"{_type_name(resource)}/{name} scaled")

    with_client(cluster, work)
