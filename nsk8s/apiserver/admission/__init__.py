"""What stands between a valid request and the store: a chain of small plug-ins, each one file or function.

Upstream: plugin/pkg/admission, apiserver/pkg/admission/plugin.
"""

from __future__ import annotations

from dataclasses import dataclass

from nsk8s.apiserver.admission.ingresses import default_ingress_class
from nsk8s.apiserver.admission.limits import LimitRanger
from nsk8s.apiserver.admission.namespaces import NamespaceLifecycle
from nsk8s.apiserver.admission.nodes import NodeRestriction, taint_new_node
from nsk8s.apiserver.admission.pods import DefaultTolerationSeconds, Priority, default_storage_class
from nsk8s.apiserver.admission.quota import ResourceQuota
from nsk8s.apiserver.admission.serviceaccounts import ServiceAccount
from nsk8s.apiserver.cache import Cache
from nsk8s.apiserver.registry import Admit, Registry


@dataclass(frozen=True)
class Settings:
    not_ready_toleration_s: int = 300
    unreachable_toleration_s: int = 300
    disabled: frozenset[str] = frozenset()
    """Names of plug-ins that are left out."""


PLUGINS = frozenset(
    ("NamespaceLifecycle", "LimitRanger", "ServiceAccount", "TaintNodesByCondition", "Priority", "DefaultTolerationSeconds",
     "DefaultStorageClass", "DefaultIngressClass", "NodeRestriction", "ResourceQuota")
)  # fmt: skip


def install(registry: Registry, cache: Cache, settings: Settings) -> None:
    """The plug-ins in upstream's order: those that change the object, then those that only refuse."""
    lifecycle = NamespaceLifecycle(cache)
    tolerations = DefaultTolerationSeconds(settings.not_ready_toleration_s, settings.unreachable_toleration_s)
    mutating: list[tuple[str, Admit]] = [
        ("NamespaceLifecycle", lifecycle.admit),
        ("LimitRanger", LimitRanger(cache).default),
        ("ServiceAccount", ServiceAccount(cache).admit),
        ("TaintNodesByCondition", taint_new_node),
        ("Priority", Priority(cache).admit),
        ("DefaultTolerationSeconds", tolerations.admit),
        ("DefaultStorageClass", default_storage_class(cache)),
        ("DefaultIngressClass", default_ingress_class(cache)),
    ]
    validating: list[tuple[str, Admit]] = [
        ("NamespaceLifecycle", lifecycle.protect),
        ("LimitRanger", LimitRanger(cache).validate),
        ("NodeRestriction", NodeRestriction(cache).validate),
        ("ResourceQuota", ResourceQuota(cache).admit),
    ]
    registry.mutators += [plugin for name, plugin in mutating if name not in settings.disabled]
    registry.validators += [plugin for name, plugin in validating if name not in settings.disabled]
