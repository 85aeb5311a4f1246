"""Streams: who is let in, and how an exit code is told."""

from __future__ import annotations

import pytest

from nsk8s.kubelet.server import groups_of, log_options
from nsk8s.kubelet.streaming import exit_status, refusal


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({"Upgrade": "websocket"}, ""),
        ({"Upgrade": "WebSocket", "Sec-WebSocket-Protocol": "v5.channel.k8s.io"}, ""),
        ({"Upgrade": "SPDY/3.1"}, "WebSocket only"),
        ({}, "WebSocket only"),
        ({"Upgrade": "websocket", "Sec-WebSocket-Protocol": "SPDY/3.1+portforward.k8s.io"}, "unsupported subprotocol"),
    ],
)
def test_what_is_no_stream_of_ours_is_refused_in_words(headers, refused):
    assert refused in refusal(headers)
    assert bool(refusal(headers)) is bool(refused)


def test_exit_codes_as_kubectl_reads_them():
    assert exit_status(0) == {"metadata": {}, "status": "Success"}
    assert exit_status(137)["details"] == {"causes": [{"reason": "ExitCode", "message": "137"}]}


def test_who_a_certificate_is():
    subject = ((("organizationName", "system:masters"),), (("organizationName", "b"),), (("commonName", "kube-apiserver"),))
    assert groups_of({"subject": subject}) == ("kube-apiserver", ["system:masters", "b"])
    assert groups_of(None) == ("", [])


def test_log_queries():
    options = log_options({"follow": "true", "tailLines": "5", "limitBytes": "", "stream": "Stderr"})
    assert (options.follow, options.tail_lines, options.limit_bytes, options.stream) == (True, 5, None, "stderr")
    for bad in ({"tailLines": "-1"}, {"tailLines": "x"}, {"sinceTime": "yesterday"}):
        with pytest.raises(ValueError):
            log_options(bad)
