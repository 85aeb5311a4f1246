"""nginx.conf for a `Site`. Pure. Upstream: ingress-nginx, rootfs/etc/nginx/template."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from nsk8s.ingress.model import CATCH_ALL, Location, Server, Site

HEALTH_PORT = 10254
FALLBACK = "fallback"
"""The certificate that is shown for hosts that have none."""

_HEAD = """\
daemon off;
user {user};
worker_processes {workers};
worker_shutdown_timeout 240s;
error_log stderr notice;
pid {folder}/nginx.pid;
events {{ worker_connections 1000; }}
http {{
    access_log /dev/stdout;
    server_tokens off;
    server_names_hash_bucket_size 512;
    map_hash_bucket_size 128;
    proxy_headers_hash_bucket_size 128;
    variables_hash_max_size 2048;
    keepalive_timeout 75s;
    client_header_buffer_size 1k;
    large_client_header_buffers 4 8k;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:SSL:10m;
    ssl_session_tickets off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;

    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header X-Request-ID $request_id;
    proxy_set_header X-Real-IP $remote_addr;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Host $http_host;
    proxy_set_header X-Forwarded-Port $server_port;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Scheme $scheme;
    proxy_set_header X-Scheme $scheme;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    proxy_connect_timeout 5s;
    proxy_send_timeout 60s;
    proxy_read_timeout 60s;
    proxy_next_upstream error timeout;
    proxy_next_upstream_tries 3;
    proxy_redirect off;

    server {{
        listen {health};
        access_log off;
        location = /healthz {{ return 200; }}
        location / {{ return 404; }}
    }}
"""


def render(
    site: Site, certificates: Mapping[str, str], *, folder: str = "/tmp/nginx", http: int = 80, https: int = 443,
    health: int = HEALTH_PORT, workers: int = 1, user: str = "nobody nogroup", resolvers: Sequence[str] = (),
) -> str:  # fmt: skip
    """The whole file. `certificates`: `namespace/secret` or FALLBACK → the path of a PEM file with certificate and key.
    `resolvers`: the name servers that ExternalNames are asked of."""
    parts = [_HEAD.format(folder=folder, workers=workers, user=user, health=health)]
    if site.externals and resolvers:
        servers = " ".join(f"[{r}]" if ":" in r else r for r in resolvers)
        parts.append(f"\n    resolver {servers} valid=5s;\n    resolver_timeout 5s;\n")
    for name, addresses in site.upstreams.items():
        if addresses:
            parts.append("".join([
                f"\n    upstream {quoted(name)} {{\n", *(f"        server {a} max_fails=0;\n" for a in addresses),
                "        keepalive 32;\n    }\n",
            ]))  # fmt: skip
    served = {name for name, addresses in site.upstreams.items() if addresses}
    for server in site.servers:
        pem = certificates.get(server.certificate) or certificates[FALLBACK]
        parts.append(_server(server, served, site.externals, pem, http, https))
    return "".join(parts) + "}\n"


def _server(server: Server, served: set[str], externals: Mapping[str, str], pem: str, http: int, https: int) -> str:
    default = " default_server" if server.host == CATCH_ALL else ""
    lines = [
        f"listen {http}{default};", f"listen {https} ssl{default};", f"server_name {server_name(server.host)};",
        f"ssl_certificate {quoted(pem)};", f"ssl_certificate_key {quoted(pem)};",
    ]  # fmt: skip
    # nginx tries expressions before prefixes, and in order: so prefixes beside them become expressions too, the longest first.
    expressions = any(e.regex for e in server.locations)
    order = sorted(server.locations, key=lambda e: -len(e.path)) if expressions else server.locations
    for location in order:
        lines += _location(location, served, externals, expressions)
    if not any(not e.exact and e.path == "/" for e in server.locations):
        lines += ["location / {", "    default_type text/plain;", '    return 404 "default backend - 404\\n";', "}"]
    return "\n    server {\n" + "".join(f"        {line}\n" for line in lines) + "    }\n"


def _location(location: Location, served: set[str], externals: Mapping[str, str], expressions: bool) -> list[str]:
    path = location.path if location.regex else re.escape(location.path)
    if location.exact:
        lines = [f"location = {quoted(location.path)} {{"]
    elif expressions:
        lines = [f"location ~* {quoted('^' + path)} {{"]
    else:
        lines = [f"location {quoted(location.path)} {{"]
    if location.redirect:
        lines.append("    if ($scheme = http) { return 308 https://$host$request_uri; }")
    if location.upstream in served or location.upstream in externals:
        if location.rewrite:
            lines.append(f"    rewrite {quoted('(?i)' + path)} {quoted(location.rewrite)} break;")
        # Quoting does not keep nginx from reading variables in a URL: neither names of upstreams nor hosts hold a $.
        if location.upstream in externals:
            lines.append(f"    set $external {quoted(externals[location.upstream])};")  # a variable: asked for at every request
            lines.append("    proxy_pass http://$external;")
        else:
            lines.append(f"    proxy_pass http://{location.upstream};")
    else:
        lines.append("    return 503;")
    return [*lines, "}"]


def server_name(host: str) -> str:
    """A wildcard stands for exactly one label, as Kubernetes has it; nginx' own would match several."""
    if host == CATCH_ALL:
        return "_"
    if host.startswith("*."):
        return quoted(f"~^[^.]+{re.escape(host[1:])}$")
    return quoted(host)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
