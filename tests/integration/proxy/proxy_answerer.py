"""`proxy_answerer.py NAME PORT…`: TCP, UDP and SCTP servers for both families that answer "NAME client-ip". Runs inside a namespace."""

import selectors
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import raw_sctp

NAME = sys.argv[1].encode()


def plain(address: str) -> bytes:
    return address.removeprefix("::ffff:").encode()


def main() -> None:
    selector = selectors.DefaultSelector()
    sctp = raw_sctp.Server(sys.argv[1], set(map(int, sys.argv[2:])))
    for wire in sctp.wires:
        selector.register(wire, selectors.EVENT_READ)
    for port in map(int, sys.argv[2:]):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            # One socket a family: a datagram's answer must come from the address it was sent to.
            for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                s = socket.socket(family, kind)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                s.bind((anywhere, port))
                s.setblocking(False)
                if kind == socket.SOCK_STREAM:
                    s.listen(512)
                selector.register(s, selectors.EVENT_READ, kind)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            s = key.fileobj
            if isinstance(s, raw_sctp.Wire):
                sctp.read(s)
                continue
            try:
                if key.data == socket.SOCK_DGRAM:
                    _, peer = s.recvfrom(100)
                    s.sendto(NAME + b" " + plain(peer[0]), peer)
                else:
                    c, peer = s.accept()
                    with c:
                        c.sendall(NAME + b" " + plain(peer[0]))
            except OSError:
                pass


main()
