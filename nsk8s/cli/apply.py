"""apply: make objects as the manifests say, by server-side apply. Touches: files, the API, stdout."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from nsk8s.cli.common import cluster_option, show_error, with_client
from nsk8s.cli.printers import list_of, shown, to_json, to_yaml, type_name
from nsk8s.errors import NotFound, Nsk8sError, StatusError

if TYPE_CHECKING:
    from nsk8s.api.meta import Object
    from nsk8s.cli.manifests import Manifest
    from nsk8s.client.discovery import Found
    from nsk8s.client.resources import Resource
    from nsk8s.client.rest import Client


@click.command(epilog="Example: sudo nsk8s apply -f examples/hello.yaml, or: kubectl … -o yaml | sudo nsk8s apply -f -")
@click.option("-f", "--filename", "paths", multiple=True, required=True, metavar="FILE|DIR|-", help="Manifests; - is stdin.")
@click.option("-R", "--recursive", is_flag=True, help="Also the folders below.")
@click.option("-n", "--namespace", default=None, help="For objects that name none (default: default).")
@click.option("-o", "--output", type=click.Choice(["json", "yaml", "name"]), default=None, help="Output format.")
@cluster_option
def apply(paths: tuple[str, ...], recursive: bool, namespace: str | None, output: str | None, cluster: str) -> None:
    """Create or change objects so that they are as the manifests say.

    Server-side apply, as field manager `nsk8s`, taking over fields that others own; unknown fields are an error. If one
    manifest cannot be read, nothing is applied; if the server refuses one object, the others are applied all the same.
    """
    from nsk8s.cli.manifests import read

    manifests = read(paths, recursive)
    for origin, obj in manifests:
        own = obj["metadata"].get("namespace")
        if namespace and own and own != namespace:
            raise Nsk8sError(
                f"{origin}: the namespace of {obj['metadata'].get('name')}, {own!r}, is not the one asked for, {namespace!r}",
                f"use -n {own}, or none",
            )
    done: list[Object] = []
    failed: list[Nsk8sError] = []

    async def work(client: Client) -> None:
        from nsk8s.client.discovery import discover

        client.on_warning = lambda text: click.echo(f"Warning: {text}", err=True)
        found = await discover(client)
        for manifest in manifests:
            try:
                found, resource = await _resource(client, found, manifest)
                word, answer = await _apply_one(client, resource, manifest.object, namespace or "default")
            except (StatusError, Nsk8sError) as e:
                if not isinstance(e, StatusError) and type(e) is not Nsk8sError:
                    raise  # the server is gone: it would be for all of them
                e.message = f"{manifest.origin}: {e.message}"
                failed.append(e)
                show_error(e)
                continue
            done.append(answer)
            if output in (None, "name"):
                click.echo(f"{type_name(resource)}/{answer['metadata']['name']}" + ("" if output == "name" else f" {word}"))

    with_client(cluster, work)
    if output in ("json", "yaml") and done:
        value = shown(done[0]) if len(manifests) == 1 else list_of([shown(o) for o in done])
        click.echo(to_json(value) if output == "json" else to_yaml(value), nl=False)
    if failed:
        sys.exit(1)


async def _resource(client: Client, found: list[Found], manifest: Manifest) -> tuple[list[Found], Resource]:
    from nsk8s.client.discovery import by_kind, discover

    kind = (manifest.object["apiVersion"], manifest.object["kind"])
    with contextlib.suppress(Nsk8sError):
        return found, by_kind(found, *kind)
    found = await discover(client)  # an earlier manifest may have been its CustomResourceDefinition
    return found, by_kind(found, *kind)


async def _apply_one(client: Client, resource: Resource, obj: Object, namespace: str) -> tuple[str, Object]:
    """("created" | "configured" | "unchanged", the object as the server has it)."""
    from nsk8s.client.rest import APPLY_PATCH

    metadata: dict[str, Any] = obj["metadata"]
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
