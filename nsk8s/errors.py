"""The errors that cross module borders. Pure.

`StatusError` and its children are Kubernetes' API errors: the server raises them, the REST layer turns them into a
`metav1.Status` body, and the client raises the same class again on the other side.  Upstream: apimachinery/pkg/api/errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Nsk8sError(Exception):
    """An error a user can act on: one line that says what is wrong, `remedy` says what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class StatusError(Nsk8sError):
    """A failed API call: HTTP `code`, machine-readable `reason`, human `message`, optional `details` (a StatusDetails)."""

    code = 500
    reason = "InternalError"

    def __init__(self, message: str, *, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details: dict[str, Any] = dict(details or {})

    def status(self) -> dict[str, Any]:
        """The `metav1.Status` object that goes over the wire."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if not self.reason:
            del body["reason"]
        if self.details:
            body["details"] = self.details
        return body


class BadRequest(StatusError):
    code, reason = 400, "BadRequest"


class Unauthorized(StatusError):
    code, reason = 401, "Unauthorized"


class Forbidden(StatusError):
    code, reason = 403, "Forbidden"


class NotFound(StatusError):
    code, reason = 404, "NotFound"


class MethodNotAllowed(StatusError):
    code, reason = 405, "MethodNotAllowed"


class NotAcceptable(StatusError):
    code, reason = 406, "NotAcceptable"


class AlreadyExists(StatusError):
    code, reason = 409, "AlreadyExists"


class Conflict(StatusError):
    code, reason = 409, "Conflict"


class Gone(StatusError):
    """The resourceVersion asked for is older than what is kept; list again."""

    code, reason = 410, "Expired"


class RequestEntityTooLarge(StatusError):
    code, reason = 413, "RequestEntityTooLarge"


class UnsupportedMediaType(StatusError):
    code, reason = 415, "UnsupportedMediaType"


class Invalid(StatusError):
    code, reason = 422, "Invalid"


class TooManyRequests(StatusError):
    code, reason = 429, "TooManyRequests"


class InternalError(StatusError):
    code, reason = 500, "InternalError"


class Failed(StatusError):
    """A failure without a reason, as a Go error becomes that is no Status: `Error from server: …` in kubectl."""

    code, reason = 500, ""


class ServiceUnavailable(StatusError):
    code, reason = 503, "ServiceUnavailable"


class GatewayTimeout(StatusError):
    code, reason = 504, "Timeout"


_CLASSES: Sequence[type[StatusError]] = (
    BadRequest, Unauthorized, Forbidden, NotFound, MethodNotAllowed, NotAcceptable, AlreadyExists, Conflict, Gone,
    RequestEntityTooLarge, UnsupportedMediaType, Invalid, TooManyRequests, InternalError, ServiceUnavailable,
    GatewayTimeout,
)  # fmt: skip


def from_status(body: Mapping[str, Any], http_code: int) -> StatusError:
    """The error class that a `metav1.Status` body (or, failing that, the HTTP code) stands for."""
    reason = str(body.get("reason") or "")
    code = int(body.get("code") or http_code)
    message = str(body.get("message") or f"the server answered {http_code}")
    cls = next((c for c in _CLASSES if c.reason == reason), None) or next(
        (c for c in _CLASSES if c.code == code), StatusError
    )
    error = cls(message, details=body.get("details"))
    error.code = code
    error.reason = reason if reason or body.get("kind") == "Status" else cls.reason
    return error
