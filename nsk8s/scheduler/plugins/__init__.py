"""The scheduler's plugins, one file each as upstream, and the default profile. Pure.

Not built: ImageLocality (images are made from /usr, so every node has every image) and the volume plugins.
"""

from __future__ import annotations

from nsk8s.scheduler.framework import Plugin
from nsk8s.scheduler.plugins.interpodaffinity import InterPodAffinity
from nsk8s.scheduler.plugins.nodeaffinity import NodeAffinity
from nsk8s.scheduler.plugins.nodename import NodeName
from nsk8s.scheduler.plugins.nodeports import NodePorts
from nsk8s.scheduler.plugins.noderesources import NodeResourcesBalancedAllocation, NodeResourcesFit
from nsk8s.scheduler.plugins.nodeunschedulable import NodeUnschedulable
from nsk8s.scheduler.plugins.podtopologyspread import PodTopologySpread
from nsk8s.scheduler.plugins.tainttoleration import TaintToleration


def default_plugins() -> list[Plugin]:
    """In upstream's order: the first that rejects a node names the reason."""
    return [
        NodeUnschedulable(), NodeName(), TaintToleration(), NodeAffinity(), NodePorts(), NodeResourcesFit(),
        PodTopologySpread(), InterPodAffinity(), NodeResourcesBalancedAllocation(),
    ]  # fmt: skip
