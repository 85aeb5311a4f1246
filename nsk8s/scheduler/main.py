"""kube-scheduler as a process: flags, leader election. Upstream: cmd/kube-scheduler. Touches: the API, event loop."""

from __future__ import annotations

import asyncio
import logging
import re

import click

from nsk8s.client import component, kubeconfig, leaderelection
from nsk8s.client.events import EventRecorder
from nsk8s.client.rest import Client
from nsk8s.errors import Nsk8sError
from nsk8s.scheduler import config
from nsk8s.scheduler.scheduler import Scheduler

log = logging.getLogger("scheduler")


def duration(text: str) -> float:
    """Go's time.Duration (`1m30s`, `500ms`) in seconds. Raises ValueError."""
    parts = re.findall(r"([0-9.]+)(ms|h|m|s)", text)
    if not parts or "".join(n + unit for n, unit in parts) != text:
        raise ValueError(text)
    return sum(float(n) * {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}[unit] for n, unit in parts)


@click.command("kube-scheduler", context_settings=component.CONTEXT_SETTINGS)
@click.option("--kubeconfig", "kubeconfig_path", required=True, metavar="FILE", help="How to reach the API server.")
@click.option("--config", "config_path", default="", metavar="FILE", help="A KubeSchedulerConfiguration.")
@click.option("--leader-elect", type=bool, is_flag=False, flag_value=True, default=True, show_default=True)
@click.option("--leader-elect-lease-duration", type=duration, default="15s", show_default=True)
@click.option("--leader-elect-renew-deadline", type=duration, default="10s", show_default=True)
@click.option("--leader-elect-retry-period", type=duration, default="2s", show_default=True)
@click.option("--bind-address", default="", help="Accepted; this scheduler serves no metrics.")
@click.option("--secure-port", default=0, type=int, help="Accepted; this scheduler serves no metrics.")
@click.option("-v", "--v", "verbosity", default=0, type=int, help="Log verbosity; 4 and above is debug.")
def command(
    kubeconfig_path: str, config_path: str, leader_elect: bool, leader_elect_lease_duration: float,
    leader_elect_renew_deadline: float, leader_elect_retry_period: float, bind_address: str, secure_port: int,
    verbosity: int,
) -> int:  # fmt: skip
    """Puts pods on nodes.

    Example: kube-scheduler --kubeconfig /etc/kubernetes/scheduler.conf
    """
    component.setup_logging(verbosity)
    client_config = kubeconfig.load(kubeconfig_path)
    profiles = config.load(config_path)[0] if config_path else {config.DEFAULT_NAME: config.default_profile()}
    if secure_port or bind_address:
        log.info("--bind-address and --secure-port are accepted, but no port is served")
    timing = leaderelection.Timing(leader_elect_lease_duration, leader_elect_renew_deadline, leader_elect_retry_period)

    async def serve(stop: asyncio.Event) -> None:
        async with Client(client_config, "kube-scheduler") as client:
            recorder = EventRecorder(client, next(iter(profiles)))

            async def work() -> None:
                await Scheduler(client, recorder, profiles).run()

            identity = leaderelection.own_identity()
            main_task = leaderelection.lead(client, "kube-scheduler", identity, work, timing) if leader_elect else work()
            await component.until(stop, main_task, recorder.run())

    return component.run(serve)


def main(argv: list[str]) -> int:
    try:
        return component.invoke(command, argv)
    except Nsk8sError as e:
        click.echo(f"error: {e.message}" + (f" ({e.remedy})" if e.remedy else ""), err=True)
        return 1


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
