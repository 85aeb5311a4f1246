"""The end of an HTTP connection that went over to another protocol; API server and kubelet hand such ones on. Pure."""

from __future__ import annotations

from typing import Any

from aiohttp import web


class TakenOver(web.StreamResponse):
    """The answer of a connection that is not HTTP any more: aiohttp has nothing left to send."""

    def __init__(self) -> None:
        super().__init__(status=101)

    async def prepare(self, request: web.BaseRequest) -> Any:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return
