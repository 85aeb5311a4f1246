"""The `nsk8s` command. Each noun has a file; a file is imported when its command is used, so that `--help` is quick."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys

import click

from nsk8s import __version__
from nsk8s.errors import Nsk8sError

COMMANDS = {
    # name: (module, group of the help page)
    "up": ("lifecycle", "Cluster"),
    "down": ("lifecycle", "Cluster"),
    "stop": ("lifecycle", "Cluster"),
    "start": ("lifecycle", "Cluster"),
    "status": ("status", "Cluster"),
    "list": ("status", "Cluster"),
    "doctor": ("status", "Cluster"),
    "kubeconfig": ("kubeconfig", "Cluster"),
    "node": ("node", "Cluster"),
    "get": ("get", "Objects"),
    "describe": ("describe", "Objects"),
    "apply": ("apply", "Objects"),
    "delete": ("delete", "Objects"),
    "scale": ("delete", "Objects"),
    "logs": ("pods", "Objects"),
    "exec": ("pods", "Objects"),
    "enter": ("machines", "Network"),
    "capture": ("machines", "Network"),
    "link": ("link", "Network"),
    "rules": ("rules", "Network"),
    "cni": ("cni", "Network"),
    "component": ("component", "Development"),
    "completion": ("completion", "Development"),
}


class Nsk8s(click.Group):
    """Commands by name, loaded on demand, listed under headings."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"nsk8s.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_") if cmd_name not in _RENAMED else _RENAMED[cmd_name])
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading in dict.fromkeys(group for _, group in COMMANDS.values()):
            rows = []
            for name, (_, group) in COMMANDS.items():
                command = self.get_command(ctx, name) if group == heading else None
                if command is not None:
                    rows.append((name, command.get_short_help_str(90)))
            with formatter.section(heading):
                formatter.write_dl(rows)


_RENAMED = {"list": "list_", "exec": "exec_"}

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


EXIT_CODES = """Exit codes: 0 done; 1 an error: one line on stderr with the remedy; 2 wrong usage; 3 `status` of a cluster that is
not well; 126 and 127 `enter` found no program to run; 130 interrupted. `exec` and `enter` end with their command's own code.
"""


@click.command(cls=Nsk8s, context_settings=SETTINGS, epilog=EXIT_CODES)
@click.version_option(__version__, prog_name="nsk8s")
def cli() -> None:
    """A whole Kubernetes cluster on this machine: every node a network namespace, every packet real.

    \b
    sudo nsk8s up                       start a control plane, three nodes, a switch, a router, a client
    sudo nsk8s apply -f hello.yaml      run something
    sudo nsk8s enter client -- curl http://192.168.56.11:30080
    sudo nsk8s down                     remove every trace
    """


def _not_raised(what: sys.UnraisableHookArgs) -> None:
    """A Ctrl-C that Python met in a finaliser or a weakref's callback (the import system has some) would be lost: say it again
    when that is over."""
    if not issubclass(what.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(what)
        return
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 0.01)


def main() -> None:
    """Entry point of the `nsk8s` script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 gets ? for ✓, not an error
    sys.unraisablehook = _not_raised
    try:
        cli.main(prog_name="nsk8s", standalone_mode=False)
    except click.exceptions.Exit as e:
        sys.exit(e.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.UsageError as e:
        command = e.ctx.command_path if e.ctx else "nsk8s"
        click.echo(f"error: {e.format_message()} → see {command} --help", err=True)
        sys.exit(e.exit_code)
    except click.ClickException as e:
        click.echo(f"error: {e.format_message()}", err=True)
        sys.exit(e.exit_code)
    except Nsk8sError as e:
        from nsk8s.cli.common import show_error

        show_error(e)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains when it flushes at its end
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as e:
        where = f" {e.filename}" if e.filename else ""
        click.echo(f"error:{where}: {e.strerror or e}" if where else f"error: {e.strerror or e}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
