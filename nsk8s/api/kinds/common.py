"""Subresources many kinds have. Pure."""

from __future__ import annotations

from nsk8s.api.scheme import Subresource


def status(kind: str) -> Subresource:
    return Subresource("status", kind, ("get", "patch", "update"))


def scale() -> Subresource:
    return Subresource("scale", "Scale", ("get", "patch", "update"), "autoscaling", "v1")
