"""Descriptions beside what a real kubectl 1.33 printed of the same objects at the same moment.

The file beside the goldens holds the objects as the API had them. To take it anew: apply tests/e2e/data/cli-odd.yaml and
examples/hello.yaml, then `python test_cli_describe.py` with $NSK8S_CLUSTER and $KUBECONFIG set.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nsk8s.api.selectors import parse_labels
from nsk8s.cli.describe import text
from nsk8s.client import resources
from nsk8s.client.resources import Resource
from nsk8s.errors import NotFound

GOLDEN = Path(__file__).parents[2] / "golden" / "cli-describe.json"

USED = (
    resources.PODS, resources.NODES, resources.SERVICES, resources.ENDPOINTS, resources.ENDPOINTSLICES, resources.DEPLOYMENTS,
    resources.REPLICASETS, resources.STATEFULSETS, resources.JOBS, resources.LEASES, resources.SECRETS, resources.SERVICEACCOUNTS,
    resources.NAMESPACES, resources.PRIORITYCLASSES, resources.EVENTS,
)  # fmt: skip
SHOWN = (
    (resources.NODES, "node1"), (resources.NODES, "control-plane"),  # first: their leases change every ten seconds
    (resources.PODS, "odd-pending"), (resources.PODS, "odd-0"), (resources.SERVICES, "hello"), (resources.SERVICES, "odd"), (resources.SERVICES, "odd-headless"),
    (resources.SERVICES, "odd-name"), (resources.ENDPOINTS, "hello"), (resources.ENDPOINTSLICES, "odd"), (resources.DEPLOYMENTS, "hello"),
    (resources.STATEFULSETS, "odd"), (resources.JOBS, "odd"), (resources.SECRETS, "odd"), (resources.SERVICEACCOUNTS, "odd"),
    (resources.NAMESPACES, "default"), (resources.PRIORITYCLASSES, "system-node-critical"),
)  # fmt: skip


class FakeApi:
    """Answers from recorded lists, by the selectors that `describe` uses."""

    def __init__(self, recorded: dict[str, list[dict[str, Any]]]) -> None:
        self._recorded = recorded

    async def get(self, resource: Resource, name: str, namespace: str = "") -> dict[str, Any]:
        for obj in (await self.list(resource, namespace))["items"]:
            if obj["metadata"]["name"] == name:
                found: dict[str, Any] = obj
                return found
        raise NotFound(name)

    async def list(self, resource: Resource, namespace: str = "", *, label_selector: str = "", field_selector: str = "") -> dict[str, Any]:
        labels = parse_labels(label_selector)
        return {"items": [
            o for o in self._recorded[resource.plural]
            if (not namespace or o["metadata"].get("namespace") == namespace) and labels.matches(o["metadata"].get("labels"))
            and all(matches(o, term) for term in field_selector.split(",") if term)
        ]}  # fmt: skip


def matches(obj: dict[str, Any], term: str) -> bool:
    path, wanted = term.split("!=") if "!=" in term else term.split("=")
    value: Any = obj
    for part in path.split("."):
        value = (value or {}).get(part)
    return ((value or "") == wanted) != ("!=" in term)


def described(recorded: dict[str, list[dict[str, Any]]], resource: Resource, name: str, now: datetime) -> str:
    async def work() -> str:
        api: Any = FakeApi(recorded)
        return await text(api, resource, await api.get(resource, name, "default" if resource.namespaced else ""), now)

    return asyncio.run(work())


@pytest.mark.parametrize(("resource", "name"), SHOWN, ids=[f"{r.plural}/{n}" for r, n in SHOWN])
def test_describes_as_kubectl_did(resource: Resource, name: str) -> None:
    golden = json.loads(GOLDEN.read_text())
    said = golden["kubectl"][f"{resource.plural}/{name}"]
    assert described(golden["objects"], resource, name, datetime.fromisoformat(said["now"])) == said["text"]


def test_matching() -> None:
    pod = {"status": {"phase": "Running"}, "spec": {"nodeName": "a"}}
    assert matches(pod, "spec.nodeName=a")
    assert not matches(pod, "spec.nodeName=b")
    assert matches(pod, "status.phase!=Failed")
    assert not matches(pod, "status.phase!=Running")


def _record() -> None:
    def answer(*words: str) -> str:
        return subprocess.run(["kubectl", *words], capture_output=True, text=True, check=True).stdout

    while True:
        objects = {r.plural: json.loads(answer("get", r.plural, "-A", "-o", "json"))["items"] for r in USED}
        said: dict[str, dict[str, str]] = {}
        for r, n in SHOWN:
            begin = datetime.now(UTC)
            printed = answer("describe", r.plural, n)
            moments = [begin + timedelta(milliseconds=100 * i) for i in range(30)]
            now = next((t for t in moments if described(objects, r, n, t) == printed), None)
            if now is None:
                print(f"{r.plural}/{n} has changed meanwhile, or differs", file=sys.stderr)
                break
            said[f"{r.plural}/{n}"] = {"now": now.isoformat(), "text": printed}
        else:
            GOLDEN.write_text(json.dumps({"objects": objects, "kubectl": said}, indent=1, ensure_ascii=False) + "\n")
            return


if __name__ == "__main__":
    _record()
