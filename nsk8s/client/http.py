"""aiohttp, for clients: `from nsk8s.client.http import aiohttp`. Touches: the environment, for a moment.

Importing it makes a TLS context with all authorities that the machine trusts, which takes a third of the import's time. Nobody
here uses it, as each connection names its own authority. So OpenSSL is told of an empty file meanwhile.
"""

from __future__ import annotations

import os

_NAMES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_kept = {name: os.environ.get(name) for name in _NAMES}
os.environ.update(dict.fromkeys(_NAMES, os.devnull))
try:
    import aiohttp
finally:
    for _name, _value in _kept.items():
        if _value is None:
            del os.environ[_name]
        else:
            os.environ[_name] = _value

__all__ = ["aiohttp"]
