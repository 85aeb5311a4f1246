"""up, down, stop, start."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import click

from nsk8s.cli.common import cluster_option, control_plane_is_off, no_api, print_json


class Progress:
    """One line a step with the time it took, on stderr; quiet when asked to be."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet, self._start, self._step, self._since = quiet, time.monotonic(), "", 0.0
        self._tty = sys.stderr.isatty()

    def __call__(self, step: str) -> None:
        self._finish()
        self._step, self._since = step, time.monotonic()
        if self._tty and not self._quiet:
            click.echo(f"  … {step}", err=True, nl=False)

    def _finish(self) -> None:
        if self._step and not self._quiet:
            taken = time.monotonic() - self._since
            click.echo(("\r\033[K" if self._tty else "") + f"  ✓ {self._step} ({taken:.2f} s)", err=True)
        self._step = ""

    def done(self) -> float:
        """Close the last line; seconds since the beginning."""
        self._finish()
        return time.monotonic() - self._start

    def failed(self) -> None:
        if self._step and not self._quiet:
            click.echo(("\r\033[K" if self._tty else "") + f"  ✗ {self._step}", err=True)
        self._step = ""


@click.command(epilog="Example: sudo nsk8s up --nodes 5 --without kube-proxy")
@cluster_option
@click.option("-f", "--file", "path", metavar="FILE", help="What the cluster should be (docs/cluster-yaml.md); - is stdin.")
@click.option("--nodes", type=click.IntRange(0, 500), help="Number of workers (default 3).")
@click.option("--api-port", type=click.IntRange(1, 65535), help="Port of the API on 127.0.0.1 (default: 6443 or the next free).")
@click.option("--iptables", type=click.Choice(["auto", "nft", "legacy"]), envvar="NSK8S_IPTABLES",
              help="Which iptables the nodes use (also by NSK8S_IPTABLES in the environment).")
@click.option("--without", multiple=True, metavar="PART", help="Leave a part out (kube-proxy, dns, …); may be repeated.")
@click.option("--cni-bin-dir", metavar="DIR[:DIR]", help="Folders of CNI plugins, searched before ours (docs/cni.md).")
@click.option("--cni-conf-dir", metavar="DIR", help="CNI configurations in place of ours; templates with {{.PodCIDR}}.")
@click.option("--print-schema", is_flag=True, help="Print the JSON schema of such a file, and do nothing else.")
@click.option("--wait/--no-wait", default=True, help="Wait until every node is Ready and DNS answers on each.")
@click.option("--timeout", default=120.0, show_default=True, help="Seconds to wait.")
@click.option("-q", "--quiet", is_flag=True, help="No progress lines, no summary.")
@click.option("--hints/--no-hints", default=True, hidden=True)
@click.option("-o", "--output", type=click.Choice(["json"]), help="Print the result as JSON.")
def up(
    cluster: str, path: str | None, nodes: int | None, api_port: int | None, iptables: str | None, without: tuple[str, ...],
    cni_bin_dir: str | None, cni_conf_dir: str | None, print_schema: bool, wait: bool, timeout: float, quiet: bool,
    hints: bool, output: str | None,
) -> None:  # fmt: skip
    """Start a cluster (or what is missing of one), and say what runs.

    Repeating it is harmless: a running cluster is left as it is, a stopped or half-started one is completed.

    With Debian's CNI plugins and a network of one's own: sudo nsk8s up --cni-bin-dir /usr/lib/cni --cni-conf-dir ./net.d
    """
    from nsk8s import config as config_module
    if print_schema:
        from nsk8s.cli.schema import schema

        print_json(schema())
        return
    from nsk8s.cluster import lifecycle

    document: dict[str, Any] = {}
    if path is not None:
        document = config_module.load(path).model_dump(mode="json", by_alias=True, exclude_unset=True)
    source = click.get_current_context().get_parameter_source("cluster")
    if "name" not in document or source is not click.core.ParameterSource.DEFAULT:
        document["name"] = cluster
    for key, value in (("nodes", nodes), ("apiPort", api_port), ("iptables", iptables), ("without", list(without) or None)):
        if value is not None:
            document[key] = value
    own: dict[str, Any] = {}
    if cni_bin_dir is not None:
        own["binDir"] = [os.path.abspath(folder) for folder in cni_bin_dir.split(":") if folder]
    if cni_conf_dir is not None:
        own["confDir"] = os.path.abspath(cni_conf_dir)
    if own:
        document["cni"] = {**(document.get("cni") or {}), **own}
    config = config_module.parse(document, path or "command line")
    if config.cni.model_fields_set:
        from nsk8s.cluster import cniconf

        config = cniconf.gather(config, Path.cwd() if path in (None, "-") else Path(str(path)).absolute().parent)
        for line in cniconf.missing_plugins(config):
            click.echo(f"warning: {line}", err=True)
    progress = Progress(quiet or output is not None)
    try:
        result = lifecycle.up(config, progress)
        if wait:
            _wait(result, timeout, progress)
    except KeyboardInterrupt:
        progress.failed()
        _interrupted(f"`nsk8s up{_named(config.name)}` goes on from here, `nsk8s down{_named(config.name)}` removes it")
    except BaseException:
        progress.failed()
        raise
    seconds = progress.done()
    if output:
        print_json(_summary(result, seconds))
    elif not quiet:
        _print_summary(result, seconds, hints)


def _wait(result: Any, timeout: float, progress: Progress) -> None:
    from nsk8s.cluster import ready

    if control_plane_is_off(result.state):
        raise no_api(result.paths, result.state)  # a node that was switched off stays off: nobody could ever answer
    ready.wait(result.paths, result.state, timeout, progress)


def _named(cluster: str) -> str:
    """How a command says which cluster it means. Pure."""
    return "" if cluster == "nsk8s" else f" --name {cluster}"


def _interrupted(remedy: str) -> NoReturn:
    click.echo(f"error: interrupted → {remedy}", err=True)
    sys.exit(130)


def _summary(result: Any, seconds: float) -> dict[str, Any]:
    from ipaddress import IPv4Address

    state, paths = result.state, result.paths
    config = state.cluster_config()
    return {
        "name": paths.name,
        "alreadyRunning": result.already,
        "seconds": round(seconds, 3),
        "server": f"https://127.0.0.1:{state.api_port}",
        "kubeconfig": str(paths.admin_conf),
        "nodes": [
            {"name": n.name, "ip": config.node_ips(IPv4Address(n.ip))[0], "stopped": n.stopped} for n in state.nodes
        ],
        "loadedModules": result.loaded_modules,
    }


def _print_summary(result: Any, seconds: float, hints: bool = True) -> None:
    from ipaddress import IPv4Address

    from nsk8s.cluster.pki import authority

    state, paths = result.state, result.paths
    config = state.cluster_config()
    word = "was running already" if result.already else f"is up after {seconds:.1f} s"
    running = [n for n in state.nodes if not n.stopped]
    worker = running[1] if len(running) > 1 else running[0]
    node_port = authority(config.node_ips(IPv4Address(worker.ip))[0], 30080)
    name = _named(paths.name)
    sudo = "sudo " if "SUDO_UID" in os.environ else ""
    nodes, pods, services = (" and ".join(c) for c in (config.node_cidrs, config.pod_cidrs, config.service_cidrs))
    lines = [
        f"Cluster {paths.name} {word}: {len(running)} nodes, API on 127.0.0.1:{state.api_port}.",
        f"Nodes {nodes}, pods {pods}, services {services}; see ip netns list.",
    ]
    if result.loaded_modules:
        modules = ", ".join(result.loaded_modules)
        lines.append(f"Kernel modules loaded: {modules} (bridge filtering stays off for the host's own bridges).")
    lines += [line for part in config.without for line in _instead(part, paths, state)]
    lines += [
        "",
        "Try:",
        f"  {sudo}nsk8s get nodes -o wide{name}",
        f"  {sudo}nsk8s apply -f {example('hello.yaml')}{name}",
        f"  {sudo}nsk8s enter client{name} -- curl -s http://{node_port}   (not reachable from this shell itself)",
        f"  {sudo}ip netns exec {paths.name}-{worker.name} tcpdump -ni {'any' if config.cni.conf else 'cni0'}",
        f"  {sudo}nsk8s kubeconfig --export{name} && kubectl get pods -A",
    ]
    click.echo("\n".join(lines if hints else lines[: lines.index("")]))


def _instead(part: str, paths: Any, state: Any) -> list[str]:
    """How a part that was left out is run by hand, on the first machine that lacks it."""
    from nsk8s.cluster import specs

    whole = state.cluster_config().model_copy(update={"without": []})
    node = state.nodes[-1] if len(state.nodes) == 1 else state.nodes[1]
    found = [s for s in (*specs.node(paths, whole, node), *specs.control_plane(paths, whole)) if s["name"] == part]
    if not found:
        return [f"Left out: {part}."]
    enter = f"nsk8s enter{_named(paths.name)} {found[0]['machine']} -- nsk8s component {part}"
    return [f"Left out: {part}. Ours, by hand:", f"  {enter} {' '.join(found[0]['argv'])}"]


def example(name: str) -> str:
    """Where the examples are, seen from here: below the current folder, or in the checkout that scripts/setup installed from."""
    for root in (Path.cwd(), *Path.cwd().parents, *_checkouts()):
        file = root / "examples" / name
        if file.is_file() and (root / "nsk8s" / "config.py").is_file():
            near = os.path.relpath(file)
            return near if len(near) <= len(str(file)) else str(file)
    return f"examples/{name}"


def _checkouts() -> list[Path]:
    """The folder this package is in, and the one that scripts/setup noted beside the environment it made."""
    out = [Path(__file__).parents[2]]
    with contextlib.suppress(OSError):
        out.append(Path(Path(sys.prefix, "nsk8s-checkout").read_text().strip()))
    return out


@click.command(epilog="Example: sudo nsk8s down --all")
@cluster_option
@click.option("--all", "every", is_flag=True, help="Every cluster on this machine.")
@click.option("--keep-state", is_flag=True, help="Keep the disks and the store: the same as `stop`.")
@click.option("-q", "--quiet", is_flag=True, help="No progress lines.")
def down(cluster: str, every: bool, keep_state: bool, quiet: bool) -> None:
    """Remove a cluster and every trace of it, whatever state it is in."""
    from nsk8s.cluster import lifecycle
    from nsk8s.cluster.preflight import require_root
    from nsk8s.cluster.state import clusters

    require_root()
    names = clusters() if every else [cluster]
    if every and not names:
        click.echo("There is no cluster on this machine.")
    for name in names:
        progress = Progress(quiet or name not in clusters())
        try:
            found = lifecycle.down(name, keep_state, progress)
        except KeyboardInterrupt:
            progress.failed()
            _interrupted(f"repeat `nsk8s down{_named(name)}`: it goes on from here")
        except BaseException:
            progress.failed()
            raise
        seconds = progress.done()
        if not found:
            raise lifecycle.no_such_cluster(name)
        _forget_context(name, keep_state)
        if not quiet:
            click.echo(f"Cluster {name} {'is stopped' if keep_state else 'is gone'} after {seconds:.1f} s.")


def _forget_context(name: str, keep_state: bool) -> None:
    if not keep_state:
        from nsk8s.cli.kubeconfig import forget

        forget(name)


@click.command(epilog="Example: sudo nsk8s stop && sudo nsk8s start")
@cluster_option
@click.option("-q", "--quiet", is_flag=True, help="No progress lines.")
def stop(cluster: str, quiet: bool) -> None:
    """Switch a cluster off, keeping its objects and disks."""
    from nsk8s.cluster import lifecycle
    from nsk8s.cluster.preflight import require_root

    require_root()
    progress = Progress(quiet)
    try:
        lifecycle.stop(cluster, progress)
    except KeyboardInterrupt:
        progress.failed()
        _interrupted(f"repeat `nsk8s stop{_named(cluster)}`: it goes on from here")
    except BaseException:
        progress.failed()
        raise
    seconds = progress.done()
    if not quiet:
        click.echo(f"Cluster {cluster} is stopped after {seconds:.1f} s; `nsk8s start{_named(cluster)}` brings it back.")


@click.command(epilog="Example: sudo nsk8s start --name lab1")
@cluster_option
@click.option("--timeout", default=120.0, show_default=True, help="Seconds to wait.")
@click.option("-q", "--quiet", is_flag=True, help="No progress lines, no summary.")
def start(cluster: str, timeout: float, quiet: bool) -> None:
    """Switch a stopped cluster on again: every node boots."""
    from nsk8s import config as config_module
    from nsk8s.cluster import lifecycle
    from nsk8s.cluster.preflight import require_root
    from nsk8s.cluster.state import Paths, load_state

    require_root()
    if load_state(Paths(cluster)) is None:
        raise lifecycle.no_such_cluster(cluster)
    progress = Progress(quiet)
    try:
        result = lifecycle.up(config_module.parse({"name": cluster}, "command line"), progress)
        _wait(result, timeout, progress)
    except KeyboardInterrupt:
        progress.failed()
        _interrupted(f"`nsk8s start{_named(cluster)}` goes on from here")
    except BaseException:
        progress.failed()
        raise
    seconds = progress.done()
    if not quiet:
        _print_summary(result, seconds)
