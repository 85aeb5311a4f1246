"""nsk8s: a whole Kubernetes cluster on one Linux machine, every node a network namespace."""

__version__ = "0.1.0"
