"""A running nginx and its files. Touches: files, a child process, signals. Upstream: ingress-nginx, internal/nginx.

A new configuration is tested before it takes the old one's place, and nginx is told by SIGHUP: its new workers take the new
connections while the old ones finish theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import ssl
from collections.abc import Mapping
from pathlib import Path

from nsk8s.client import certs
from nsk8s.errors import Nsk8sError
from nsk8s.ingress import nginx
from nsk8s.ingress.model import Site

log = logging.getLogger("ingress")

QUIT_PATIENCE_S = 25.0
"""How long connections may take to end after SIGTERM; the pod's grace period is 30 s."""


class Nginx:
    """`apply` a site, as often as it changes; the first one starts nginx."""

    def __init__(self, binary: str, folder: Path, *, http: int, https: int, health: int, user: str = "nobody nogroup") -> None:
        self._binary = binary
        self._folder = folder
        self._ports = {"http": http, "https": https, "health": health}
        self._user = user
        self._text = ""
        self._process: asyncio.subprocess.Process | None = None
        self._started = asyncio.Event()
        self._resolvers: list[str] = []

    def prepare(self) -> None:
        """Make the folder and the certificate for hosts without one. Raises Nsk8sError when there is no nginx."""
        if not shutil.which(self._binary):
            raise Nsk8sError(f"there is no {self._binary} here", "apt-get install nginx-light")
        self._resolvers = _name_servers()
        (self._folder / "ssl").mkdir(parents=True, exist_ok=True, mode=0o700)
        authority = certs.new_ca("nsk8s Ingress Controller")
        pair = certs.issue(authority, "Kubernetes Ingress Controller Fake Certificate", hosts=["ingress.local"])
        self._write_pem(nginx.FALLBACK, pair.cert_pem, pair.key_pem)

    def _pem(self, name: str) -> Path:
        return self._folder / "ssl" / (name.replace("/", "_") + ".pem")

    def _write_pem(self, name: str, cert: str, key: str) -> bool:
        """True when it is another than before."""
        path, text = self._pem(name), f"{cert.strip()}\n{key.strip()}\n"
        if path.exists() and path.read_text() == text:
            return False
        _write(path, text, 0o600)
        return True

    async def apply(self, site: Site, pems: Mapping[str, tuple[str, str]]) -> bool:
        """Make nginx do what `site` says; `pems` holds certificate and key of each of its Secrets. True when something changed.

        Raises Nsk8sError when nginx refuses the configuration; then it goes on with the old one.
        """
        new_keys = [self._write_pem(name, *pems[name]) for name in site.certificates]
        paths = {name: str(self._pem(name)) for name in (*site.certificates, nginx.FALLBACK)}
        text = nginx.render(
            site, paths, folder=str(self._folder), user=self._user, resolvers=self._resolvers, **self._ports
        )
        if text == self._text and not any(new_keys) and self._process is not None:
            return False
        trial, path = self._folder / "nginx.conf.new", self._folder / "nginx.conf"
        _write(trial, text, 0o600)
        await self._test(trial)
        trial.rename(path)
        self._text = text
        if self._process is None:
            self._process = await self._start(path)
            self._started.set()
            log.info("nginx started, pid %d", self._process.pid)
        else:
            self._process.send_signal(signal.SIGHUP)
            log.info("nginx reloads: %d hosts, %d upstreams", len(site.servers) - 1, len(site.upstreams))
        for old in set((self._folder / "ssl").iterdir()) - {Path(p) for p in paths.values()}:
            old.unlink()
        return True

    async def _start(self, path: Path) -> asyncio.subprocess.Process:
        """nginx, once it has its signal handlers: a SIGHUP before that would be its end. It writes its pid right after."""
        written = self._folder / "nginx.pid"
        written.unlink(missing_ok=True)
        process = await asyncio.create_subprocess_exec(self._binary, "-e", "stderr", "-c", str(path))
        for _ in range(2000):
            if written.exists() or process.returncode is not None:
                break
            await asyncio.sleep(0.01)
        return process

    async def _test(self, path: Path) -> None:
        child = await asyncio.create_subprocess_exec(
            self._binary, "-t", "-q", "-e", "stderr", "-c", str(path), stderr=asyncio.subprocess.PIPE
        )
        _, said = await child.communicate()
        if child.returncode != 0:
            raise Nsk8sError(f"nginx refuses its configuration: {' '.join(said.decode(errors='replace').split())[-600:]}")

    async def watch(self) -> None:
        """Returns when nginx has ended by itself, with Nsk8sError."""
        await self._started.wait()
        assert self._process is not None
        code = await self._process.wait()
        raise Nsk8sError(f"nginx has ended with code {code}")

    async def quit(self) -> None:
        """Let connections end, then end nginx."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGQUIT)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), QUIT_PATIENCE_S)
            return
        self._process.kill()
        await self._process.wait()


def _name_servers() -> list[str]:
    """Of /etc/resolv.conf, which a pod has from its start to its end."""
    try:
        lines = Path("/etc/resolv.conf").read_text().splitlines()
    except OSError:
        return []
    return [words[1] for words in map(str.split, lines) if words[:1] == ["nameserver"] and len(words) > 1 and "%" not in words[1]]


def _write(path: Path, text: str, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "w") as f:
        f.write(text)


def certificate_problem(cert: str, key: str) -> str:
    """Why a pair cannot be used; empty when it can. (nginx would refuse everything for one bad pair.)"""
    fd = os.memfd_create("pair", os.MFD_CLOEXEC)
    try:
        os.write(fd, f"{cert.strip()}\n{key.strip()}\n".encode())
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(f"/proc/self/fd/{fd}", password=lambda: "")
    except (ssl.SSLError, ValueError, OSError) as e:
        return str(getattr(e, "reason", "") or e)
    finally:
        os.close(fd)
    return ""
