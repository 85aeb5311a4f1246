"""`kube-apiserver`: flags, keys and certificates, start and stop. Touches: files, sockets, signals.

Upstream: cmd/kube-apiserver. Run with nothing but a data directory, an address and a port it is an empty, usable API.
"""

from __future__ import annotations

import asyncio
from typing import Any

import click

from nsk8s.apiserver.config import Config
from nsk8s.client import component


@click.command("kube-apiserver", context_settings=component.CONTEXT_SETTINGS)
@click.option("--data-dir", required=True, help="Where the SQLite store lives; `:memory:` keeps nothing. (nsk8s)")
@click.option("--bind-address", default="0.0.0.0", show_default=True, help="The address on which to listen.")
@click.option("--advertise-address", default="", help="The address that members of the cluster reach; default: the bind address.")
@click.option("--secure-port", default=6443, show_default=True, type=click.IntRange(0, 65535), help="The HTTPS port; 0 = any.")
@click.option("--tls-cert-file", default="", help="The server's certificate (PEM).")
@click.option("--tls-private-key-file", default="", help="The key of --tls-cert-file.")
@click.option("--client-ca-file", default="", help="Clients with a certificate of these authorities are who its CN says.")
@click.option("--cert-dir", default="", help="Where certificates that are not given are made; default: DATA-DIR/pki.")
@click.option("--service-account-key-file", multiple=True, help="Public (or private) key that verifies service account tokens.")
@click.option("--service-account-signing-key-file", default="", help="Private key that signs service account tokens.")
@click.option("--service-account-issuer", default="https://kubernetes.default.svc.cluster.local", show_default=True)
@click.option("--service-cluster-ip-range", default="10.96.0.0/16", show_default=True, help="One CIDR, or two for dual-stack.")
@click.option("--service-node-port-range", default="30000-32767", show_default=True)
@click.option("--kubelet-client-certificate", default="", help="Certificate shown to kubelets (logs, exec, port-forward).")
@click.option("--kubelet-client-key", default="")
@click.option("--kubelet-certificate-authority", default="", help="Authority of the kubelets' serving certificates.")
@click.option("--token-auth-file", default="", help='CSV of static tokens: token,user,uid,"group1,group2".')
@click.option("--anonymous-auth/--no-anonymous-auth", default=None,
              help="Let requests without credentials reach authorisation as system:anonymous.")  # fmt: skip
@click.option("--default-not-ready-toleration-seconds", default=300, show_default=True, type=click.IntRange(0))
@click.option("--default-unreachable-toleration-seconds", default=300, show_default=True, type=click.IntRange(0))
@click.option("--disable-admission-plugins", default="", help="Admission plug-ins to leave out, separated by commas.")
@click.option("--event-ttl", default="1h0m0s", show_default=True, help="How long Events are kept.")
@click.option("--network-policies-enforced", is_flag=True,
              help="Every node enforces NetworkPolicies: do not warn that they have no effect. (nsk8s)")
@click.option("--write-kubeconfig", default="", help="Write a cluster-admin kubeconfig for this server here. (nsk8s)")
@click.option("-v", "--v", "verbosity", default=2, type=int, help="Log level; 4 and above is debug.")
def command(verbosity: int, **flags: Any) -> int:
    """The Kubernetes API over a SQLite store.

    Example: nsk8s component kube-apiserver --data-dir /tmp/api --bind-address 127.0.0.1 --secure-port 6443
    --write-kubeconfig /tmp/kubeconfig
    """
    from nsk8s.apiserver.run import serve

    component.setup_logging(verbosity)

    async def body(stop: asyncio.Event) -> None:
        await serve(Config.from_flags(**flags), stop)

    return component.run(body)


def main(argv: list[str]) -> int:
    """Exit code of `kube-apiserver ARGV`."""
    return component.invoke(command, _accept_booleans(argv))


def _accept_booleans(argv: list[str]) -> list[str]:
    """Go's `--anonymous-auth=false` in click's spelling."""
    spelled = {"--anonymous-auth=true": "--anonymous-auth", "--anonymous-auth=false": "--no-anonymous-auth"}
    return [spelled.get(a, a) for a in argv]


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))

