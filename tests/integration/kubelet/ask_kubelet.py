"""Run inside the node: one request to the kubelet's HTTPS API, `CODE body` on stdout. argv: pki folder, certificate, path."""

import ssl
import sys
import urllib.error
import urllib.request

pki, cert, path = sys.argv[1:4]
context = ssl.create_default_context(cafile=f"{pki}/ca.crt")
if cert:
    context.load_cert_chain(f"{pki}/{cert}.crt", f"{pki}/{cert}.key")
try:
    with urllib.request.urlopen(f"https://192.168.56.11:10250{path}", context=context, timeout=60) as answer:
        print(answer.status, "", end="", flush=True)
        for line in answer:
            print(line.decode(), end="", flush=True)
except urllib.error.HTTPError as e:
    print(e.code, e.read().decode(), end="")
