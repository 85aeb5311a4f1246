"""KubeSchedulerConfiguration: profiles by schedulerName, plugins switched on, off and weighted. Pure but for reading the file.

Upstream: kubescheduler.config.k8s.io/v1. Fields that nsk8s does not act on are refused, never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nsk8s.api import yamldoc
from nsk8s.errors import Nsk8sError
from nsk8s.scheduler.framework import Plugin
from nsk8s.scheduler.plugins import default_plugins

DEFAULT_NAME = "default-scheduler"
_ACCEPTED = frozenset(("apiVersion", "kind", "profiles", "clientConnection", "leaderElection", "parallelism",
                       "percentageOfNodesToScore", "podInitialBackoffSeconds", "podMaxBackoffSeconds"))  # fmt: skip
_NOT_BUILT = frozenset(("ImageLocality", "PrioritySort", "DefaultBinder", "DefaultPreemption", "SchedulingGates",
                        "VolumeBinding", "VolumeZone", "VolumeRestrictions", "NodeVolumeLimits"))  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """A scheduler under one name: the plugins that filter, and those that score."""

    name: str
    filters: tuple[Plugin, ...]
    scores: tuple[Plugin, ...]


def default_profile(name: str = DEFAULT_NAME) -> Profile:
    plugins = tuple(default_plugins())
    return Profile(name, plugins, tuple(p for p in plugins if p.weight))


def load(path: str) -> tuple[dict[str, Profile], dict[str, Any]]:
    """The profiles of a configuration file by name, and the document. Raises Nsk8sError."""
    try:
        document = yamldoc.load(Path(path).read_text())
    except OSError as e:
        raise Nsk8sError(f"cannot read {path}: {e.strerror}") from e
    except yaml.YAMLError as e:
        raise Nsk8sError(f"{path} is not YAML: {e}") from e
    if not isinstance(document, dict) or document.get("kind") != "KubeSchedulerConfiguration":
        raise Nsk8sError(f"{path} is not a KubeSchedulerConfiguration")
    return profiles(document), document


def profiles(document: Mapping[str, Any]) -> dict[str, Profile]:
    """The profiles of a KubeSchedulerConfiguration; raises Nsk8sError for what is not supported."""
    unknown = set(document) - _ACCEPTED
    if unknown:
        raise Nsk8sError(f"KubeSchedulerConfiguration: not supported: {', '.join(sorted(unknown))}")
    found = [_profile(p or {}) for p in document.get("profiles") or [{}]]
    return {p.name: p for p in found}


def _profile(raw: Mapping[str, Any]) -> Profile:
    if raw.get("pluginConfig"):
        raise Nsk8sError("KubeSchedulerConfiguration: pluginConfig is not supported")
    points: Mapping[str, Any] = raw.get("plugins") or {}
    everything = points.get("multiPoint")
    return Profile(
        raw.get("schedulerName") or DEFAULT_NAME,
        _choose(default_plugins(), everything, points.get("filter")),
        tuple(p for p in _choose(default_plugins(), everything, points.get("score")) if p.weight),
    )


def _choose(plugins: list[Plugin], *sets: Mapping[str, Any] | None) -> tuple[Plugin, ...]:
    by_name = {p.name: p for p in plugins}
    active = dict(by_name)
    for chosen in sets:
        for entry in (chosen or {}).get("disabled") or []:
            if entry["name"] == "*":
                active.clear()
            active.pop(entry["name"], None)
        for entry in (chosen or {}).get("enabled") or []:
            plugin = by_name.get(entry["name"])
            if plugin is None:
                if entry["name"] in _NOT_BUILT:
                    continue
                raise Nsk8sError(f"KubeSchedulerConfiguration: no plugin {entry['name']}")
            if entry.get("weight"):
                plugin.weight = int(entry["weight"])
            active[plugin.name] = plugin
    return tuple(active.values())
