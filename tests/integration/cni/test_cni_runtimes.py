"""Our plugins under real runtimes from Debian's packages: podman (CNI backend) and containerd (ctr run --cni).

Each runs in network, mount and pid namespaces of its own, with an /etc, /var, /opt and /run that nobody else sees; nothing is
downloaded: the container's root is made of busybox. Where a runtime is not installed its test is skipped by name.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cni

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: runs containers")

CONFLIST = """{"cniVersion":"1.0.0","name":"mynet","plugins":[
 {"type":"bridge","bridge":"cni0","isDefaultGateway":true,"hairpinMode":true,"ipMasq":true,"capabilities":{"mac":true},
  "ipam":{"type":"host-local","ranges":[[{"subnet":"10.88.0.0/24"}]]}},
 {"type":"portmap","capabilities":{"portMappings":true}},
 {"type":"bandwidth","capabilities":{"bandwidth":true}},
 {"type":"firewall","backend":"iptables"},
 {"type":"tuning","mtu":1400}]}
"""

SANDBOX = r"""
set -eu
W=$1 ROOT=$2 PYTHON=$3
mount -t tmpfs tmpfs "$W"
mkdir -p "$W/cgroup" "$W"/rootfs/{bin,www,proc,sys,dev,etc,tmp}
mount --rbind /sys/fs/cgroup "$W/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$W/cgroup" /sys/fs/cgroup
for d in etc var opt; do
  mkdir "$W/$d.upper" "$W/$d.work"
  mount -t overlay -o "lowerdir=/$d,upperdir=$W/$d.upper,workdir=$W/$d.work" overlay "/$d"
done
mount -t tmpfs tmpfs /run
ip link set lo up
box=$(command -v busybox)
cp "$box" "$W/rootfs/bin/busybox"
for a in sh ip httpd cat; do ln -s busybox "$W/rootfs/bin/$a"; done
for lib in $(ldd "$box" 2>/dev/null | grep -o '/[^ ]*'); do
  mkdir -p "$W/rootfs$(dirname "$lib")"
  cp -L "$lib" "$W/rootfs$lib"
done
echo hello >"$W/rootfs/www/index.html"
mkdir -p /etc/cni/net.d /opt/cni/bin
rm -f /etc/cni/net.d/*
printf '%s' "$CONFLIST" >/etc/cni/net.d/10-mynet.conflist
left() {
  echo "left: $(ls /var/lib/cni/networks/mynet | tr '\n' ' ')"
  for t in nat filter; do iptables -t $t -S | grep -E '10\.88\.|CNI-DN-|CNI-[0-9a-f]{24}' | sed 's/^/left-rule: /' || true; done
  ip -o link | grep -oE ' (veth|bwp)[^:@]*' | sed 's/^/left-link:/' || true
}
"""

PODMAN = r"""
cat >"$W/containers.conf" <<J
[network]
network_backend="cni"
cni_plugin_dirs=["$BIN_DIR"]
network_config_dir="/etc/cni/net.d"
default_network="mynet"
[engine]
cgroup_manager="cgroupfs"
events_logger="file"
runtime="$(command -v runc >/dev/null && echo runc || echo crun)"
J
cat >"$W/storage.conf" <<J
[storage]
driver="vfs"
graphroot="$W/graph"
runroot="/run/containers/storage"
J
export CONTAINERS_CONF=$W/containers.conf CONTAINERS_STORAGE_CONF=$W/storage.conf
backend=$(podman info --format '{{.Host.NetworkBackend}}' 2>&1) || true
[ "$backend" = cni ] || { echo "no-cni-backend: $backend"; exit 0; }
podman run -d --name x1 --network mynet --mac-address 02:00:00:00:00:42 -p 8080:80 --rootfs "$W/rootfs:O" \
  /bin/httpd -f -p 80 -h /www
echo "address: $(podman inspect x1 --format '{{.NetworkSettings.Networks.mynet.IPAddress}}')"
podman exec x1 /bin/ip -o link show eth0 | sed 's/^/link: /'
echo "answer: $("$PYTHON" -c 'import urllib.request as u; print(u.urlopen("http://127.0.0.1:8080/", timeout=5).read().decode().strip())')"
podman rm -f -t 0 x1 >/dev/null
left
"""

CTR = r"""
"$PYTHON" -c 'import sys; sys.path.insert(0, sys.argv[1]); import cni; cni.install("/opt/cni/bin")' "$ROOT"
cat >"$W/config.toml" <<J
version = 2
root = "$W/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "/run/c.sock"
J
containerd -c "$W/config.toml" >"$W/log" 2>&1 &
for i in $(seq 100); do ctr -a /run/c.sock version >/dev/null 2>&1 && break; sleep 0.1; done
ctr -a /run/c.sock run --rm --cni --rootfs "$W/rootfs" x1 /bin/ip -o -4 addr show eth0 | sed 's/^/link: /' || tail "$W/log"
left
kill %1
"""


def run(script: str, tmp_path: Path) -> str:
    """What the script printed, in namespaces that end with it."""
    work = tmp_path / "w"
    work.mkdir()
    argv = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "bash", "-c", SANDBOX + script, "sandbox"]
    root = os.path.dirname(os.path.dirname(cni.BIN_DIR))
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "CONFLIST": CONFLIST, "BIN_DIR": cni.BIN_DIR}
    done = subprocess.run(
        [*argv, str(work), root, sys.executable], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=55, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def needs(*programs: str) -> None:
    missing = [p for p in programs if shutil.which(p, path="/usr/sbin:/usr/bin:/sbin:/bin") is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")


def test_podman_runs_a_container_on_our_plugins(tmp_path: Path) -> None:
    needs("podman", "busybox", "unshare")
    out = run(PODMAN, tmp_path)
    if "no-cni-backend" in out:
        pytest.skip(f"this podman has no CNI backend: {out.strip()}")
    assert "address: 10.88.0.2\n" in out
    assert re.search(r"link: .*mtu 1400 .*02:00:00:00:00:42", out.replace("\\", "")), out
    assert "answer: hello\n" in out
    assert "left: last_reserved_ip.0 lock \n" in out
    assert "left-" not in out
    assert "warning" not in out


def test_containerd_runs_a_container_on_our_plugins(tmp_path: Path) -> None:
    """`ctr run --rm --cni` calls DEL when the namespace is gone already: the real plugins leave their rules then."""
    needs("containerd", "ctr", "runc", "busybox", "unshare")
    out = run(CTR, tmp_path)
    assert "10.88.0.2/24" in out, out
    assert "left: last_reserved_ip.0 lock \n" in out
    assert "left-" not in out, out
