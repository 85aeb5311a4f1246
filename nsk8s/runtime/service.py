"""The runtime's interface: requests on the socket to the verbs. docs/architecture.md has the contract. Touches: the socket.

Upstream: containerd's CRI plugin (internal/cri/server).
"""

from __future__ import annotations

import sys

from nsk8s.runtime import images, wire
from nsk8s.runtime.containers import Containers
from nsk8s.runtime.errors import CriError, Internal, InvalidArgument, Unimplemented, describe
from nsk8s.runtime.node import Node, Request
from nsk8s.runtime.sandboxes import Sandboxes

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    Verb = Callable[[Request, dict[str, Any]], dict[str, Any] | None]

RUNTIME_NAME = "nsk8s"
RUNTIME_VERSION = "0.1.0"


class Service:
    def __init__(self, node: Node) -> None:
        self.node = node
        self.sandboxes = Sandboxes(node, self.sandbox_event)
        self.containers = Containers(node, self.sandboxes)
        self.verbs: dict[str, Verb] = {
            "Version": self.version,
            "Status": self.status,
            "PullImage": lambda r, p: {"imageRef": images.resolve(image_name(p)).ref},
            "ImageStatus": self.image_status,
            "ListImages": self.list_images,
            **self.sandboxes.verbs,
            **self.containers.verbs,
        }
        self.streams = {"Exec": self.containers.exec, "Attach": self.containers.attach}

    def sandbox_event(self, event: dict[str, Any]) -> None:
        self.containers.event(event)

    def accepted(self, peer: socket.socket) -> None:
        wire.Connection(self.node.loop, peer, self.request, self.closed)

    def closed(self, peer: wire.Connection) -> None:
        self.node.listeners = [pair for pair in self.node.listeners if pair[0] is not peer]

    def request(self, peer: wire.Connection, message: dict[str, Any]) -> None:
        """Every request gets exactly one answer; a bug in a verb is an answer too."""
        request = Request(peer, message.get("id"))
        method, params = message.get("method"), message.get("params") or {}
        try:
            if not isinstance(method, str) or not isinstance(params, dict):
                raise InvalidArgument("a request has a method and params")
            if method == "GetContainerEvents":
                self.node.listeners.append((peer, request.id))
            elif method in self.streams:
                self.streams[method](request, params, peer)
            elif method in self.verbs:
                result = self.verbs[method](request, params)
                if result is not None:
                    request.ok(result)
            else:
                raise Unimplemented(f"unknown method {method}")
        except CriError as e:
            request.fail(e)
        except Exception as e:
            import traceback

            sys.stderr.write(traceback.format_exc())
            request.fail(Internal(f"{type(e).__name__}: {describe(e)}"))

    def version(self, _request: Request, _params: dict[str, Any]) -> dict[str, Any]:
        return {
            "version": "0.1.0",
            "runtimeName": RUNTIME_NAME,
            "runtimeVersion": RUNTIME_VERSION,
            "runtimeApiVersion": "v1",
        }

    def status(self, _request: Request, _params: dict[str, Any]) -> dict[str, Any]:
        problem = self.node.network.problem()
        network = {"type": "NetworkReady", "status": not problem, "reason": "", "message": ""}
        if problem:
            network.update(reason="NetworkPluginNotReady", message=f"Network plugin returns error: {problem}")
        ready = {"type": "RuntimeReady", "status": True, "reason": "", "message": ""}
        return {"status": {"conditions": [ready, network]}}

    def image_status(self, _request: Request, params: dict[str, Any]) -> dict[str, Any]:
        """An image that is not there has no `image`, as in CRI; what is missing comes with PullImage."""
        try:
            image = images.resolve(image_name(params))
        except images.ImageError:
            return {"image": None}
        return {"image": describe_image(image)}

    def list_images(self, _request: Request, _params: dict[str, Any]) -> dict[str, Any]:
        return {"images": [describe_image(images.resolve(n)) for n in images.catalogue() if not images.missing(n)]}


def image_name(params: dict[str, Any]) -> str:
    name = (params.get("image") or {}).get("image")
    if not isinstance(name, str) or not name:
        raise InvalidArgument("image reference is empty")
    return name


def describe_image(image: images.Image) -> dict[str, Any]:
    tagged = image.name if ":" in image.name.rpartition("/")[2] or "@" in image.name else image.name + ":latest"
    uid = image.user.partition(":")[0]
    return {
        "id": image.ref,
        "repoTags": [tagged],
        "repoDigests": [],
        "size": 0,
        "uid": {"value": int(uid)} if uid.isdigit() else None,
        "username": "" if uid.isdigit() else uid,
        "spec": {"image": image.name},
    }
