"""Errors that cross the runtime's socket: gRPC's code names and a message. Pure. Upstream: google.golang.org/grpc/codes."""

from __future__ import annotations


class CriError(Exception):
    """An answer `{"error": {"code": code, "message": message}}`."""

    code = "Unknown"

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.message = message
        if code:
            self.code = code

    def body(self) -> dict[str, str]:
        return {"code": self.code, "message": self.message}


class NotFound(CriError):
    code = "NotFound"


class InvalidArgument(CriError):
    code = "InvalidArgument"


class AlreadyExists(CriError):
    code = "AlreadyExists"


class FailedPrecondition(CriError):
    code = "FailedPrecondition"


class Unavailable(CriError):
    code = "Unavailable"


class DeadlineExceeded(CriError):
    code = "DeadlineExceeded"


class Unimplemented(CriError):
    code = "Unimplemented"


class Internal(CriError):
    code = "Internal"


def describe(error: BaseException) -> str:
    """An exception as a user should read it: OSErrors without Python's decoration."""
    if isinstance(error, OSError) and error.strerror:
        names = ": ".join(str(n) for n in (error.filename, error.filename2) if n)
        return f"{names}: {error.strerror.lower()}" if names else error.strerror.lower()
    return str(error) or type(error).__name__
