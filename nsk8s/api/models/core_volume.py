"""The core group: volumes, claims and what they come from. Numbers as in upstream's generated.proto. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import Model, Quantity, Time, field, int32, int64
from nsk8s.api.models.core_reference import (
    LocalObjectReference,
    NodeSelector,
    ObjectFieldSelector,
    ObjectReference,
    ResourceFieldSelector,
    SecretReference,
    TypedLocalObjectReference,
    TypedObjectReference,
    VolumeResourceRequirements,
)
from nsk8s.api.models.meta import LabelSelector, ObjectMeta

PERSISTENT_VOLUME_ACCESS_MODE = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")
PERSISTENT_VOLUME_RECLAIM_POLICY = ("Recycle", "Delete", "Retain")
PERSISTENT_VOLUME_MODE = ("Block", "Filesystem")
PERSISTENT_VOLUME_PHASE = ("Pending", "Available", "Bound", "Released", "Failed")
PERSISTENT_VOLUME_CLAIM_MODIFY_VOLUME_STATUS = ("Pending", "InProgress", "Infeasible")
PERSISTENT_VOLUME_CLAIM_PHASE = ("Pending", "Bound", "Lost")
HOST_PATH_TYPE = ("", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice")
AZURE_DATA_DISK_CACHING_MODE = ("None", "ReadOnly", "ReadWrite")
AZURE_DATA_DISK_KIND = ("Shared", "Dedicated", "Managed")
PULL_POLICY = ("Always", "Never", "IfNotPresent")


class Volume(Model):
    """Something that containers of the pod can mount."""

    name: str = field(1, required=True)
    volumeSource: VolumeSource = field(2, inline=True)


class VolumeSource(Model):
    hostPath: HostPathVolumeSource = field(1)
    emptyDir: EmptyDirVolumeSource = field(2)
    gcePersistentDisk: GCEPersistentDiskVolumeSource = field(3)
    awsElasticBlockStore: AWSElasticBlockStoreVolumeSource = field(4)
    gitRepo: GitRepoVolumeSource = field(5)
    secret: SecretVolumeSource = field(6)
    nfs: NFSVolumeSource = field(7)
    iscsi: ISCSIVolumeSource = field(8)
    glusterfs: GlusterfsVolumeSource = field(9)
    persistentVolumeClaim: PersistentVolumeClaimVolumeSource = field(10)
    rbd: RBDVolumeSource = field(11)
    flexVolume: FlexVolumeSource = field(12)
    cinder: CinderVolumeSource = field(13)
    cephfs: CephFSVolumeSource = field(14)
    flocker: FlockerVolumeSource = field(15)
    downwardAPI: DownwardAPIVolumeSource = field(16)
    fc: FCVolumeSource = field(17)
    azureFile: AzureFileVolumeSource = field(18)
    configMap: ConfigMapVolumeSource = field(19)
    vsphereVolume: VsphereVirtualDiskVolumeSource = field(20)
    quobyte: QuobyteVolumeSource = field(21)
    azureDisk: AzureDiskVolumeSource = field(22)
    photonPersistentDisk: PhotonPersistentDiskVolumeSource = field(23)
    projected: ProjectedVolumeSource = field(26)
    portworxVolume: PortworxVolumeSource = field(24)
    scaleIO: ScaleIOVolumeSource = field(25)
    storageos: StorageOSVolumeSource = field(27)
    csi: CSIVolumeSource = field(28)
    ephemeral: EphemeralVolumeSource = field(29)
    image: ImageVolumeSource = field(30)


class PersistentVolumeClaimVolumeSource(Model):
    claimName: str = field(1, required=True)
    readOnly: bool = field(2)


class PersistentVolumeSource(Model):
    gcePersistentDisk: GCEPersistentDiskVolumeSource = field(1)
    awsElasticBlockStore: AWSElasticBlockStoreVolumeSource = field(2)
    hostPath: HostPathVolumeSource = field(3)
    glusterfs: GlusterfsPersistentVolumeSource = field(4)
    nfs: NFSVolumeSource = field(5)
    rbd: RBDPersistentVolumeSource = field(6)
    iscsi: ISCSIPersistentVolumeSource = field(7)
    cinder: CinderPersistentVolumeSource = field(8)
    cephfs: CephFSPersistentVolumeSource = field(9)
    fc: FCVolumeSource = field(10)
    flocker: FlockerVolumeSource = field(11)
    flexVolume: FlexPersistentVolumeSource = field(12)
    azureFile: AzureFilePersistentVolumeSource = field(13)
    vsphereVolume: VsphereVirtualDiskVolumeSource = field(14)
    quobyte: QuobyteVolumeSource = field(15)
    azureDisk: AzureDiskVolumeSource = field(16)
    photonPersistentDisk: PhotonPersistentDiskVolumeSource = field(17)
    portworxVolume: PortworxVolumeSource = field(18)
    scaleIO: ScaleIOPersistentVolumeSource = field(19)
    local: LocalVolumeSource = field(20)
    storageos: StorageOSPersistentVolumeSource = field(21)
    csi: CSIPersistentVolumeSource = field(22)


class PersistentVolume(Model):
    """A piece of storage in the cluster."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: PersistentVolumeSpec = field(2, "What is wanted.")
    status: PersistentVolumeStatus = field(3, "What is known; written by controllers.")


class PersistentVolumeSpec(Model):
    capacity: dict[str, Quantity] = field(1)
    persistentVolumeSource: PersistentVolumeSource = field(2, inline=True)
    accessModes: list[str] = field(3, list_type="atomic", enum=PERSISTENT_VOLUME_ACCESS_MODE)
    claimRef: ObjectReference = field(4)
    persistentVolumeReclaimPolicy: str = field(5, enum=PERSISTENT_VOLUME_RECLAIM_POLICY)
    storageClassName: str = field(6)
    mountOptions: list[str] = field(7, list_type="atomic")
    volumeMode: str | None = field(8, enum=PERSISTENT_VOLUME_MODE)
    nodeAffinity: VolumeNodeAffinity = field(9)
    volumeAttributesClassName: str | None = field(10)


class VolumeNodeAffinity(Model):
    required: NodeSelector = field(1)


class PersistentVolumeStatus(Model):
    phase: str = field(1, enum=PERSISTENT_VOLUME_PHASE)
    message: str = field(2)
    reason: str = field(3)
    lastPhaseTransitionTime: Time = field(4)


class PersistentVolumeClaim(Model):
    """A request for storage, and the volume that answers it."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: PersistentVolumeClaimSpec = field(2, "What is wanted.")
    status: PersistentVolumeClaimStatus = field(3, "What is known; written by controllers.")


class PersistentVolumeClaimSpec(Model):
    accessModes: list[str] = field(1, list_type="atomic", enum=PERSISTENT_VOLUME_ACCESS_MODE)
    selector: LabelSelector = field(4)
    resources: VolumeResourceRequirements = field(2)
    volumeName: str = field(3)
    storageClassName: str | None = field(5)
    volumeMode: str | None = field(6, enum=PERSISTENT_VOLUME_MODE)
    dataSource: TypedLocalObjectReference = field(7)
    dataSourceRef: TypedObjectReference = field(8)
    volumeAttributesClassName: str | None = field(9)


class ModifyVolumeStatus(Model):
    targetVolumeAttributesClassName: str = field(1)
    status: str = field(2, required=True, enum=PERSISTENT_VOLUME_CLAIM_MODIFY_VOLUME_STATUS)


class PersistentVolumeClaimCondition(Model):
    type: str = field(1, required=True)
    status: str = field(2, required=True)
    lastProbeTime: Time = field(3)
    lastTransitionTime: Time = field(4)
    reason: str = field(5)
    message: str = field(6)


class PersistentVolumeClaimStatus(Model):
    phase: str = field(1, enum=PERSISTENT_VOLUME_CLAIM_PHASE)
    accessModes: list[str] = field(2, list_type="atomic", enum=PERSISTENT_VOLUME_ACCESS_MODE)
    capacity: dict[str, Quantity] = field(3)
    conditions: list[PersistentVolumeClaimCondition] = field(4, merge_key="type", list_type="map", list_keys=("type",))
    allocatedResources: dict[str, Quantity] = field(5)
    allocatedResourceStatuses: dict[str, str] = field(7)
    currentVolumeAttributesClassName: str | None = field(8)
    modifyVolumeStatus: ModifyVolumeStatus = field(9)


class HostPathVolumeSource(Model):
    path: str = field(1, required=True)
    type: str | None = field(2, enum=HOST_PATH_TYPE)


class EmptyDirVolumeSource(Model):
    medium: str = field(1)
    sizeLimit: Quantity = field(2)


class GlusterfsVolumeSource(Model):
    endpoints: str = field(1, required=True)
    path: str = field(2, required=True)
    readOnly: bool = field(3)


class GlusterfsPersistentVolumeSource(Model):
    endpoints: str = field(1, required=True)
    path: str = field(2, required=True)
    readOnly: bool = field(3)
    endpointsNamespace: str | None = field(4)


class RBDVolumeSource(Model):
    monitors: list[str] = field(1, required=True, list_type="atomic")
    image: str = field(2, required=True)
    fsType: str = field(3)
    pool: str = field(4, default="rbd")
    user: str = field(5, default="admin")
    keyring: str = field(6, default="/etc/ceph/keyring")
    secretRef: LocalObjectReference = field(7)
    readOnly: bool = field(8)


class RBDPersistentVolumeSource(Model):
    monitors: list[str] = field(1, required=True, list_type="atomic")
    image: str = field(2, required=True)
    fsType: str = field(3)
    pool: str = field(4, default="rbd")
    user: str = field(5, default="admin")
    keyring: str = field(6, default="/etc/ceph/keyring")
    secretRef: SecretReference = field(7)
    readOnly: bool = field(8)


class CinderVolumeSource(Model):
    volumeID: str = field(1, required=True)
    fsType: str = field(2)
    readOnly: bool = field(3)
    secretRef: LocalObjectReference = field(4)


class CinderPersistentVolumeSource(Model):
    volumeID: str = field(1, required=True)
    fsType: str = field(2)
    readOnly: bool = field(3)
    secretRef: SecretReference = field(4)


class CephFSVolumeSource(Model):
    monitors: list[str] = field(1, required=True, list_type="atomic")
    path: str = field(2)
    user: str = field(3)
    secretFile: str = field(4)
    secretRef: LocalObjectReference = field(5)
    readOnly: bool = field(6)


class CephFSPersistentVolumeSource(Model):
    monitors: list[str] = field(1, required=True, list_type="atomic")
    path: str = field(2)
    user: str = field(3)
    secretFile: str = field(4)
    secretRef: SecretReference = field(5)
    readOnly: bool = field(6)


class FlockerVolumeSource(Model):
    datasetName: str = field(1)
    datasetUUID: str = field(2)


class GCEPersistentDiskVolumeSource(Model):
    pdName: str = field(1, required=True)
    fsType: str = field(2)
    partition: int32 = field(3)
    readOnly: bool = field(4)


class QuobyteVolumeSource(Model):
    registry: str = field(1, required=True)
    volume: str = field(2, required=True)
    readOnly: bool = field(3)
    user: str = field(4)
    group: str = field(5)
    tenant: str = field(6)


class FlexPersistentVolumeSource(Model):
    driver: str = field(1, required=True)
    fsType: str = field(2)
    secretRef: SecretReference = field(3)
    readOnly: bool = field(4)
    options: dict[str, str] = field(5)


class FlexVolumeSource(Model):
    driver: str = field(1, required=True)
    fsType: str = field(2)
    secretRef: LocalObjectReference = field(3)
    readOnly: bool = field(4)
    options: dict[str, str] = field(5)


class AWSElasticBlockStoreVolumeSource(Model):
    volumeID: str = field(1, required=True)
    fsType: str = field(2)
    partition: int32 = field(3)
    readOnly: bool = field(4)


class GitRepoVolumeSource(Model):
    repository: str = field(1, required=True)
    revision: str = field(2)
    directory: str = field(3)


class SecretVolumeSource(Model):
    secretName: str = field(1)
    items: list[KeyToPath] = field(2, list_type="atomic")
    defaultMode: int32 | None = field(3)
    optional: bool | None = field(4)


class SecretProjection(Model):
    localObjectReference: LocalObjectReference = field(1, inline=True)
    items: list[KeyToPath] = field(2, list_type="atomic")
    optional: bool | None = field(4)


class NFSVolumeSource(Model):
    server: str = field(1, required=True)
    path: str = field(2, required=True)
    readOnly: bool = field(3)


class ISCSIVolumeSource(Model):
    targetPortal: str = field(1, required=True)
    iqn: str = field(2, required=True)
    lun: int32 = field(3, required=True)
    iscsiInterface: str = field(4, default="default")
    fsType: str = field(5)
    readOnly: bool = field(6)
    portals: list[str] = field(7, list_type="atomic")
    chapAuthDiscovery: bool = field(8)
    chapAuthSession: bool = field(11)
    secretRef: LocalObjectReference = field(10)
    initiatorName: str | None = field(12)


class ISCSIPersistentVolumeSource(Model):
    targetPortal: str = field(1, required=True)
    iqn: str = field(2, required=True)
    lun: int32 = field(3, required=True)
    iscsiInterface: str = field(4, default="default")
    fsType: str = field(5)
    readOnly: bool = field(6)
    portals: list[str] = field(7, list_type="atomic")
    chapAuthDiscovery: bool = field(8)
    chapAuthSession: bool = field(11)
    secretRef: SecretReference = field(10)
    initiatorName: str | None = field(12)


class FCVolumeSource(Model):
    targetWWNs: list[str] = field(1, list_type="atomic")
    lun: int32 | None = field(2)
    fsType: str = field(3)
    readOnly: bool = field(4)
    wwids: list[str] = field(5, list_type="atomic")


class AzureFileVolumeSource(Model):
    secretName: str = field(1, required=True)
    shareName: str = field(2, required=True)
    readOnly: bool = field(3)


class AzureFilePersistentVolumeSource(Model):
    secretName: str = field(1, required=True)
    shareName: str = field(2, required=True)
    readOnly: bool = field(3)
    secretNamespace: str | None = field(4)


class VsphereVirtualDiskVolumeSource(Model):
    volumePath: str = field(1, required=True)
    fsType: str = field(2)
    storagePolicyName: str = field(3)
    storagePolicyID: str = field(4)


class PhotonPersistentDiskVolumeSource(Model):
    pdID: str = field(1, required=True)
    fsType: str = field(2)


class AzureDiskVolumeSource(Model):
    diskName: str = field(1, required=True)
    diskURI: str = field(2, required=True)
    cachingMode: str | None = field(3, enum=AZURE_DATA_DISK_CACHING_MODE)
    fsType: str | None = field(4, default="ext4")
    readOnly: bool | None = field(5, default=False)
    kind: str | None = field(6, enum=AZURE_DATA_DISK_KIND)


class PortworxVolumeSource(Model):
    volumeID: str = field(1, required=True)
    fsType: str = field(2)
    readOnly: bool = field(3)


class ScaleIOVolumeSource(Model):
    gateway: str = field(1, required=True)
    system: str = field(2, required=True)
    secretRef: LocalObjectReference = field(3, required=True)
    sslEnabled: bool = field(4)
    protectionDomain: str = field(5)
    storagePool: str = field(6)
    storageMode: str = field(7, default="ThinProvisioned")
    volumeName: str = field(8)
    fsType: str = field(9, default="xfs")
    readOnly: bool = field(10)


class ScaleIOPersistentVolumeSource(Model):
    gateway: str = field(1, required=True)
    system: str = field(2, required=True)
    secretRef: SecretReference = field(3, required=True)
    sslEnabled: bool = field(4)
    protectionDomain: str = field(5)
    storagePool: str = field(6)
    storageMode: str = field(7, default="ThinProvisioned")
    volumeName: str = field(8)
    fsType: str = field(9, default="xfs")
    readOnly: bool = field(10)


class StorageOSVolumeSource(Model):
    volumeName: str = field(1)
    volumeNamespace: str = field(2)
    fsType: str = field(3)
    readOnly: bool = field(4)
    secretRef: LocalObjectReference = field(5)


class StorageOSPersistentVolumeSource(Model):
    volumeName: str = field(1)
    volumeNamespace: str = field(2)
    fsType: str = field(3)
    readOnly: bool = field(4)
    secretRef: ObjectReference = field(5)


class ConfigMapVolumeSource(Model):
    localObjectReference: LocalObjectReference = field(1, inline=True)
    items: list[KeyToPath] = field(2, list_type="atomic")
    defaultMode: int32 | None = field(3)
    optional: bool | None = field(4)


class ConfigMapProjection(Model):
    localObjectReference: LocalObjectReference = field(1, inline=True)
    items: list[KeyToPath] = field(2, list_type="atomic")
    optional: bool | None = field(4)


class ServiceAccountTokenProjection(Model):
    audience: str = field(1)
    expirationSeconds: int64 | None = field(2)
    path: str = field(3, required=True)


class ClusterTrustBundleProjection(Model):
    name: str | None = field(1)
    signerName: str | None = field(2)
    labelSelector: LabelSelector = field(3)
    optional: bool | None = field(5)
    path: str = field(4, required=True)


class ProjectedVolumeSource(Model):
    sources: list[VolumeProjection] = field(1, list_type="atomic")
    defaultMode: int32 | None = field(2)


class VolumeProjection(Model):
    secret: SecretProjection = field(1)
    downwardAPI: DownwardAPIProjection = field(2)
    configMap: ConfigMapProjection = field(3)
    serviceAccountToken: ServiceAccountTokenProjection = field(4)
    clusterTrustBundle: ClusterTrustBundleProjection = field(5)


class KeyToPath(Model):
    key: str = field(1, required=True)
    path: str = field(2, required=True)
    mode: int32 | None = field(3)


class LocalVolumeSource(Model):
    path: str = field(1, required=True)
    fsType: str | None = field(2)


class CSIPersistentVolumeSource(Model):
    driver: str = field(1, required=True)
    volumeHandle: str = field(2, required=True)
    readOnly: bool = field(3)
    fsType: str = field(4)
    volumeAttributes: dict[str, str] = field(5)
    controllerPublishSecretRef: SecretReference = field(6)
    nodeStageSecretRef: SecretReference = field(7)
    nodePublishSecretRef: SecretReference = field(8)
    controllerExpandSecretRef: SecretReference = field(9)
    nodeExpandSecretRef: SecretReference = field(10)


class CSIVolumeSource(Model):
    driver: str = field(1, required=True)
    readOnly: bool | None = field(2)
    fsType: str | None = field(3)
    volumeAttributes: dict[str, str] = field(4)
    nodePublishSecretRef: LocalObjectReference = field(5)


class EphemeralVolumeSource(Model):
    volumeClaimTemplate: PersistentVolumeClaimTemplate = field(1)


class PersistentVolumeClaimTemplate(Model):
    metadata: ObjectMeta = field(1)
    spec: PersistentVolumeClaimSpec = field(2, required=True)


class DownwardAPIVolumeSource(Model):
    items: list[DownwardAPIVolumeFile] = field(1, list_type="atomic")
    defaultMode: int32 | None = field(2)


class DownwardAPIVolumeFile(Model):
    path: str = field(1, required=True)
    fieldRef: ObjectFieldSelector = field(2)
    resourceFieldRef: ResourceFieldSelector = field(3)
    mode: int32 | None = field(4)


class DownwardAPIProjection(Model):
    items: list[DownwardAPIVolumeFile] = field(1, list_type="atomic")


class ImageVolumeSource(Model):
    reference: str = field(1)
    pullPolicy: str = field(2, enum=PULL_POLICY)
