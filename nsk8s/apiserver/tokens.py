"""Service account tokens: JWTs we sign, bound to accounts (and pods, nodes, secrets) that must still exist. Touches: clock.

ES256 or RS256 after the key. A token that verified is remembered until it ends; whether what it is bound to still exists is
asked every time. Upstream: pkg/serviceaccount (jwt.go, claims.go).
"""

from __future__ import annotations

import base64
import binascii
import time
import uuid
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from nsk8s.api.meta import Object
from nsk8s.apiserver.call import User
from nsk8s.errors import Nsk8sError

Lookup = Callable[[str, str, str], Object | None]
"""(group resource, namespace, name) → object."""

MIN_EXPIRATION_S = 600
DEFAULT_EXPIRATION_S = 3600
MAX_EXPIRATION_S = 2**32
BOUND_EXTENSION_S = 3607
"""A token asked for with exactly this life is the kubelet's for a projected volume."""
_EXTRA = "authentication.kubernetes.io/"


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def account_user(namespace: str, name: str, uid: str, extra: dict[str, list[str]] | None = None) -> User:
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    return User(f"system:serviceaccount:{namespace}:{name}", groups, uid, extra or {})


class ServiceAccountTokens:
    """`signing_key` is a private key in PEM; `verify_keys` are public (or private) keys whose tokens are accepted too."""

    def __init__(self, issuer: str, signing_key: str, verify_keys: Sequence[str], lookup: Lookup) -> None:
        self.issuer = issuer
        self.audiences = [issuer]
        self._lookup = lookup
        self._keys: dict[str, ec.EllipticCurvePublicKey | rsa.RSAPublicKey] = {}
        self._verified: dict[str, dict[str, Any]] = {}
        try:
            private = serialization.load_pem_private_key(signing_key.encode(), password=None)
            for pem in (signing_key, *verify_keys):
                key = (
                    serialization.load_pem_private_key(pem.encode(), password=None).public_key()
                    if "PRIVATE" in pem
                    else serialization.load_pem_public_key(pem.encode())
                )
                if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
                    raise Nsk8sError("service account keys must be RSA or ECDSA keys")
                self._keys[_key_id(key)] = key
        except ValueError as e:
            raise Nsk8sError(f"cannot read the service account key: {e}") from e
        if not isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise Nsk8sError("service account keys must be RSA or ECDSA keys")
        self._private = private
        self._key_id = _key_id(private.public_key())

    def issue(
        self, account: Object, audiences: Sequence[str], expiration_s: int, bound: tuple[str, Object] | None = None
    ) -> tuple[str, int]:
        """(token, expiry in seconds since the epoch); `bound` is (kind, object) of a Pod, Secret or Node."""
        now = int(time.time())
        metadata = account["metadata"]
        private: dict[str, Any] = {
            "namespace": metadata["namespace"],
            "serviceaccount": {"name": metadata["name"], "uid": metadata["uid"]},
        }
        if bound:
            kind, obj = bound
            private[kind.lower()] = {"name": obj["metadata"]["name"], "uid": obj["metadata"]["uid"]}
            node = kind == "Pod" and self._lookup("nodes", "", (obj.get("spec") or {}).get("nodeName") or "")
            if node:
                private["node"] = {"name": node["metadata"]["name"], "uid": node["metadata"]["uid"]}
        claims = {
            "aud": list(audiences) or self.audiences,
            "exp": now + expiration_s,
            "iat": now,
            "iss": self.issuer,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": private,
            "nbf": now,
            "sub": f"system:serviceaccount:{metadata['namespace']}:{metadata['name']}",
        }
        return self._sign(claims), now + expiration_s

    def _sign(self, claims: dict[str, Any]) -> str:
        is_ec = isinstance(self._private, ec.EllipticCurvePrivateKey)
        header = {"alg": "ES256" if is_ec else "RS256", "kid": self._key_id}
        signed = f"{_b64(orjson.dumps(header))}.{_b64(orjson.dumps(claims))}"
        if isinstance(self._private, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(self._private.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
            signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        else:
            signature = self._private.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_b64(signature)}"

    def verify(self, token: str, audiences: Sequence[str] | None = None) -> User | None:
        """The account's user; None if the signature, time, issuer, audience or a bound object is wrong."""
        claims = self._verified.get(token)
        if claims is None:
            claims = self._check_signature(token)
            if claims is None:
                return None
            if len(self._verified) > 5000:
                self._verified.clear()
            self._verified[token] = claims
        now = time.time()
        if not claims.get("nbf", 0) - 10 <= now < claims.get("exp", 0) or claims.get("iss") != self.issuer:
            return None
        wanted = audiences or self.audiences
        have = claims.get("aud") or []
        if not set(wanted) & set([have] if isinstance(have, str) else have):
            return None
        return self._bound_user(claims)

    def _check_signature(self, token: str) -> dict[str, Any] | None:
        try:
            head, body, tail = token.split(".")
            header, claims, signature = orjson.loads(_unb64(head)), orjson.loads(_unb64(body)), _unb64(tail)
            key = self._keys.get(header.get("kid", "")) or next(iter(self._keys.values()))
            signed = f"{head}.{body}".encode()
            if isinstance(key, ec.EllipticCurvePublicKey):
                if header.get("alg") != "ES256" or len(signature) != 64:
                    return None
                der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
                key.verify(der, signed, ec.ECDSA(hashes.SHA256()))
            else:
                if header.get("alg") != "RS256":
                    return None
                key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
        except (ValueError, binascii.Error, InvalidSignature, AttributeError, TypeError, UnicodeError):
            return None
        return claims if isinstance(claims, dict) else None

    def _bound_user(self, claims: dict[str, Any]) -> User | None:
        private = claims.get("kubernetes.io") or {}
        namespace = private.get("namespace", "")
        account = private.get("serviceaccount") or {}
        found = self._lookup("serviceaccounts", namespace, account.get("name", ""))
        if found is None or found["metadata"]["uid"] != account.get("uid"):
            return None
        extra: dict[str, list[str]] = {f"{_EXTRA}credential-id": [f"JTI={claims.get('jti', '')}"]}
        for kind, resource in (("pod", "pods"), ("secret", "secrets"), ("node", "nodes")):
            bound = private.get(kind)
            if not bound:
                continue
            if kind != "node" or "pod" not in private:
                there = self._lookup(resource, "" if kind == "node" else namespace, bound.get("name", ""))
                if there is None or there["metadata"]["uid"] != bound.get("uid"):
                    return None
            if kind != "secret":
                extra[f"{_EXTRA}{kind}-name"] = [bound.get("name", "")]
                extra[f"{_EXTRA}{kind}-uid"] = [bound.get("uid", "")]
        return account_user(namespace, account["name"], account["uid"], extra)

    def jwks(self) -> dict[str, Any]:
        """The public keys as a JSON Web Key Set (/openid/v1/jwks)."""
        return {"keys": [_jwk(kid, key) for kid, key in self._keys.items()]}


def _key_id(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> str:
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return _b64(sha256(der).digest())


def _jwk(kid: str, key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> dict[str, str]:
    if isinstance(key, ec.EllipticCurvePublicKey):
        numbers = key.public_numbers()
        x, y = (_b64(n.to_bytes(32, "big")) for n in (numbers.x, numbers.y))
        return {"use": "sig", "kty": "EC", "kid": kid, "crv": "P-256", "alg": "ES256", "x": x, "y": y}
    public = key.public_numbers()
    n = _b64(public.n.to_bytes((public.n.bit_length() + 7) // 8, "big"))
    e = _b64(public.e.to_bytes((public.e.bit_length() + 7) // 8, "big"))
    return {"use": "sig", "kty": "RSA", "kid": kid, "alg": "RS256", "n": n, "e": e}
