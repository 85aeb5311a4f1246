"""The version of Kubernetes whose behaviour this is, and our own. Pure."""

KUBERNETES_VERSION = "v1.33.0"
NSK8S_VERSION = "0.1.0"
