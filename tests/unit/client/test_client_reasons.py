"""Why a connection failed, in a few words."""

from __future__ import annotations

import errno
import socket
import ssl
from types import SimpleNamespace

import pytest

from nsk8s.client.http import aiohttp
from nsk8s.client.reasons import reason

KEY = SimpleNamespace(host="127.0.0.1", port=6443, ssl=True, is_ssl=True)


def certificate(message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {message} (_ssl.c:992)")
    error.verify_message = message
    return error


def tls(name: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {name}] something (_ssl.c:992)")
    error.reason = name
    return error


REASONS = [
    (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 6443)"), "connection refused"),
    (aiohttp.ClientConnectorError(KEY, ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed")), "connection refused"),
    (aiohttp.ClientOSError(errno.ECONNRESET, "Connection reset by peer"), "connection reset by peer"),
    (ConnectionResetError("Connection lost"), "connection reset by peer"),
    (aiohttp.ClientConnectionResetError("Cannot write to closing transport"), "connection reset by peer"),
    (BrokenPipeError(), "broken pipe"),
    (OSError(errno.EHOSTUNREACH, ""), "no route to host"),
    (OSError(errno.EMFILE, ""), "too many open files"),
    (aiohttp.ServerDisconnectedError(), "it closed the connection without an answer (EOF)"),
    (aiohttp.ClientPayloadError("not enough data"), "its answer broke off (unexpected EOF)"),
    (aiohttp.ConnectionTimeoutError("Connection timeout to host x"), "no connection in time"),
    (aiohttp.SocketTimeoutError("Timeout on reading data from socket"), "no answer in time"),
    (TimeoutError(), "no answer in time"),
    (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), "connection timed out"),
    (aiohttp.ClientConnectorCertificateError(KEY, certificate("certificate has expired")),
     "tls: failed to verify certificate: certificate has expired"),
    (aiohttp.ClientConnectorSSLError(KEY, tls("WRONG_VERSION_NUMBER")), "tls: wrong version number"),
    (tls("TLSV1_ALERT_UNKNOWN_CA"), "tls: tlsv1 alert unknown ca"),
    (aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(-2, "Name or service not known")), "name or service not known"),
    (aiohttp.ClientResponseError(SimpleNamespace(real_url="x"), (), status=400, message="Bad status line:\n  x"), "malformed HTTP response"),
    (ValueError("something else"), "something else"),
    (ValueError(), "ValueError"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "words"), REASONS, ids=[f"{i}-{type(e).__name__}" for i, (e, _) in enumerate(REASONS)])
def test_in_words(error: Exception, words: str) -> None:
    assert reason(error) == words
