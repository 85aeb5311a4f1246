"""KubeProxyConfiguration by file and by flag: strict, with upstream's defaults, and written as it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nsk8s.proxy import config, configfile
from nsk8s.proxy.config import Config, ConfigError
from nsk8s.proxy.main import main

DOCUMENT = {"apiVersion": configfile.API_VERSION, "kind": "KubeProxyConfiguration"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"clusterCIDR": "10.0.0.0"}, "clusterCIDR: '10.0.0.0' is not a CIDR"),
        ({"nodePortAddresses": ["10.0.0.0/8", "10.0.0.1"]}, r"nodePortAddresses\[1\]"),
        ({"metricsBindAddress": "127.0.0.1:0"}, "metricsBindAddress: '0' is not a valid port"),
        ({"healthzBindAddress": "0.0.0.0:65536"}, "healthzBindAddress: '65536' is not a valid port"),
        ({"healthzBindAddress": ":::10256"}, "healthzBindAddress: .* is not IP:port"),
        ({"conntrack": {"udpTimeout": "-1s"}}, "conntrack.udpTimeout: must be greater than or equal to 0"),
        ({"conntrack": {"maxPerCore": -1}}, "conntrack.maxPerCore: must be greater than or equal to 0"),
        ({"clientConnection": {"burst": -1}}, "clientConnection.burst"),
        ({"clientConnection": {"qps": "5"}}, "clientConnection.qps: '5' has the wrong type: it is a number"),
        ({"enableProfiling": "yes"}, "enableProfiling: 'yes' has the wrong type: it is a bool"),
        ({"oomScoreAdj": 1001}, "oomScoreAdj: 1001 is not between"),
        ({"configSyncPeriod": "-1m"}, "configSyncPeriod"),
        ({"ipvs": {"excludeCIDRs": "10.0.0.0/8"}}, "ipvs.excludeCIDRs"),
        ({"detectLocalMode": "BridgeInterface", "detectLocal": {"bridgeInterface": "a name of rules -j ACCEPT"}}, "bridgeInterface"),
        ({"detectLocalMode": "InterfaceNamePrefix", "detectLocal": {"interfaceNamePrefix": "fifteen-letters"}}, "at most 14"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(change: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        configfile.from_document({**DOCUMENT, **change})


def test_an_address_without_port_has_the_usual_one() -> None:
    made = configfile.from_document({**DOCUMENT, "healthzBindAddress": "192.168.0.1", "metricsBindAddress": "::1"})
    assert (made.healthz_bind_address, made.metrics_bind_address) == ("192.168.0.1:10256", "[::1]:10249")
    assert config.split_address("x", "[::1]:10249") == ("::1", 10249)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(DOCUMENT) + "iptables:\n  masqueradeBit: 3\n  syncPeriod: 1s\n  masqueradeBit: 4\n")
    with pytest.raises(ConfigError, match="'masqueradeBit' stands there twice"):
        configfile.load(path)


_SECONDS = st.sampled_from([0.001, 0.25, 1.0, 1.5, 59.0, 60.0, 90.25, 3600.0, 86400.0, 90061.5])


@given(_SECONDS)
def test_durations_are_written_as_go_does(seconds: float) -> None:
    assert config.seconds("x", configfile.go_duration(seconds)) == pytest.approx(seconds)


def test_a_written_duration() -> None:
    wanted = {0: "0s", 0.25: "250ms", 1.5: "1.5s", 90: "1m30s", 3600: "1h0m0s", 90061.5: "25h1m1.5s"}
    assert {s: configfile.go_duration(s) for s in wanted} == wanted


@settings(max_examples=30)
@given(
    st.builds(
        Config, mode=st.sampled_from(config.MODES), masquerade_all=st.booleans(), masquerade_bit=st.integers(0, 31),
        sync_period_s=_SECONDS.map(lambda s: s + 1), min_sync_period_s=st.just(0.5), localhost_node_ports=st.booleans(),
        udp_timeout_s=_SECONDS, verbosity=st.none() | st.integers(0, 9), oom_score_adj=st.none() | st.integers(-1000, 1000),
        node_port_addresses=st.sampled_from([("primary",), ("10.0.0.0/8", "fd00::/8")]), tcp_be_liberal=st.booleans(),
        cluster_cidr=st.sampled_from(["", "10.0.0.0/8,fd00::/8"]), bind_address=st.sampled_from(["0.0.0.0", "fd00::7"]),
    )
)  # fmt: skip
def test_what_is_written_is_read_as_it_was(made: Config) -> None:
    document = yaml.safe_load(yaml.safe_dump(configfile.to_document(made)))
    assert configfile.from_document(document) == made


def test_flags_of_upstream_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out.yaml"
    flags = ("--kube-api-qps=3", "--profiling=false", "--conntrack-max-per-core", "0", "--feature-gates=A=true")
    own = ("--conntrack-udp-timeout", "2m", "--oom-score-adj=-5", "--bind-address-hard-fail=true", "--healthz-bind-address", "::1")
    assert main([*flags, *own, "--write-config-to", str(out)]) == 0
    made = configfile.load(out)
    assert (made.udp_timeout_s, made.oom_score_adj, made.bind_address_hard_fail) == (120, -5, True)
    assert made.healthz_bind_address == "[::1]:10256"
    assert main(["--write-config-to", str(tmp_path / "no" / "where")]) == 1
    assert "cannot write" in capsys.readouterr().err
    assert main(["--conntrack-udp-timeout", "soon"]) == 1
