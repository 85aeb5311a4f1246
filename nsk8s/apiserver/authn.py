"""Who is calling: client certificate, bearer token, or nobody. Touches: files at start.

Upstream: apiserver/pkg/authentication (x509, tokenfile, serviceaccount, anonymous).
"""

from __future__ import annotations

import csv
import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nsk8s.apiserver.call import ANONYMOUS, User
from nsk8s.apiserver.tokens import ServiceAccountTokens
from nsk8s.errors import Nsk8sError, Unauthorized

AUTHENTICATED = "system:authenticated"


def from_certificate(peer: Mapping[str, Any] | None) -> User | None:
    """The user of a verified client certificate (as `SSLSocket.getpeercert()` shows it): CN is the name, O the groups."""
    if not peer:
        return None
    name, groups = "", []
    for part in peer.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                name = value
            elif key == "organizationName":
                groups.append(value)
    return User(name, (*groups, AUTHENTICATED)) if name else None


def read_token_file(path: Path) -> dict[str, User]:
    """token,user,uid,"group1,group2" a line. Raises Nsk8sError."""
    users: dict[str, User] = {}
    try:
        with path.open(newline="") as f:
            for row in csv.reader(f, skipinitialspace=True):
                if not row or not row[0] or row[0].startswith("#"):
                    continue
                if len(row) < 3:
                    raise Nsk8sError(f"token file {path} needs at least 3 columns (token, user, uid), found {len(row)}")
                groups = tuple(g.strip() for g in row[3].split(",") if g.strip()) if len(row) > 3 else ()
                users[row[0]] = User(row[1], (*groups, AUTHENTICATED), row[2])
    except OSError as e:
        raise Nsk8sError(f"cannot read the token file {path}: {e.strerror}") from e
    return users


class Authenticator:
    def __init__(self, static: Mapping[str, User], accounts: ServiceAccountTokens, *, anonymous: bool) -> None:
        self._static = {token.encode(): user for token, user in static.items()}
        self._accounts = accounts
        self._anonymous = anonymous

    @property
    def audiences(self) -> list[str]:
        """What a token is for if it does not say so."""
        return self._accounts.audiences

    def identify(self, peer: Mapping[str, Any] | None, authorization: str) -> User:
        """The caller. A token that is wrong is refused even where nobody would do. Raises Unauthorized."""
        user = from_certificate(peer)
        if user is not None:
            return user
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() == "bearer" and token:
            user = self.token(token)
            if user is None:
                raise Unauthorized("Unauthorized")
            return user
        return ANONYMOUS

    def token(self, token: str, audiences: list[str] | None = None) -> User | None:
        """The user of a bearer token; None if it is not valid."""
        raw = token.encode()
        for known, user in self._static.items():
            if hmac.compare_digest(known, raw):
                return user
        return self._accounts.verify(token, audiences)

    def admits(self, user: User) -> bool:
        """May this caller get past authentication at all?"""
        return user is not ANONYMOUS or self._anonymous
