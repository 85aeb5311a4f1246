"""The image nsk8s/echo: a server that tells who answered and who asked. Standard library only, few imports: it starts fast.

HTTP/1.1 (keep-alive, several connections at once) and UDP on the same port ($PORT or first argument, 8080). Answers JSON, or
lines of text with `Accept: text/plain`. /healthz, /hostname and /env are short.

SIGTERM: a pod is told to end while kube-proxies still send it connections, for as long as the news of its deletion travels. So
it goes on serving, now with `Connection: close`, until no new connection has come for QUIET_S (at most LAME_DUCK_S); then it
stops listening, finishes the answers under way (FINISH_S at most) and ends. An idle one is gone after QUIET_S.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_HEAD = 65536
MAX_BODY = 16 << 20
QUIET_S, LAME_DUCK_S, FINISH_S = 0.5, 5.0, 1.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 413: "Content Too Large", 431: "Request Header Fields Too Large"}


def identity() -> dict[str, Any]:
    env = os.environ
    host = socket.gethostname()
    return {
        "pod": env.get("POD_NAME") or host,
        "namespace": env.get("POD_NAMESPACE", ""),
        "node": env.get("NODE_NAME", ""),
    }


def address(name: tuple[Any, ...]) -> str:
    """`10.244.1.2:8080`, `[fd00::2]:8080`; an IPv4 peer of a dual-stack socket in its own form."""
    host, port = name[0].partition("%")[0], name[1]
    if host.startswith("::ffff:") and "." in host:
        host = host[7:]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def as_text(value: dict[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key, item in value.items():
        if isinstance(item, dict):
            lines += as_text(item, prefix + key + ".")
        else:
            lines.append(f"{prefix}{key}: {item}")
    return lines


def encode(value: dict[str, Any], text: bool) -> bytes:
    if text:
        return ("\n".join(as_text(value)) + "\n").encode("utf-8", "surrogateescape")
    import json

    return (json.dumps(value) + "\n").encode()


def respond(method: str, path: str, headers: dict[str, str], local: str, peer: str) -> tuple[int, str, bytes]:
    """(status, content type, body) of a request."""
    text = "text/plain" in headers.get("accept", "")
    route = path.partition("?")[0]
    if route == "/healthz":
        return 200, "text/plain", b"ok\n"
    if route == "/hostname":
        return 200, "text/plain", (identity()["pod"] + "\n").encode()
    if route == "/env":
        value: dict[str, Any] = dict(sorted(os.environ.items()))
    else:
        value = {**identity(), "address": local, "client": peer, "method": method, "path": path, "headers": headers}
    return 200, "text/plain" if text else "application/json", encode(value, text)


class Client:
    """One TCP connection."""

    def __init__(self, sock: socket.socket, peer: tuple[Any, ...]) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.peer = address(peer)
        self.local = address(sock.getsockname())
        self.received = b""
        self.out = b""
        self.keep = True

    def next_request(self) -> tuple[str, str, dict[str, str]] | None:
        """(method, path, headers) or None while a request is incomplete; raises ValueError with a status."""
        head, found, rest = self.received.partition(b"\r\n\r\n")
        if not found:
            if len(self.received) > MAX_HEAD:
                raise ValueError(431)
            return None
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise ValueError(400)
        headers = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise ValueError(400)
            headers[name.lower()] = value.strip()
        if "chunked" in headers.get("transfer-encoding", "").lower():
            after = self.skip_chunks(rest)
            if after is None:
                return None
            rest = after
        else:
            length = headers.get("content-length", "0")
            if not length.isdigit():
                raise ValueError(400)
            size = int(length)
            if size > MAX_BODY:
                raise ValueError(413)
            if len(rest) < size:
                if headers.get("expect", "").lower() == "100-continue" and not rest and not self.out:
                    self.out = b"HTTP/1.1 100 Continue\r\n\r\n"
                    self.received = self.received.replace(b"xpect:", b"-expected:", 1)
                return None
            rest = rest[size:]
        self.received = rest
        connection = headers.get("connection", "").lower()
        self.keep = connection != "close" and (words[2] != "HTTP/1.0" or connection == "keep-alive")
        return words[0], words[1], headers

    def skip_chunks(self, data: bytes) -> bytes | None:
        """What follows a chunked body, or None while it is incomplete."""
        total = 0
        while True:
            line, found, data = data.partition(b"\r\n")
            if not found:
                return None
            try:
                size = int(line.partition(b";")[0], 16)
            except ValueError:
                raise ValueError(400) from None
            total += size
            if size < 0 or total > MAX_BODY:
                raise ValueError(413)
            if size == 0:
                if data.startswith(b"\r\n"):
                    return data[2:]
                _, found, data = data.partition(b"\r\n\r\n")
                return data if found else None
            if len(data) < size + 2:
                return None
            data = data[size + 2 :]

    def answer(self, closing: bool) -> None:
        """Queue answers to all complete requests."""
        while self.keep:
            try:
                request = self.next_request()
            except ValueError as e:
                status = e.args[0] if e.args and e.args[0] in REASONS else 400
                self.keep = False
                self.reply(status, "text/plain", (REASONS[status] + "\n").encode(), "GET")
                return
            if request is None:
                return
            method, path, headers = request
            if closing:
                self.keep = False
            status, kind, body = respond(method, path, headers, self.local, self.peer)
            self.reply(status, kind, body, method)

    def reply(self, status: int, kind: str, body: bytes, method: str) -> None:
        connection = "keep-alive" if self.keep else "close"
        head = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        head += f"Connection: {connection}\r\n\r\n"
        self.out += head.encode("latin-1") + (b"" if method == "HEAD" else body)


class Server:
    def __init__(self, port: int) -> None:
        self.poll = select.poll()
        self.clients: dict[int, Client] = {}
        self.closing = False
        """Told to end."""
        self.listening = True
        self.quiet_at = self.end_at = 0.0
        self.tcp, self.udp = self.bind(port)
        self.poll.register(self.tcp, select.POLLIN)
        self.poll.register(self.udp, select.POLLIN)

    @staticmethod
    def bind(port: int) -> list[socket.socket]:
        """Dual-stack where the kernel has IPv6."""
        for family, host in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
            try:
                pair = []
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    sock = socket.socket(family, kind)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if family == socket.AF_INET6:
                        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                    sock.bind((host, port))
                    sock.setblocking(False)
                    pair.append(sock)
                pair[0].listen(512)
                # IP_PKTINFO tells which of our addresses a datagram came to.
                level, option = (socket.IPPROTO_IPV6, 49) if family == socket.AF_INET6 else (socket.IPPROTO_IP, 8)
                pair[1].setsockopt(level, option, 1)
                return pair
            except OSError as e:
                if family == socket.AF_INET or e.errno == errno.EADDRINUSE:
                    raise
        raise AssertionError

    def run(self, stop: int) -> None:
        self.poll.register(stop, select.POLLIN)
        while self.listening or self.clients:
            for fd, events in self.poll.poll(self.wait_ms()):
                if fd == stop:
                    self.poll.unregister(stop)
                    self.begin_to_end()
                elif self.listening and fd == self.tcp.fileno():
                    self.accept()
                elif self.listening and fd == self.udp.fileno():
                    self.datagrams()
                elif fd in self.clients:
                    self.serve(self.clients[fd], events)
            if self.closing:
                now = time.monotonic()
                if self.listening and now >= min(self.quiet_at, self.end_at):
                    self.accept()  # who came while this process was held up was no silence
                if self.listening and now >= min(self.quiet_at, self.end_at):
                    self.stop_listening()
                    self.end_at = now + FINISH_S
                elif now >= self.end_at:
                    return

    def wait_ms(self) -> float | None:
        if not self.closing:
            return None
        due = min(self.quiet_at, self.end_at) if self.listening else self.end_at
        return max(0.0, due - time.monotonic()) * 1000 + 1

    def begin_to_end(self) -> None:
        now = time.monotonic()
        self.closing = True
        self.quiet_at, self.end_at = now + QUIET_S, now + LAME_DUCK_S

    def stop_listening(self) -> None:
        """What waits in the kernel's queue is still served; those in the middle of a request or an answer may finish."""
        self.accept()
        self.listening = False
        for sock in (self.tcp, self.udp):
            self.poll.unregister(sock)
            sock.close()
        for client in list(self.clients.values()):
            self.serve(client, select.POLLIN)
        for client in list(self.clients.values()):
            if not client.out and not client.received:
                self.drop(client)

    def accept(self) -> None:
        while True:
            try:
                sock, peer = self.tcp.accept()
            except OSError:
                return
            self.quiet_at = time.monotonic() + QUIET_S
            try:
                client = Client(sock, peer)
            except OSError:
                sock.close()
                continue
            self.clients[sock.fileno()] = client
            self.poll.register(sock, select.POLLIN)

    def serve(self, client: Client, events: int) -> None:
        try:
            if events & ~select.POLLOUT:
                try:
                    data = client.sock.recv(65536)
                except BlockingIOError:
                    data = None
                if data == b"":
                    self.drop(client)
                    return
                client.received += data or b""
                client.answer(self.closing)
            if client.out:
                client.out = client.out[client.sock.send(client.out) :]
        except BlockingIOError:
            pass
        except OSError:
            self.drop(client)
            return
        if client.out:
            self.poll.modify(client.sock, select.POLLOUT)
        elif not client.keep:
            self.drop(client)
        else:
            self.poll.modify(client.sock, select.POLLIN)

    def drop(self, client: Client) -> None:
        fd = client.sock.fileno()
        self.poll.unregister(fd)
        del self.clients[fd]
        client.sock.close()

    def datagrams(self) -> None:
        while True:
            try:
                data, ancillary, _, peer = self.udp.recvmsg(65535, 256)
            except OSError:
                return
            local = self.udp.getsockname()
            for level, kind, body in ancillary:
                if level == socket.IPPROTO_IPV6 and kind == 50:
                    local = (socket.inet_ntop(socket.AF_INET6, body[:16]), local[1])
                elif level == socket.IPPROTO_IP and kind == 8:
                    local = (socket.inet_ntoa(body[8:12]), local[1])
            text = data.decode("utf-8", "replace").rstrip("\n")
            value = dict(identity(), address=address(local), client=address(peer), protocol="UDP", data=text)
            try:
                # Answering with the received packet info keeps the address that the client asked.
                self.udp.sendmsg([encode(value, data.startswith(b"text"))], ancillary, 0, peer)
            except OSError:
                continue


def main() -> None:
    text = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("PORT", "8080")
    # Service links put tcp://10.96.0.5:80 into variables that end in PORT.
    port = int(text) if text.isdigit() and 0 < int(text) < 65536 else 0
    if not port:
        sys.exit(f"echo: PORT must be a number from 1 to 65535, not {text!r}")
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    for signum in STOP_SIGNALS:
        signal.signal(signum, lambda *_: None)
    # The runtime starts us with these blocked: process 1 of a container loses what comes before there is a handler.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    try:
        server = Server(port)
    except OSError as e:
        sys.exit(f"echo: cannot listen on port {port}: {e.strerror}")
    sys.stdout.write(f"listening on port {port} (HTTP and UDP)\n")
    sys.stdout.flush()
    server.run(read)


if __name__ == "__main__":
    main()
