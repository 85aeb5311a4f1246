"""A real kube-apiserver process on loopback, and the kubectl of each version to drive it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from free_port import free_port
from patience import PATIENCE

START_S = 60.0


@dataclass
class Answer:
    code: int
    body: bytes
    headers: dict[str, str]

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class ApiServer:
    directory: Path
    port: int
    extra: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "kubeconfig"

    def start(self) -> ApiServer:
        log = (self.directory / "log").open("ab")
        arguments = [
            "--data-dir", str(self.directory / "data"), "--bind-address", "127.0.0.1", "--secure-port", str(self.port),
            "--write-kubeconfig", str(self.kubeconfig), *self.extra,
        ]  # fmt: skip
        self.kubeconfig.unlink(missing_ok=True)
        self.process = subprocess.Popen([sys.executable, "-m", "nsk8s.apiserver.main", *arguments], stderr=log, stdout=log)
        deadline = time.monotonic() + PATIENCE * START_S
        while not self.kubeconfig.exists():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)
        return self

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def stop(self, how: int = signal.SIGTERM) -> int:
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(30)

    def context(self, *, certificate: bool = True) -> ssl.SSLContext:
        import base64
        import tempfile

        document = yaml.safe_load(self.kubeconfig.read_text())
        ca = base64.b64decode(document["clusters"][0]["cluster"]["certificate-authority-data"]).decode()
        context = ssl.create_default_context(cadata=ca)
        if certificate:
            user = document["users"][0]["user"]
            with tempfile.NamedTemporaryFile() as f:
                f.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
                f.flush()
                context.load_cert_chain(f.name)
        return context

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        token: str = "",
        anonymous: bool = False,
    ) -> Answer:
        """One HTTP request as cluster-admin, with a token, or as nobody."""
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}", data=raw, method=method)
        request.add_header("Content-Type", "application/json")
        for key, value in (headers or {}).items():
            request.remove_header(key.capitalize())
            request.add_header(key, value)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        context = self.context(certificate=not token and not anonymous)
        try:
            with urllib.request.urlopen(request, context=context, timeout=30) as answer:
                return Answer(answer.status, answer.read(), dict(answer.headers))
        except urllib.error.HTTPError as e:
            return Answer(e.code, e.read(), dict(e.headers))


def kubectl_binaries() -> list[str]:
    """kubectl of each version that is on this machine, newest last; plain kubectl if that is all there is."""
    plain = shutil.which("kubectl")
    if plain is None:
        return []
    folder = Path(os.path.realpath(plain)).parent
    versioned = [str(p) for p in sorted(folder.glob("kubectl.1.*")) if int(p.name.rsplit(".", 1)[1]) >= 30]
    return versioned or [plain]


@pytest.fixture(scope="session")
def apiserver_factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ApiServer]]:
    made: list[ApiServer] = []

    def make(*extra: str) -> ApiServer:
        server = ApiServer(tmp_path_factory.mktemp("api"), free_port(), list(extra))
        made.append(server)
        return server.start()

    yield make
    for server in made:
        server.stop()


@pytest.fixture(scope="session")
def api(apiserver_factory: Callable[..., ApiServer]) -> ApiServer:
    return apiserver_factory()


_NONE = [pytest.param("", marks=pytest.mark.skip(reason="no kubectl here"))]


@pytest.fixture(params=kubectl_binaries() or _NONE, ids=os.path.basename)
def kubectl(request: pytest.FixtureRequest, api: ApiServer, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`kubectl(*args, stdin=…, check=True)` in a namespace of its own, with a home of its own."""
    namespace = f"t{os.urandom(4).hex()}"
    made = api.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    assert made.code == 201, made.body
    account = {"metadata": {"name": "default"}}
    assert api.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", account).code == 201
    environment = {**os.environ, "KUBECONFIG": str(api.kubeconfig), "HOME": str(tmp_path)}

    def run(*arguments: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [request.param, "-n", namespace, *arguments], input=stdin, capture_output=True, text=True, timeout=60, env=environment
        )
        if check:
            assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done

    run.namespace = namespace  # type: ignore[attr-defined]
    return run
