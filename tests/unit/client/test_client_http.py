"""Importing aiohttp leaves the environment as it was and reads no authorities."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import os, sys
from nsk8s.client.http import aiohttp
from aiohttp import connector
print(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"), len(connector._SSL_CONTEXT_VERIFIED.get_ca_certs()))
"""


def test_the_machines_authorities_are_not_read() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SSL_CERT_")} | {"SSL_CERT_FILE": "/kept"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "/kept None 0\n"
