"""Why a connection failed, in the words that Kubernetes' own programs use. Pure. Upstream: Go's net, crypto/tls and net/http."""

from __future__ import annotations

import errno
import os
import ssl

from nsk8s.client.http import aiohttp

_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset by peer",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network is unreachable",
    errno.ETIMEDOUT: "connection timed out",
    errno.EPIPE: "broken pipe",
}


def reason(error: BaseException) -> str:
    """A few words, never empty: what the kernel, TLS or HTTP said, and not how the HTTP library puts it."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "no connection in time"
    if isinstance(error, TimeoutError) and error.errno is None:
        return "no answer in time"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection without an answer (EOF)"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "its answer broke off (unexpected EOF)"
    if isinstance(error, aiohttp.ClientResponseError):
        return "malformed HTTP response"
    certificate = getattr(error, "certificate_error", None) or error
    if isinstance(certificate, ssl.SSLCertVerificationError):
        return f"tls: failed to verify certificate: {certificate.verify_message}"
    if isinstance(error, aiohttp.ClientConnectorError):
        return reason(error.os_error)
    if isinstance(error, ssl.SSLError):
        return f"tls: {(error.reason or str(error)).lower().replace('_', ' ')}"
    if isinstance(error, OSError):
        number = error.errno or _number(error)
        if number and number > 0:
            return _WORDS.get(number) or os.strerror(number).lower()
        if error.strerror:  # of a name: no such host
            return error.strerror.lower()
    return str(error) or type(error).__name__


def _number(error: OSError) -> int | None:
    """The errno of an error that was raised without one: asyncio says `Connection lost` so."""
    kinds = {ConnectionResetError: errno.ECONNRESET, BrokenPipeError: errno.EPIPE, ConnectionRefusedError: errno.ECONNREFUSED}
    return next((number for kind, number in kinds.items() if isinstance(error, kind)), None)
