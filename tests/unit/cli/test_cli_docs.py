"""What is written about the command is what it does: docs/cluster-yaml.md, the examples, every page of --help."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from nsk8s import config
from nsk8s.cli.main import COMMANDS, cli
from nsk8s.cli.schema import schema
from nsk8s.config import ClusterConfig
from nsk8s.errors import Nsk8sError

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "cluster-yaml.md"


def _type(node: dict[str, Any]) -> str:
    if "enum" in node:
        return ", ".join(f"`{v}`" for v in node["enum"])
    if "const" in node:
        return f"`{node['const']}`"
    if "anyOf" in node:
        return " or ".join(_type(n) for n in node["anyOf"] if n.get("type") != "null")
    if node.get("format") in ("ipv4network", "ipv6network"):
        return "IPv6 network" if "6" in node["format"] else "network"
    if node.get("type") == "array":
        return f"list of {_type(node['items'])}"
    limits = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}"}
    more = [text.format(node[key]) for key, text in limits.items() if key in node]
    return " ".join([{"object": "mapping"}.get(node.get("type", ""), node.get("type", "")), *more])


def _default(value: Any) -> str:
    if isinstance(value, list) and value:
        return ", ".join(f"`{v}`" for v in value)
    text = f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else value
    return "–" if value in (None, [], {}) else f"`{text}`"


def rows(document: dict[str, Any]) -> list[str]:
    """The table of docs/cluster-yaml.md, made from the schema."""
    defaults = ClusterConfig().model_dump(mode="json", by_alias=True)
    out = ["| setting | is | default | meaning |", "|---|---|---|---|"]

    def add(model: dict[str, Any], path: str, values: dict[str, Any]) -> None:
        for key, node in model["properties"].items():
            where = f"{path}{key}"
            inner = node.get("$ref") or (node.get("items") or {}).get("$ref")
            if inner is None:
                default = values.get(key, node.get("default"))
                out.append(f"| `{where}` | {_type(node)} | {_default(default)} | {node.get('description', '')} |")
                continue
            child = document["$defs"][inner.rpartition("/")[2]]
            is_list = node.get("type") == "array"
            shown = "`node1`, `node2`, `node3`" if key == "nodes" else "–"
            out.append(f"| `{where}` | {'list, or a number' if key == 'nodes' else 'list' if is_list else 'mapping'} | {shown} | {node.get('description', '')} |")
            add(child, f"{where}[]." if is_list else f"{where}.", {} if is_list else values.get(key, {}))

    add(document, "", defaults)
    return out


def test_the_page_about_cluster_yaml_has_every_setting_as_it_is() -> None:
    wanted = "\n".join(rows(schema()))
    assert wanted in PAGE.read_text(), f"the settings have changed: `python {Path(__file__).relative_to(ROOT)}` writes them down"


def test_every_setting_is_described() -> None:
    document = schema()
    for model in (document, *document["$defs"].values()):
        for key, node in model["properties"].items():
            assert node.get("description"), f"{model['title']}.{key}"


def test_the_schema_is_printed() -> None:
    done = CliRunner().invoke(cli, ["up", "--print-schema"])
    assert done.exit_code == 0
    assert json.loads(done.output) == schema()


def test_the_yaml_of_the_page_is_valid() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.S)
    assert blocks
    for block in blocks:
        config.parse(yaml.safe_load(block), PAGE.name)


def test_the_example_has_every_setting_and_the_defaults_it_claims() -> None:
    example = config.load(ROOT / "examples" / "cluster.yaml").model_dump(mode="json", by_alias=True)
    default = ClusterConfig().model_dump(mode="json", by_alias=True)
    assert {k for k in default if example[k] != default[k]} == {"name", "nodes", "timing"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nodez: 3", "nodez: there is no such setting, did you mean nodes?"),
        ("subnets: {pod: 10.0.0.0/8}", "subnets.pod: there is no such setting, did you mean pods?"),
        ("nodes: [{name: a, label: {x: y}}]", "nodes.0.label: there is no such setting, did you mean labels?"),
        ("zzz: 3", "zzz: there is no such setting →"),
        ("nodes: many", "nodes: Input should be a valid list, not 'many'"),
        ("nodes: 501", "between 0 and 500"),
        ("nodes: 300", "subnets.pods has room for 256 nodes, 301 are asked for"),
        ("nodes: [{name: a}, {name: a}]", "the name a is used twice"),
        ("nodes: [{name: router}]", "the name router is reserved"),
        ("subnets: {pods: 10.244.0.0/33}", "subnets.pods: Input is not a valid IPv4 network, not '10.244.0.0/33'"),
        ("subnets: {pods: 192.168.0.0/16}", "subnets.nodes (192.168.56.0/24) and subnets.pods (192.168.0.0/16) overlap"),
        ("subnets: {pods: 10.0.0.0/24}", "subnets.nodeMask (/24) must be longer than subnets.pods' /24"),
        ("subnets: {services: 10.96.0.0/30}", "subnets.services needs at least a /28"),
        ("network: {ipFamilies: [IPv6]}\nnodes: [{name: a, link: {mtu: 1000}}]", "nodes: a: link.mtu (1000) must be 1280 or more"),
        ("subnets: {nodes: 192.168.56.0/27}\nnodes: 30", "subnets.nodes (192.168.56.0/27) is too small for 31 nodes"),
        ("proxy: {mode: kernelspace}", "proxy.mode: Input should be 'iptables', 'nftables', 'ipvs' or 'userspace', not 'kernelspace'"),
        ("iptables: ipvs", "iptables: Input should be 'auto', 'nft' or 'legacy', not 'ipvs'"),
        ("without: [dsn]", "without.0: Input should be"),
        ("name: Upper", "name: String should match pattern"),
        ("timing: {nodeMonitorPeriod: 0}", "timing.nodeMonitorPeriod: Input should be greater than 0, not 0"),
        ("- a", "must hold a mapping"),
        ("nodes: [", ":1:9: not valid YAML"),
        ("\x00", "not valid YAML"),
    ],
)
def test_a_mistake_is_named_with_what_was_meant(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    with pytest.raises(Nsk8sError) as e:
        config.load(file)
    assert says in f"{e.value.message} → {e.value.remedy}"
    assert e.value.message.startswith(str(file))
    assert "\n" not in e.value.message


def _commands(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(command, click.Group):
        return [path]
    context = click.Context(command)
    return [c for name in command.list_commands(context) for c in _commands(command.get_command(context, name), (*path, name))]  # type: ignore[arg-type]


@pytest.mark.parametrize("path", _commands(cli), ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, [*path, "--help"])
    assert done.exit_code == 0
    assert "Example:" in done.output
    assert f"nsk8s {path[0]}" in done.output.partition("Example:")[2].replace("\n", " ").replace("  ", " ")
    words = done.output.partition("Example:")[0]
    assert len(words.split()) > 8


def test_the_first_page_lists_every_command_and_the_exit_codes() -> None:
    output = CliRunner().invoke(cli, ["--help"]).output
    for name in COMMANDS:
        assert re.search(rf"^  {name} +[A-Z]", output, re.M), name
    for code in ("0 done", "1 an error", "2 wrong usage", "3 `status`", "130 interrupted"):
        assert code in " ".join(output.split())


@pytest.mark.parametrize(
    "words", [["nosuch"], ["up", "--nodez"], ["up", "--nodes", "many"], ["get", "-o", "xml", "pods"], ["scale", "deploy/a"],
              ["node"], ["node", "explode", "n"], ["capture"], ["up", "--api-port", "0"], ["status", "--name", "../etc"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_code_2_and_one_line(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from nsk8s.cli import main

    monkeypatch.setattr("sys.argv", ["nsk8s", *words])
    with pytest.raises(SystemExit) as e:
        main.main()
    out = capsys.readouterr()
    assert e.value.code == 2
    assert len(out.err.splitlines()) == 1 or words == ["node"]
    assert "--help" in out.err or words == ["node"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    assert "_NSK8S_COMPLETE" in CliRunner().invoke(cli, ["completion", shell]).output


def test_completion_completes() -> None:
    done = CliRunner(env={"_NSK8S_COMPLETE": "bash_complete", "COMP_WORDS": "nsk8s de", "COMP_CWORD": "1"}).invoke(cli, [], prog_name="nsk8s")
    assert {"describe", "delete"} <= {line.partition(",")[2] for line in done.output.splitlines()}


if __name__ == "__main__":
    page = PAGE.read_text()
    PAGE.write_text(re.sub(r"\| setting \|.*?(?=\n\n)", lambda _: "\n".join(rows(schema())), page, flags=re.S))
