"""completion: the shell completes nsk8s' commands and options. Touches: stdout."""

from __future__ import annotations

import click


@click.command(epilog="Example: source <(nsk8s completion bash), or: nsk8s completion bash > /etc/bash_completion.d/nsk8s")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that teaches a shell to complete nsk8s' commands and options."""
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root().command
    kind = get_completion_class(shell)
    assert kind is not None, "click knows these three"
    click.echo(kind(root, {}, "nsk8s", "_NSK8S_COMPLETE").source())
