"""The nft program as plugins use it: a script is one atomic transaction. Touches: processes (nft)."""

from __future__ import annotations

from cni import jsontext
from cni.errors import CniError
from cni.invoke import spawn
from cni.iptables import tool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

COMMENT_MAX = 128
_RETRIES = 20


def available(env: Mapping[str, str]) -> bool:
    return tool(env, "nft") is not None


def _nft(env: Mapping[str, str], args: Sequence[str], script: str = "") -> tuple[int, str]:
    path = tool(env, "nft")
    if path is None:
        raise CniError("nft not found: install nftables")
    code, output = spawn([path, *args], env, script.encode(), stderr=True)
    return code, output.decode("utf-8", "replace")


def attempt(env: Mapping[str, str], lines: Sequence[str]) -> str:
    """Commit all lines, or none: empty when it worked, else what nft says."""
    code, output = _nft(env, ["-f", "-"], "\n".join([*lines, ""]))
    return "" if code == 0 else next((line for line in output.splitlines() if line), "nft failed")


def rules(env: Mapping[str, str], table: str, chain: str) -> list[tuple[int, str]]:
    """(handle, comment) of a chain's rules; none when there is no such chain. `table` is "inet name"."""
    code, output = _nft(env, ["-j", "-a", "list", "chain", *table.split(), chain])
    if code:
        return []
    try:
        found = jsontext.loads(output)["nftables"]
        return [(o["rule"]["handle"], o["rule"].get("comment", "")) for o in found if "rule" in o]
    except (KeyError, TypeError, ValueError) as e:
        raise CniError(f"nft -j list chain {table} {chain}: cannot read its answer: {e!r}") from None


def change(env: Mapping[str, str], lines: Callable[[], Sequence[str]], what: str) -> None:
    """Commit the lines made from what is there now, again when somebody else was quicker. Raises CniError."""
    problem, before = "", None
    for _ in range(_RETRIES):
        script = lines()
        if not script or not (problem := attempt(env, script)):
            return
        if script == before:
            break  # nothing has changed: it is not the race
        before = script
    raise CniError(f"{what}: {problem}")


def deletions(env: Mapping[str, str], table: str, chain: str, gone: Callable[[str], bool]) -> list[str]:
    """The lines that delete the rules of a chain whose comment `gone` is true for."""
    return [f"delete rule {table} {chain} handle {handle}" for handle, comment in rules(env, table, chain) if gone(comment)]


def comment(text: str) -> str:
    """` comment "…"`, as long as nft takes it. Pure."""
    return f' comment "{text[:COMMENT_MAX].replace(chr(34), "")}"'
