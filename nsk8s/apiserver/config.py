"""The server's configuration: flags checked and turned into values, keys and certificates read or made. Touches: files."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from nsk8s.client import certs
from nsk8s.errors import Nsk8sError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")
SERVICE_NAMES = (
    "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    data_dir: str
    bind_address: str
    advertise_address: str
    secure_port: int
    tls_cert_file: str
    tls_private_key_file: str
    client_ca_file: str
    cert_dir: str
    service_account_key_file: tuple[str, ...]
    service_account_signing_key_file: str
    service_account_issuer: str
    service_networks: tuple[Network, ...]
    node_ports: range
    kubelet_client_certificate: str
    kubelet_client_key: str
    kubelet_certificate_authority: str
    token_auth_file: str
    anonymous_auth: bool
    not_ready_toleration_s: int
    unreachable_toleration_s: int
    event_ttl: timedelta
    write_kubeconfig: str
    disabled_plugins: frozenset[str] = frozenset()
    policies_enforced: bool = False

    @classmethod
    def from_flags(cls, **flags: Any) -> Config:
        """Raises Nsk8sError for values that cannot be."""
        bind = _address(flags["bind_address"], "--bind-address")
        networks = _networks(flags["service_cluster_ip_range"])
        advertise = flags["advertise_address"]
        if advertise:
            _address(advertise, "--advertise-address")
        elif not ipaddress.ip_address(bind).is_unspecified:
            advertise = bind
        else:
            advertise = _own_address(networks[0].version)
        _check_reachable(networks[0], advertise)
        return cls(
            data_dir=flags["data_dir"],
            bind_address=bind,
            advertise_address=advertise,
            secure_port=flags["secure_port"],
            tls_cert_file=flags["tls_cert_file"],
            tls_private_key_file=flags["tls_private_key_file"],
            client_ca_file=flags["client_ca_file"],
            cert_dir=flags["cert_dir"],
            service_account_key_file=tuple(flags["service_account_key_file"]),
            service_account_signing_key_file=flags["service_account_signing_key_file"],
            service_account_issuer=flags["service_account_issuer"],
            service_networks=networks,
            node_ports=_port_range(flags["service_node_port_range"]),
            kubelet_client_certificate=flags["kubelet_client_certificate"],
            kubelet_client_key=flags["kubelet_client_key"],
            kubelet_certificate_authority=flags["kubelet_certificate_authority"],
            token_auth_file=flags["token_auth_file"],
            anonymous_auth=bool(flags["anonymous_auth"]),
            not_ready_toleration_s=flags["default_not_ready_toleration_seconds"],
            unreachable_toleration_s=flags["default_unreachable_toleration_seconds"],
            event_ttl=_duration(flags["event_ttl"]),
            write_kubeconfig=flags["write_kubeconfig"],
            disabled_plugins=_plugins(flags["disable_admission_plugins"]),
            policies_enforced=flags["network_policies_enforced"],
        )

    @property
    def in_memory(self) -> bool:
        return self.data_dir == ":memory:"

    def service_ip(self) -> str:
        """The `kubernetes` service's address: the first of the range."""
        return str(self.service_networks[0][1])


def _address(text: str, flag: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise Nsk8sError(f"{flag}: {text!r} is not an IP address") from None


def _own_address(version: int) -> str:
    """The address of the interface that the default route uses, without sending anything; loopback without one."""
    family, far, loopback = (
        (socket.AF_INET, "192.0.2.1", "127.0.0.1") if version == 4 else (socket.AF_INET6, "2001:db8::1", "::1")
    )
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.connect((far, 9))
            return str(s.getsockname()[0])
    except OSError:
        return loopback


def _plugins(names: str) -> frozenset[str]:
    from nsk8s.apiserver.admission import PLUGINS

    wanted = frozenset(n.strip() for n in names.split(",") if n.strip())
    if wanted - PLUGINS:
        raise Nsk8sError(
            f"--disable-admission-plugins: unknown: {', '.join(sorted(wanted - PLUGINS))}", f"known: {', '.join(sorted(PLUGINS))}"
        )
    return wanted


def _networks(text: str) -> tuple[Network, ...]:
    """One network, or one of each family."""
    found = tuple(_network(n) for n in text.split(","))
    if len(found) > 2:
        raise Nsk8sError(f"--service-cluster-ip-range: {text} has more than two ranges")
    if len({n.version for n in found}) < len(found):
        raise Nsk8sError(f"--service-cluster-ip-range: {text}: two ranges must be of different IP families")
    return found


def _check_reachable(primary: Network, advertise: str) -> None:
    """The `kubernetes` Service is of the primary family; its endpoint, this server, must be too."""
    address = ipaddress.ip_address(advertise)
    if address.version != primary.version and not address.is_loopback:  # on loopback it has no endpoint
        raise Nsk8sError(f'service IP family "{primary}" must match public address family "{advertise}"')


def _network(text: str) -> Network:
    try:
        network = ipaddress.ip_network(text.strip())
    except ValueError as e:
        raise Nsk8sError(f"--service-cluster-ip-range: {e}") from None
    if network.num_addresses < 8:
        raise Nsk8sError(f"--service-cluster-ip-range: {text} is too small, at least 8 addresses are needed")
    return network


def _port_range(text: str) -> range:
    found = re.fullmatch(r"(\d+)-(\d+)", text.strip())
    if not found or not 0 < int(found.group(1)) <= int(found.group(2)) < 65536:
        raise Nsk8sError(f"--service-node-port-range: {text!r} is not a range of ports such as 30000-32767")
    return range(int(found.group(1)), int(found.group(2)) + 1)


def _duration(text: str) -> timedelta:
    """Go's `1h2m3s`."""
    found = _DURATION.fullmatch(text.strip())
    if not text.strip() or not found:
        raise Nsk8sError(f"{text!r} is not a duration such as 1h0m0s")
    hours, minutes, seconds = (float(g or 0) for g in found.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


@dataclass(frozen=True)
class Keys:
    """Everything secret that the server needs; paths where TLS wants files."""

    cert_file: Path
    key_file: Path
    client_ca_file: Path
    ca: certs.KeyPair | None
    """The authority, where we hold its key (to sign an admin certificate)."""
    signing_key: str
    verify_keys: tuple[str, ...]


def load_keys(config: Config, directory: Path) -> Keys:
    """Read the keys that flags name and make, once, those they do not in `directory`. Raises Nsk8sError."""
    try:
        return _load_keys(config, directory)
    except OSError as e:
        raise Nsk8sError(f"cannot read or make the server's keys: {e.filename}: {e.strerror}") from e


def _load_keys(config: Config, directory: Path) -> Keys:
    ca: certs.KeyPair | None = None
    if config.client_ca_file:
        client_ca = Path(config.client_ca_file)
        client_ca.read_bytes()
        key = client_ca.with_suffix(".key")
        if key.exists():
            ca = certs.KeyPair(client_ca.read_text(), key.read_text())
    else:
        ca = certs.read(directory, "ca")
        if ca is None:
            ca = certs.new_ca("kubernetes")
            certs.write(directory, "ca", ca)
        client_ca = directory / "ca.crt"
    if bool(config.tls_cert_file) is not bool(config.tls_private_key_file):
        raise Nsk8sError("--tls-cert-file and --tls-private-key-file go together")
    if config.tls_cert_file:
        cert_file, key_file = Path(config.tls_cert_file), Path(config.tls_private_key_file)
        cert_file.read_bytes(), key_file.read_bytes()
    else:
        cert_file, key_file = _serving_pair(config, directory, ca)
    if config.service_account_signing_key_file:
        signing = Path(config.service_account_signing_key_file).read_text()
    else:
        own = certs.read(directory, "sa")
        if own is None:
            own = certs.KeyPair("", certs.new_key())
            certs.write(directory, "sa", own)
        signing = own.key_pem
    verify = tuple(Path(f).read_text() for f in config.service_account_key_file)
    return Keys(cert_file, key_file, client_ca, ca, signing, verify)


def _serving_pair(config: Config, directory: Path, ca: certs.KeyPair | None) -> tuple[Path, Path]:
    """apiserver.crt and .key: kept while the authority and the addresses they are for stay the same."""
    if ca is None:
        raise Nsk8sError("--tls-cert-file is missing, and the key of --client-ca-file is not there to make one")
    hosts = list(dict.fromkeys([*SERVICE_NAMES, "127.0.0.1", config.service_ip(), config.advertise_address, config.bind_address]))
    hosts = [h for h in hosts if h not in ("0.0.0.0", "::")]
    stamp = directory / "apiserver.hosts"
    wanted = "\n".join([*hosts, ca.cert_pem])
    have = certs.read(directory, "apiserver")
    if have is None or not stamp.exists() or stamp.read_text() != wanted:
        certs.write(directory, "apiserver", certs.issue(ca, "kube-apiserver", hosts=hosts))
        stamp.write_text(wanted)
    return directory / "apiserver.crt", directory / "apiserver.key"
