"""cni: the CNI plugins, for any runtime."""

from __future__ import annotations

import os

import click

import cni as plugins
from nsk8s.cli.common import print_json
from nsk8s.errors import Nsk8sError


@click.group(
    epilog="""\b
    Examples:
      CNI_PATH=$(nsk8s cni path) cnitool add mynet /run/netns/x
      sudo nsk8s cni install /opt/cni/bin
    """
)
def cni() -> None:
    """The CNI plugins of nsk8s, for any runtime.

    The folder serves wherever a runtime wants one: bin_dir of containerd, cni_plugin_dirs of podman, CNI_PATH of cnitool. What
    the plugins support is told in docs/cni.md.
    """


@cni.command(epilog="Example: CNI_BIN_DIR=$(nsk8s cni path)")
@click.option("-o", "--output", type=click.Choice(["json"]), default=None, help="Output format.")
def path(output: str | None) -> None:
    """Print the folder that holds the plugins' executables."""
    folder = plugins.bin_dir()
    if output:
        print_json({"path": folder, "plugins": sorted(os.listdir(folder))})
    else:
        click.echo(folder)


@cni.command(epilog="Example: sudo nsk8s cni install /opt/cni/bin")
@click.argument("directory", type=click.Path(file_okay=False))
@click.option("-f", "--force", is_flag=True, help="Replace plugins of these names that are not ours.")
def install(directory: str, force: bool) -> None:
    """Put the plugins into DIRECTORY, for a runtime whose folder is fixed. They run the code of this nsk8s."""
    foreign = [name for name in sorted(os.listdir(plugins.bin_dir())) if not _ours(os.path.join(directory, name))]
    if foreign and not force:
        raise Nsk8sError(f"{directory} holds {', '.join(foreign)} of somebody else", "choose another folder, or --force")
    plugins.install(directory)


def _ours(target: str) -> bool:
    """Whether there is nothing, or a plugin of ours, at that path."""
    try:
        with open(target, "rb") as f:
            return b"from cni import skel" in f.read(4096)
    except FileNotFoundError:
        return True
