"""`ingress`: the ingress controller. Upstream: ingress-nginx. Touches: what `controller` touches."""

from __future__ import annotations

from pathlib import Path

import click

from nsk8s.client.component import CONTEXT_SETTINGS, invoke, run, setup_logging


@click.command("ingress", context_settings=CONTEXT_SETTINGS)
@click.option("--kubeconfig", default="", metavar="FILE", help="How to reach the API (default: the pod's service account).")
@click.option("--publish-service", default="", metavar="NAMESPACE/NAME", help="Its addresses go into the Ingresses' status.")
@click.option("--nginx", "binary", default="/usr/sbin/nginx", show_default=True, metavar="FILE", help="The web server.")
@click.option("--directory", default="/tmp/nginx", show_default=True, metavar="DIR", help="Where its files go.")
@click.option("--user", default="nobody nogroup", show_default=True, help="nginx' workers run as this user and group.")
@click.option("--http-port", type=click.IntRange(1, 65535), default=80, show_default=True)
@click.option("--https-port", type=click.IntRange(1, 65535), default=443, show_default=True)
@click.option("--healthz-port", type=click.IntRange(1, 65535), default=10254, show_default=True, help="nginx answers /healthz.")
@click.option("-v", "--v", "verbosity", type=int, default=2, show_default=True, help="4 and above for debugging.")
def _command(
    kubeconfig: str, publish_service: str, binary: str, directory: str, user: str, http_port: int, https_port: int,
    healthz_port: int, verbosity: int,
) -> int:  # fmt: skip
    """Lead HTTP and HTTPS requests to Services, as the Ingresses of our classes say.

    Example: ingress --kubeconfig admin.conf --http-port 8080 --https-port 8443
    """
    from nsk8s.ingress.controller import IngressController
    from nsk8s.ingress.server import Nginx

    setup_logging(verbosity)
    nginx = Nginx(binary, Path(directory), http=http_port, https=https_port, health=healthz_port, user=user)
    return run(IngressController(nginx, kubeconfig, publish_service).serve)


def main(argv: list[str]) -> int:
    """Run until SIGTERM; returns the exit code."""
    return invoke(_command, argv)
