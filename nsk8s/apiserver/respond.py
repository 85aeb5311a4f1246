"""Answers: JSON bodies, Status failures, Warning headers. Pure. Upstream: apiserver/pkg/endpoints/handlers/responsewriters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
from aiohttp import web

from nsk8s.errors import StatusError

_JSON = "application/json"


def json_response(body: Any, code: int = 200, warnings: Iterable[str] = (), content_type: str = _JSON) -> web.Response:
    headers: list[tuple[str, str]] = [("Content-Type", content_type), ("Cache-Control", "no-cache, private")]
    headers += [("Warning", f'299 - "{_quotable(w)}"') for w in warnings]
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return web.Response(body=raw, status=code, headers=headers)


def text_response(text: str, code: int = 200) -> web.Response:
    headers = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
    return web.Response(body=text.encode(), status=code, headers=headers)


def failure(error: StatusError, warnings: Iterable[str] = ()) -> web.Response:
    response = json_response(error.status(), error.code, warnings)
    retry = error.details.get("retryAfterSeconds")
    if retry:
        response.headers["Retry-After"] = str(retry)
    if error.code == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def success(details: dict[str, Any]) -> dict[str, Any]:
    """The Status of a delete that is done."""
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _quotable(text: str) -> str:
    clean = "".join(c if c.isprintable() else " " for c in text)
    return clean.replace("\\", "\\\\").replace('"', '\\"').encode("ascii", "backslashreplace").decode()[:4096]
