"""get: objects as tables, which come from the server, or whole. Touches: the API, stdout."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from nsk8s.cli import printers
from nsk8s.cli.common import cluster_option, with_client
from nsk8s.cli.targets import expand_all, namespace_options, parse_targets
from nsk8s.errors import Gone, Nsk8sError, StatusError

if TYPE_CHECKING:
    from nsk8s.api.meta import Object
    from nsk8s.client.resources import Resource
    from nsk8s.client.rest import Client

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


@dataclass(frozen=True)
class Options:
    """What was asked for; `namespace` is "" for all of them."""

    namespace: str
    labels: str
    fields: str
    show_labels: bool
    no_headers: bool
    output: str | None

    def params(self, name: str) -> dict[str, str]:
        chosen = {"labelSelector": self.labels, "fieldSelector": self.fields}
        return {} if name else {k: v for k, v in chosen.items() if v}


@click.command(epilog="Example: sudo nsk8s get pods,services -A -o wide")
@click.argument("words", nargs=-1, metavar="TYPE[,TYPE] [NAME…] | TYPE/NAME…")
@namespace_options
@click.option("-A", "--all-namespaces", is_flag=True, help="In every namespace.")
@click.option("-l", "--selector", default="", help="Label selector.")
@click.option("--field-selector", default="", help="Field selector.")
@click.option("-w", "--watch", is_flag=True, help="Go on printing changes, until Ctrl-C.")
@click.option("--show-labels", is_flag=True, help="A column with the labels.")
@click.option("--no-headers", is_flag=True, help="No header line.")
@click.option("-o", "--output", type=click.Choice(["wide", "json", "yaml", "name"]), default=None, help="Output format.")
@cluster_option
def get(
    words: tuple[str, ...], namespace: str, all_namespaces: bool, selector: str, field_selector: str, watch: bool,
    show_labels: bool, no_headers: bool, output: str | None, cluster: str,
) -> None:  # fmt: skip
    """Show objects, as `kubectl get` does."""
    targets = parse_targets(words)
    options = Options("" if all_namespaces else namespace, selector, field_selector, show_labels, no_headers, output)
    named = any(name for _, name in targets)
    if named and all_namespaces:
        raise Nsk8sError("a resource cannot be retrieved by name across all namespaces", "leave out -A, or the name")
    if named and (selector or field_selector):
        raise Nsk8sError("selectors may not be used when resources are named", "leave out the name, or the selector")
    if watch and output not in (None, "wide"):
        raise Nsk8sError(f"-w prints tables only, not {output}", "leave out -o, or ask the API: ?watch=1")

    async def work(client: Client) -> bool:
        from nsk8s.client.discovery import discover

        resources = expand_all(await discover(client), targets)
        if watch and len(resources) > 1:
            raise Nsk8sError("you may only watch a single resource or type of resource at a time")
        if output in ("json", "yaml"):
            return await _whole(client, resources, options, single=len(targets) == 1 and named)
        if watch:
            await _follow(client, resources[0], options)
            return True
        return await _tables(client, resources, options)

    if not with_client(cluster, work):
        sys.exit(1)


async def _answers(
    client: Client, resources: list[tuple[Resource, str]], options: Options, headers: dict[str, str], failed: list[StatusError]
) -> AsyncIterator[tuple[Resource, str, Object]]:
    """Each target's answer, in order. What fails is remembered and does not keep the rest back."""
    for resource, name in resources:
        params = options.params(name)
        if headers:
            params["includeObject"] = "Metadata"
        try:
            path = resource.path(options.namespace if resource.namespaced else "", name)
            yield resource, name, await client.request("GET", path, params=params, headers=headers)
        except StatusError as e:
            failed.append(_as_kubectl_says(e, resource, options))


def _as_kubectl_says(error: StatusError, resource: Resource, options: Options) -> StatusError:
    if error.reason == "BadRequest" and (options.labels or options.fields):
        version = f"{resource.group}/{resource.version}"
        error.message = (
            f'Unable to find "{version}, Resource={resource.plural}" that match label selector "{options.labels}", '
            f'field selector "{options.fields}": {error.message}'
        )
    return error


def _report(failed: list[StatusError]) -> bool:
    from nsk8s.cli.common import show_error

    for error in failed:
        show_error(error)
    return not failed


async def _whole(client: Client, resources: list[tuple[Resource, str]], options: Options, single: bool) -> bool:
    items: list[Object] = []
    failed: list[StatusError] = []
    async for resource, name, answer in _answers(client, resources, options, {}, failed):
        found = [answer] if name else [{"apiVersion": resource.api_version, "kind": resource.kind, **i} for i in answer["items"]]
        items += map(printers.shown, found)
    if items or not failed or len(resources) > 1:
        value = items[0] if single and items else printers.list_of(items)
        click.echo(printers.to_json(value) if options.output == "json" else printers.to_yaml(value), nl=False)
    return _report(failed)


async def _tables(client: Client, resources: list[tuple[Resource, str]], options: Options) -> bool:
    several = len({r for r, _ in resources}) > 1
    groups: dict[Resource, tuple[Object, list[Object]]] = {}
    failed: list[StatusError] = []
    async for resource, _, answer in _answers(client, resources, options, {"Accept": TABLE}, failed):
        if answer.get("rows"):
            groups.setdefault(resource, (answer, []))[1].extend(answer["rows"])
    for i, (resource, (first, rows)) in enumerate(groups.items()):
        if options.output == "name":
            for row in rows:
                click.echo(f"{printers.type_name(resource)}/{row['object']['metadata']['name']}")
            continue
        if i:
            click.echo()
        across = not options.namespace and any(r.namespaced for r in groups)
        for line in table_lines({**first, "rows": rows}, resource, options, across and _keeps(groups, resource), several):
            click.echo(line)
    if not groups and not failed and options.output != "name":
        click.echo(nothing_found(resources, options), err=True)
    return _report(failed)


def _keeps(groups: dict[Resource, tuple[Object, list[Object]]], resource: Resource) -> bool:
    """With -A kubectl goes on printing the NAMESPACE column once it has begun, also for kinds without one."""
    for seen in groups:
        if seen.namespaced:
            return True
        if seen == resource:
            return False
    return False


def nothing_found(resources: list[tuple[Resource, str]], options: Options) -> str:
    """kubectl's words for an empty answer. Pure."""
    if options.namespace and any(r.namespaced for r, _ in resources):
        return f"No resources found in {options.namespace} namespace."
    return "No resources found"


def table_lines(table: Object, resource: Resource, options: Options, with_namespace: bool, prefix: bool = False) -> list[str]:
    """A Table as lines, with its header unless it is unwanted. Pure."""
    header, body = printers.rows(
        table, resource, with_namespace=with_namespace, wide=options.output == "wide", show_labels=options.show_labels,
        prefix=prefix,
    )  # fmt: skip
    return printers.aligned(body if options.no_headers else [header, *body])


async def _follow(client: Client, target: tuple[Resource, str], options: Options) -> None:
    """What is there, then a line a change, until interrupted. The server makes the lines of changes too."""
    resource, name = target
    fields = f"metadata.name={name}" if name else options.fields
    where = options.namespace if resource.namespaced else ""
    params = {k: v for k, v in (("labelSelector", options.labels), ("fieldSelector", fields)) if v}
    with_namespace = resource.namespaced and not options.namespace
    columns: list[Object] = []
    header_shown = options.no_headers
    widths: list[int] = []

    def show(table: Object) -> None:
        nonlocal header_shown
        if not table.get("rows"):
            return
        header, body = printers.rows(
            {**table, "columnDefinitions": columns}, resource, with_namespace=with_namespace,
            wide=options.output == "wide", show_labels=options.show_labels,
        )  # fmt: skip
        lines = body if header_shown else [header, *body]
        header_shown = True
        # As wide as what went before, so that the columns stay where they are.
        widths[:] = [max([w, *(len(line[i]) for line in lines)]) for i, w in enumerate(widths or [0] * len(header))]
        for line in lines:
            click.echo("".join(c.ljust(w + 3) for c, w in zip(line[:-1], widths, strict=False)) + line[-1])
        sys.stdout.flush()

    version = ""
    while True:
        if not version:
            path = resource.path(where)
            answer = await client.request("GET", path, params={**params, "includeObject": "Metadata"}, headers={"Accept": TABLE})
            columns = answer["columnDefinitions"]
            if name and not answer.get("rows"):
                await client.get(resource, name, where)  # says that it is not found
            show(answer)
            version = answer["metadata"]["resourceVersion"]
        with contextlib.suppress(Gone):
            async for event in client.watch(
                resource, where, resource_version=version, label_selector=options.labels, field_selector=fields, accept=TABLE
            ):
                rows = event.object.get("rows") or []
                version = (rows[0]["object"] if rows else event.object)["metadata"]["resourceVersion"]
                if event.type != "BOOKMARK":
                    columns = event.object.get("columnDefinitions") or columns
                    show(event.object)
            continue
        version = ""
