"""component: one component alone, in the foreground."""

from __future__ import annotations

import importlib
import sys

import click


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    epilog="Example: nsk8s component kube-apiserver --data-dir d --secure-port 7443 --write-kubeconfig k",
)
@click.argument("name", metavar="NAME")
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="[UPSTREAM FLAGS]…")
@click.pass_context
def component(ctx: click.Context, name: str, argv: tuple[str, ...]) -> None:
    """Run one component alone, in the foreground, in whatever namespace this is started in.

    Its flags are upstream's (`nsk8s component NAME --help` lists them), so that any component can be replaced by the real one,
    or tested apart. Names: kube-apiserver, kube-scheduler, kube-controller-manager, kubelet, kube-proxy, node-network,
    network-policy, runtime, dns, ingress, cloud-controller-manager, router-agent, speaker.
    """
    from nsk8s.cluster.specs import TARGETS

    if name in ("-h", "--help"):
        click.echo(ctx.get_help())
        return
    if name not in TARGETS:
        raise click.UsageError(f"unknown component {name!r}; there are {', '.join(TARGETS)}")
    module, _, function = TARGETS[name].partition(":")
    sys.argv[0] = name
    sys.exit(getattr(importlib.import_module(module), function)(list(argv)))
