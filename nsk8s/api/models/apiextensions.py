"""apiextensions.k8s.io/v1. Numbers as in upstream's generated.proto. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import Bytes, Model, Raw, Time, field, float64, int32, int64
from nsk8s.api.models.meta import ObjectMeta


class CustomResourceDefinitionSpec(Model):
    group: str = field(1, required=True)
    names: CustomResourceDefinitionNames = field(3, required=True)
    scope: str = field(4, required=True)
    versions: list[CustomResourceDefinitionVersion] = field(7, required=True, list_type="atomic")
    conversion: CustomResourceConversion = field(9)
    preserveUnknownFields: bool = field(10)


class CustomResourceConversion(Model):
    strategy: str = field(1, required=True)
    webhook: WebhookConversion = field(2)


class WebhookConversion(Model):
    clientConfig: WebhookClientConfig = field(2)
    conversionReviewVersions: list[str] = field(3, required=True, list_type="atomic")


class WebhookClientConfig(Model):
    url: str | None = field(3)
    service: ServiceReference = field(1)
    caBundle: Bytes = field(2)


class ServiceReference(Model):
    namespace: str = field(1, required=True)
    name: str = field(2, required=True)
    path: str | None = field(3)
    port: int32 | None = field(4)


class CustomResourceDefinitionVersion(Model):
    name: str = field(1, required=True)
    served: bool = field(2, required=True)
    storage: bool = field(3, required=True)
    deprecated: bool = field(7)
    deprecationWarning: str | None = field(8)
    schema: CustomResourceValidation = field(4)
    subresources: CustomResourceSubresources = field(5)
    additionalPrinterColumns: list[CustomResourceColumnDefinition] = field(6, list_type="atomic")
    selectableFields: list[SelectableField] = field(9, list_type="atomic")


class SelectableField(Model):
    jsonPath: str = field(1, required=True)


class CustomResourceColumnDefinition(Model):
    name: str = field(1, required=True)
    type: str = field(2, required=True)
    format: str = field(3)
    description: str = field(4)
    priority: int32 = field(5)
    jsonPath: str = field(6, required=True)


class CustomResourceDefinitionNames(Model):
    plural: str = field(1, required=True)
    singular: str = field(2)
    shortNames: list[str] = field(3, list_type="atomic")
    kind: str = field(4, required=True)
    listKind: str = field(5)
    categories: list[str] = field(6, list_type="atomic")


class CustomResourceDefinitionCondition(Model):
    type: str = field(1, required=True)
    status: str = field(2, required=True)
    lastTransitionTime: Time = field(3)
    reason: str = field(4)
    message: str = field(5)


class CustomResourceDefinitionStatus(Model):
    conditions: list[CustomResourceDefinitionCondition] = field(1, list_type="map", list_keys=("type",))
    acceptedNames: CustomResourceDefinitionNames = field(2)
    storedVersions: list[str] = field(3, list_type="atomic")


class CustomResourceDefinition(Model):
    """Adds a kind of one's own to the API."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: CustomResourceDefinitionSpec = field(2, "What is wanted.", required=True)
    status: CustomResourceDefinitionStatus = field(3, "What is known; written by controllers.")


class CustomResourceValidation(Model):
    openAPIV3Schema: JSONSchemaProps = field(1)


class CustomResourceSubresources(Model):
    status: CustomResourceSubresourceStatus = field(1)
    scale: CustomResourceSubresourceScale = field(2)


class CustomResourceSubresourceScale(Model):
    specReplicasPath: str = field(1, required=True)
    statusReplicasPath: str = field(2, required=True)
    labelSelectorPath: str | None = field(3)


class JSONSchemaProps(Model):
    id: str = field(1)
    schema: str = field(2, name="$schema")
    ref: str | None = field(3, name="$ref")
    description: str = field(4)
    type: str = field(5)
    format: str = field(6)
    title: str = field(7)
    default: Raw = field(8)
    maximum: float64 | None = field(9)
    exclusiveMaximum: bool = field(10)
    minimum: float64 | None = field(11)
    exclusiveMinimum: bool = field(12)
    maxLength: int64 | None = field(13)
    minLength: int64 | None = field(14)
    pattern: str = field(15)
    maxItems: int64 | None = field(16)
    minItems: int64 | None = field(17)
    uniqueItems: bool = field(18)
    multipleOf: float64 | None = field(19)
    enum: list[Raw] = field(20, list_type="atomic")
    maxProperties: int64 | None = field(21)
    minProperties: int64 | None = field(22)
    required: list[str] = field(23, list_type="atomic")
    items: Raw = field(24)
    allOf: list[JSONSchemaProps] = field(25, list_type="atomic")
    oneOf: list[JSONSchemaProps] = field(26, list_type="atomic")
    anyOf: list[JSONSchemaProps] = field(27, list_type="atomic")
    not_: JSONSchemaProps = field(28, name="not")
    properties: dict[str, JSONSchemaProps] = field(29)
    additionalProperties: Raw = field(30)
    patternProperties: dict[str, JSONSchemaProps] = field(31)
    dependencies: dict[str, Raw] = field(32)
    additionalItems: Raw = field(33)
    definitions: dict[str, JSONSchemaProps] = field(34)
    externalDocs: ExternalDocumentation = field(35)
    example: Raw = field(36)
    nullable: bool = field(37)
    x_kubernetes_preserve_unknown_fields: bool | None = field(38, name="x-kubernetes-preserve-unknown-fields")
    x_kubernetes_embedded_resource: bool = field(39, name="x-kubernetes-embedded-resource")
    x_kubernetes_int_or_string: bool = field(40, name="x-kubernetes-int-or-string")
    x_kubernetes_list_map_keys: list[str] = field(41, list_type="atomic", name="x-kubernetes-list-map-keys")
    x_kubernetes_list_type: str | None = field(42, name="x-kubernetes-list-type")
    x_kubernetes_map_type: str | None = field(43, name="x-kubernetes-map-type")
    x_kubernetes_validations: list[ValidationRule] = field(
        44, merge_key="rule", list_type="map", list_keys=("rule",), name="x-kubernetes-validations"
    )


class ValidationRule(Model):
    rule: str = field(1, required=True)
    message: str = field(2)
    messageExpression: str = field(3)
    reason: str | None = field(4)
    fieldPath: str = field(5)
    optionalOldSelf: bool | None = field(6)


class ExternalDocumentation(Model):
    description: str = field(1)
    url: str = field(2)


class CustomResourceSubresourceStatus(Model):
    pass
