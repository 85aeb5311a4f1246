"""The image service: built-in names that run on the machine's own /usr. No download.

`resolve(name)` answers an `Image` or raises `ImageError`; that is the seam where imported OCI images come in later.
Touches: the file system (to see which commands the machine has). Upstream: containerd's image store.
"""

from __future__ import annotations

import os
import sys

from nsk8s.runtime.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BUSYBOX_BIN = "/opt/busybox/bin"
"""The busybox layer's links; last in PATH, so that they stand in for what the machine lacks."""


def _sha256(data: bytes) -> str:
    """hashlib would load OpenSSL into every runtime."""
    module = __import__("_sha2" if sys.version_info >= (3, 12) else "_sha256")
    return str(module.sha256(data).hexdigest())


class ImageError(NotFound):
    """An image that cannot be served; the message says what to do."""


class Image:
    """What an OCI image's config says, plus the layers to mount.

    `files` is a layer of the image's own ({path: content}); `busybox` adds the applet links; `package` shows the installed
    nsk8s and its Python at their own paths, read-only; `holds_signals`: its program is started with SIGTERM and SIGINT blocked
    and unblocks them itself when it has handlers.
    """

    def __init__(
        self,
        name: str,
        entrypoint: Sequence[str] = (),
        cmd: Sequence[str] = (),
        *,
        env: dict[str, str] | None = None,
        workdir: str = "/",
        user: str = "0",
        files: dict[str, str] | None = None,
        busybox: bool = False,
        package: bool = False,
        stop_signal: str = "SIGTERM",
        holds_signals: bool = False,
    ) -> None:
        self.name = name
        self.entrypoint = list(entrypoint)
        self.cmd = list(cmd)
        self.env = {"PATH": PATH + (":" + BUSYBOX_BIN if busybox else ""), **(env or {})}
        self.workdir = workdir
        self.user = user
        self.files = files or {}
        self.busybox = busybox
        self.package = package
        self.stop_signal = stop_signal
        self.holds_signals = holds_signals

    @property
    def ref(self) -> str:
        """The image id; there is no content to hash, so it names the recipe."""
        recipe = repr((normalize(self.name), self.entrypoint, self.cmd, sorted(self.env.items()), self.files))
        return "sha256:" + _sha256(recipe.encode())


NGINX_CONF = """\
user nobody nogroup;
worker_processes 1;
error_log /dev/stderr notice;
pid /run/nginx.pid;
events { worker_connections 512; }
http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /dev/stdout;
    sendfile on;
    keepalive_timeout 65;
    include /etc/nginx/conf.d/*.conf;
}
"""
NGINX_SITE = """\
server {
    listen 80;
    server_name localhost;
    location / { root /usr/share/nginx/html; index index.html index.htm; }
    error_page 500 502 503 504 /50x.html;
    location = /50x.html { root /usr/share/nginx/html; }
}
"""
NGINX_MIME = """\
types {
    text/html html htm; text/css css; text/plain txt; application/javascript js; application/json json; image/png png;
    image/jpeg jpg jpeg; image/svg+xml svg; image/gif gif; application/xml xml; application/pdf pdf;
}
"""
NGINX_INDEX = """\
<!DOCTYPE html>
<html>
<head><title>Welcome to nginx!</title></head>
<body><h1>Welcome to nginx!</h1>
<p>If you see this page, the nginx web server is successfully installed and working.</p></body>
</html>
"""


def normalize(name: str) -> str:
    """`docker.io/library/nginx:1.27@sha256:…` → `nginx`. Pure."""
    bare = name.partition("@")[0]
    head, slash, last = bare.rpartition("/")
    bare = head + slash + last.partition(":")[0]
    for prefix in ("docker.io/library/", "docker.io/", "index.docker.io/library/", "index.docker.io/", "library/"):
        if bare.startswith(prefix):
            return bare[len(prefix) :]
    return bare


_ECHO_FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "images_echo.py")
_ECHO_PATH = "/opt/nsk8s/echo"


def _system_python() -> str:
    """A Python below /usr, which every container sees; the running one (then with `package`) when there is none."""
    for path in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if os.access(path, os.X_OK):
            return path
    return sys.executable


def _echo(name: str) -> Image:
    with open(_ECHO_FILE, encoding="utf-8") as f:
        source = f.read()
    python = _system_python()
    return Image(
        name, [python, "-IS", _ECHO_PATH], files={_ECHO_PATH: source}, package=python == sys.executable, holds_signals=True
    )


def _component(name: str, module: str) -> Image:
    """A part of nsk8s itself as a pod: the installed package, run by its own Python."""
    package_parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    env = {} if package_parent.startswith(sys.prefix + "/") else {"PYTHONPATH": package_parent}
    return Image(name, [sys.executable, "-m", module], env=env, package=True)


def _dns(name: str) -> Image:
    image = _component(name, "nsk8s.dns")
    image.holds_signals = True
    return image


def _coredns(name: str) -> Image:
    """The machine's own CoreDNS; where there is none ours, which reads a cluster's Corefile as well."""
    for path in ("/usr/local/bin/coredns", "/usr/bin/coredns"):
        if os.access(path, os.X_OK):
            return Image(name, [path])
    return _dns(name)


def _ingress(name: str) -> Image:
    image = _component(name, "nsk8s.ingress")
    image.files = {f"/var/{folder}/nginx/.keep": "" for folder in ("log", "lib")}
    return image


def _nginx(name: str) -> Image:
    files = {
        "/etc/nginx/nginx.conf": NGINX_CONF,
        "/etc/nginx/mime.types": NGINX_MIME,
        "/etc/nginx/conf.d/default.conf": NGINX_SITE,
    }
    for folder in ("/var/log/nginx", "/var/lib/nginx", "/var/cache/nginx"):
        files[folder + "/.keep"] = ""
    if not os.path.exists("/usr/share/nginx/html/index.html"):
        # /usr is mounted over the image's layer, so the page goes where the layer shows.
        files["/srv/www/index.html"] = NGINX_INDEX
        files["/etc/nginx/conf.d/default.conf"] = NGINX_SITE.replace("/usr/share/nginx/html", "/srv/www")
    return Image(
        name, [], ["/usr/sbin/nginx", "-c", "/etc/nginx/nginx.conf", "-g", "daemon off;"], files=files, stop_signal="SIGQUIT"
    )


_PAUSE = "trap 'echo Shutting down; exit 0' INT TERM; sleep infinity & wait"
"""Upstream's pause ends at once when told to; a bare sleep as process 1 would ignore it."""


def _simple(
    entrypoint: Sequence[str] = (), cmd: Sequence[str] = ("/bin/sh",), *, busybox: bool = False, user: str = "0"
) -> Callable[[str], Image]:
    return lambda name: Image(name, entrypoint, cmd, busybox=busybox, user=user)


def _python(name: str) -> Image:
    """The real image's command is `python`; Debian's package has only python3."""
    files = {"/opt/python/bin/python": '#!/bin/sh\nexec /usr/bin/python3 "$@"\n'}
    return Image(name, (), ("python3",), env={"PATH": f"{PATH}:/opt/python/bin"}, files=files)


# name: (recipe, commands it needs, Debian package that has them)
_CATALOGUE: dict[str, tuple[Callable[[str], Image], tuple[str, ...], str]] = {
    "nsk8s/echo": (_echo, (), ""),
    "nsk8s/dns": (_dns, (), ""),
    "coredns/coredns": (_coredns, (), ""),
    "nsk8s/ingress": (_ingress, ("/usr/sbin/nginx",), "nginx-light"),
    "busybox": (_simple(busybox=True, cmd=("sh",)), ("/usr/bin/busybox",), "busybox"),
    "alpine": (_simple(busybox=True), ("/bin/sh",), "dash"),
    "debian": (_simple(cmd=("bash",)), ("/bin/bash",), "bash"),
    "ubuntu": (_simple(cmd=("bash",)), ("/bin/bash",), "bash"),
    "bash": (_simple(cmd=("bash",)), ("/bin/bash",), "bash"),
    "python": (_python, ("/usr/bin/python3",), "python3"),
    "perl": (_simple(cmd=("perl", "-de0")), ("/usr/bin/perl",), "perl"),
    "nginx": (_nginx, ("/usr/sbin/nginx",), "nginx"),
    "curlimages/curl": (_simple(("curl",), ()), ("/usr/bin/curl",), "curl"),
    "nicolaka/netshoot": (_simple(busybox=True, cmd=("bash",)), ("/usr/bin/tcpdump", "/usr/bin/ip"), "tcpdump iproute2"),
    "registry.k8s.io/pause": (_simple(("/bin/sh", "-c", _PAUSE), ()), ("/bin/sh", "/usr/bin/sleep"), "dash coreutils"),
    "networkstatic/iperf3": (_simple(("iperf3",), ()), ("/usr/bin/iperf3",), "iperf3"),
}
_ALIASES = {
    "k8s.gcr.io/pause": "registry.k8s.io/pause",
    "registry.k8s.io/coredns/coredns": "coredns/coredns",
    "k8s.gcr.io/coredns/coredns": "coredns/coredns",
    "registry.k8s.io/coredns": "coredns/coredns",
    "busybox/busybox": "busybox",
    "netshoot": "nicolaka/netshoot",
    "curl": "curlimages/curl",
    "registry.k8s.io/e2e-test-images/busybox": "busybox",
    "registry.k8s.io/e2e-test-images/nginx": "nginx",
}


def catalogue() -> list[str]:
    """The names that are built in, whether or not the machine can serve them."""
    return sorted(_CATALOGUE)


def missing(name: str) -> list[str]:
    """The commands that a built-in image needs and the machine lacks."""
    return [c for c in _CATALOGUE[name][1] if not os.access(c, os.X_OK)]


def resolve(name: str) -> Image:
    """The image of that name. Raises ImageError (NotFound) saying what to install, or what there is."""
    bare = normalize(name)
    bare = _ALIASES.get(bare, bare)
    found = _CATALOGUE.get(bare)
    if found is None:
        raise ImageError(
            f'image "{name}" is not built in, and nsk8s downloads none. There are: {", ".join(catalogue())} (any tag)'
        )
    recipe, _, package = found
    lacking = missing(bare)
    if lacking:
        raise ImageError(f'image "{name}" needs {" and ".join(lacking)} on this machine: apt-get install {package}')
    return recipe(name)
