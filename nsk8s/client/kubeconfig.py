"""Kubeconfig files: reading the current context, writing one for a cluster. Touches: files.

Upstream: client-go/tools/clientcmd.
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nsk8s.api import yamldoc
from nsk8s.errors import Nsk8sError

SERVICE_ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class ClientConfig:
    """How to reach an API server and as whom. PEM data, not paths (a token may come from a file that is renewed)."""

    server: str
    ca_pem: str = ""
    cert_pem: str = ""
    key_pem: str = ""
    token: str = ""
    token_file: str = ""
    namespace: str = "default"
    tls_server_name: str = ""
    insecure: bool = False


def _data(entry: dict[str, Any], key: str, base: Path) -> str:
    """`key-data` (base64) or the content of the file named by `key`."""
    if entry.get(f"{key}-data"):
        return base64.b64decode(entry[f"{key}-data"]).decode()
    if entry.get(key):
        return (base / str(entry[key])).read_text()
    return ""


def load(path: str | Path, context: str = "") -> ClientConfig:
    """The named or current context of a kubeconfig. Raises Nsk8sError when the file is missing, broken or incomplete."""
    path = Path(path)
    try:
        doc = yamldoc.load(path.read_text())
    except OSError as e:
        raise Nsk8sError(f"cannot read kubeconfig {path}: {e.strerror}") from e
    except yaml.YAMLError as e:
        raise Nsk8sError(f"kubeconfig {path} is not YAML: {e}") from e
    try:
        wanted = context or doc["current-context"]
        ctx = next(c["context"] for c in doc["contexts"] if c["name"] == wanted)
        cluster = next(c["cluster"] for c in doc["clusters"] if c["name"] == ctx["cluster"])
        user = next((u.get("user") or {} for u in doc.get("users") or [] if u["name"] == ctx.get("user")), {})
        return ClientConfig(
            server=cluster["server"].rstrip("/"),
            ca_pem=_data(cluster, "certificate-authority", path.parent),
            cert_pem=_data(user, "client-certificate", path.parent),
            key_pem=_data(user, "client-key", path.parent),
            token=user.get("token", ""),
            token_file=str(path.parent / user["tokenFile"]) if user.get("tokenFile") else "",
            namespace=ctx.get("namespace") or "default",
            tls_server_name=cluster.get("tls-server-name", ""),
            insecure=bool(cluster.get("insecure-skip-tls-verify")),
        )
    except (KeyError, TypeError, StopIteration) as e:
        raise Nsk8sError(f"kubeconfig {path} has no usable context: {e}") from e


def in_cluster() -> ClientConfig:
    """The service account a pod finds mounted. Raises Nsk8sError outside a pod."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise Nsk8sError("not in a pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set", "give --kubeconfig")
    return ClientConfig(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        ca_pem=(SERVICE_ACCOUNT_DIR / "ca.crt").read_text(),
        token_file=str(SERVICE_ACCOUNT_DIR / "token"),
        namespace=(SERVICE_ACCOUNT_DIR / "namespace").read_text().strip(),
    )


def render(config: ClientConfig, cluster: str, user: str) -> dict[str, Any]:
    """A kubeconfig document with one cluster, user and context named `user@cluster` (kubectl's usual form). Pure."""

    def b64(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    cluster_entry: dict[str, Any] = {"server": config.server}
    if config.ca_pem:
        cluster_entry["certificate-authority-data"] = b64(config.ca_pem)
    if config.tls_server_name:
        cluster_entry["tls-server-name"] = config.tls_server_name
    user_entry: dict[str, Any] = {}
    if config.cert_pem:
        user_entry |= {"client-certificate-data": b64(config.cert_pem), "client-key-data": b64(config.key_pem)}
    if config.token:
        user_entry["token"] = config.token
    context = f"{user}@{cluster}"
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": cluster_entry}],
        "users": [{"name": user, "user": user_entry}],
        "contexts": [{"name": context, "context": {"cluster": cluster, "user": user}}],
        "current-context": context,
        "preferences": {},
    }


def write(path: str | Path, document: dict[str, Any]) -> None:
    """Write a kubeconfig readable by its owner only, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as f:
        yaml.safe_dump(document, f, sort_keys=False)
    temporary.rename(path)
