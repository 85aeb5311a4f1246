"""kubeconfig: print or export the cluster's credentials."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from nsk8s.cli.common import cluster_option, invoking_user, loaded


@click.command(epilog="Example: sudo nsk8s kubeconfig --export && kubectl get nodes")
@cluster_option
@click.option("--export", is_flag=True, help="Merge into your ~/.kube/config (the sudo user's) and make it the current context.")
@click.option("--path", is_flag=True, help="Print the path of the cluster's own kubeconfig instead of its text.")
def kubeconfig(cluster: str, export: bool, path: bool) -> None:
    """Print the kubeconfig of a cluster, or merge it into your own.

    `nsk8s down` takes an exported context out again.
    """
    paths, _ = loaded(cluster)
    if path:
        click.echo(paths.admin_conf)
    elif export:
        target = _merge(cluster, paths.admin_conf)
        click.echo(f"Context {cluster}-admin@{cluster} is in {target} and current.")
        if os.environ.get("KUBECONFIG"):
            click.echo("Note: $KUBECONFIG is set, so kubectl looks there; `unset KUBECONFIG` first.", err=True)
    else:
        click.echo(paths.admin_conf.read_text(), nl=False)


def _users_file() -> tuple[Path, tuple[int, int] | None]:
    user = invoking_user()
    home = Path(user[2]) if user else Path.home()
    return home / ".kube" / "config", (user[0], user[1]) if user else None


def _load(path: Path) -> dict[str, Any]:
    import yaml

    from nsk8s.errors import Nsk8sError

    if not path.exists():
        return {"apiVersion": "v1", "kind": "Config", "clusters": [], "users": [], "contexts": [], "current-context": ""}
    try:
        document = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as e:
        raise Nsk8sError(f"{path} is not YAML", "mend or move it, then repeat") from e
    if not isinstance(document, dict):
        raise Nsk8sError(f"{path} is not a kubeconfig", "mend or move it, then repeat")
    return document


def _without(document: dict[str, Any], name: str) -> dict[str, Any]:
    """`document` without what an export of cluster `name` put in. Pure."""
    user = f"{name}-admin"
    context = f"{user}@{name}"
    drop = {"clusters": name, "users": user, "contexts": context}
    kept = {k: [e for e in document.get(k) or [] if e.get("name") != v] for k, v in drop.items()}
    current = document.get("current-context") or ""
    return {**document, **kept, "current-context": "" if current == context else current}


def _write(path: Path, document: dict[str, Any], owner: tuple[int, int] | None) -> None:
    from nsk8s.client import kubeconfig as files

    missing = [p for p in (path.parent,) if not p.exists()]
    files.write(path, document)
    if owner is not None:
        for p in (*missing, path):
            os.chown(p, *owner)


def _merge(name: str, source: Path) -> Path:
    target, owner = _users_file()
    fresh = _load(source)
    merged = _without(_load(target), name)
    for key in ("clusters", "users", "contexts"):
        merged[key] = [*merged[key], *fresh[key]]
    merged["current-context"] = fresh["current-context"]
    _write(target, merged, owner)
    return target


def forget(name: str) -> None:
    """Take an exported context out of the user's kubeconfig; nothing happens when there is none."""
    from nsk8s.errors import Nsk8sError

    target, owner = _users_file()
    if not target.exists():
        return
    try:
        document = _load(target)
    except Nsk8sError:
        return  # not written by us as it is; the cluster is gone all the same
    if any(c.get("name") == f"{name}-admin@{name}" for c in document.get("contexts") or []):
        _write(target, _without(document, name), owner)
