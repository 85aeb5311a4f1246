"""storage.k8s.io/v1. Numbers as in upstream's generated.proto. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import Model, field
from nsk8s.api.models.core_reference import TopologySelectorTerm
from nsk8s.api.models.meta import ObjectMeta

PERSISTENT_VOLUME_RECLAIM_POLICY = ("Recycle", "Delete", "Retain")
VOLUME_BINDING_MODE = ("Immediate", "WaitForFirstConsumer")


class StorageClass(Model):
    """A kind of storage that claims can ask for."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    provisioner: str = field(2, required=True)
    parameters: dict[str, str] = field(3)
    reclaimPolicy: str | None = field(4, enum=PERSISTENT_VOLUME_RECLAIM_POLICY)
    mountOptions: list[str] = field(5, list_type="atomic")
    allowVolumeExpansion: bool | None = field(6)
    volumeBindingMode: str | None = field(7, enum=VOLUME_BINDING_MODE)
    allowedTopologies: list[TopologySelectorTerm] = field(8, list_type="atomic")
