"""Run inside the node: one WebSocket exec, attach or port-forward on the kubelet; what came as JSON on stdout.

argv: pki folder, path with query; on stdin a JSON list of steps:
["send", channel, text], ["close", channel], ["until", channel, text].
"""

import asyncio
import json
import ssl
import sys

import aiohttp


async def main() -> None:
    pki, path, steps = sys.argv[1], sys.argv[2], json.load(sys.stdin)
    context = ssl.create_default_context(cafile=f"{pki}/ca.crt")
    context.load_cert_chain(f"{pki}/apiserver-kubelet-client.crt", f"{pki}/apiserver-kubelet-client.key")
    got: dict[int, bytes] = {}
    async with aiohttp.ClientSession() as session:
        try:
            socket = await session.ws_connect(
                f"https://192.168.56.11:10250{path}", ssl=context, protocols=["v5.channel.k8s.io"], timeout=60
            )
        except aiohttp.WSServerHandshakeError as e:
            print(json.dumps({"refused": e.status}))
            return

        async def receive() -> bool:
            message = await socket.receive(20)
            if message.type is not aiohttp.WSMsgType.BINARY:
                return False
            got[message.data[0]] = got.get(message.data[0], b"") + message.data[1:]
            return True

        for step in steps:
            if step[0] == "send":
                await socket.send_bytes(bytes([step[1]]) + step[2].encode())
            elif step[0] == "close":
                await socket.send_bytes(bytes([255, step[1]]))
            elif step[0] == "until":
                while step[2].encode() not in got.get(step[1], b"") and await receive():
                    pass
            elif step[0] == "leave":
                await socket.close()
        while not socket.closed and await receive():
            pass
        print(json.dumps({"protocol": socket.protocol, **{str(c): data.decode("latin-1") for c, data in got.items()}}))


asyncio.run(main())
