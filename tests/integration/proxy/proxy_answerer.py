"""`proxy_answerer.py NAME PORT…`: TCP and UDP servers for both families that answer "NAME client-ip". Runs inside a namespace."""

import selectors
import socket
import sys

SCTP = 132
NAME = sys.argv[1].encode()


def plain(address: str) -> bytes:
    return address.removeprefix("::ffff:").encode()


def main() -> None:
    selector = selectors.DefaultSelector()
    for port in map(int, sys.argv[2:]):
        for kind, protocol in ((socket.SOCK_STREAM, 0), (socket.SOCK_DGRAM, 0), (socket.SOCK_STREAM, SCTP)):
            # One socket a family: a datagram's answer must come from the address it was sent to.
            for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                try:
                    s = socket.socket(family, kind, protocol)
                except OSError:  # a kernel without SCTP
                    continue
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
