"""The check at the end of every run sees what a test might leave: each kind of thing is left, in namespaces of this test's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

CHILD = """
import json, os, subprocess, sys
sys.path.insert(0, sys.argv[1])
import machine_state

def sh(line):
    subprocess.run(line, shell=True, check=True, stdout=subprocess.DEVNULL)

def changes():
    after = machine_state.snapshot()
    del after["process in a control group of ours"]  # other tests' come and go
    return machine_state.differences({part: before[part] for part in after}, after)

# What others have mounted now is gone here, too, when they remove its place: the kernel detaches it in every mount namespace.
for line in reversed(open("/proc/self/mountinfo").read().splitlines()):
    place = line.split()[4]
    if place.startswith(("/run/", "/var/lib/", "/tmp/", "/sys/fs/cgroup/")):
        sh(f"umount -l '{place}' 2>&1 || true")  # they may just have done so
for folder in ("/run", "/var/lib", "/sys/fs/cgroup", "/etc/cni"):
    sh(f"mkdir -p {folder} && mount -t tmpfs own {folder}")
os.environ["HOME"] = "/run/home"
sh("mkdir -p /run/netns /run/home/.kube && echo old > /run/home/.kube/config")
before = machine_state.snapshot()
assert not (found := changes()), found
for line in sys.argv[2:]:
    sh(line)
print(json.dumps(changes()))
"""
LEFT = {
    "a link": ("ip link add left0 type bridge", "link left0 is new: bridge mtu 1500 master -"),
    "a link that is changed": ("ip link set lo mtu 1500", "link lo was '- mtu 65536 master -' and is '- mtu 1500 master -'"),
    "an address": ("ip address add 192.0.2.7/24 dev lo", "address lo 192.0.2.7/24 is new: global"),
    "a route": ("ip route add unreachable 198.51.100.0/24", "route -4 7 198.51.100.0/24"),
    "a rule": ("ip rule add from 192.0.2.7 table 77 priority 7", 'rule {"priority": 7, "src": "192.0.2.7"'),
    "a sysctl": ("echo 1 > /proc/sys/net/ipv4/conf/all/accept_local", "sysctl ipv4/conf/all/accept_local was '0' and is '1'"),
    "an nftables rule": ("nft add table ip left", "nft ruleset  is new: table ip left"),
    "a legacy iptables table": ("iptables-legacy -t mangle -L", "legacy iptables table ip_tables_names: mangle is new"),
    "a named network namespace": ("touch /run/netns/left", "named network namespace left is new"),
    "a mount": ("mkdir /run/left && mount -t tmpfs left /run/left", "mount /run/left is new: tmpfs left"),
    "a control group": ("mkdir -p /sys/fs/cgroup/pids/nsk8s/c", "cgroup /sys/fs/cgroup/pids/nsk8s is new"),
    "a cluster's state": ("mkdir -p /var/lib/nsk8s/c", "file /var/lib/nsk8s/c is new"),
    "a cluster's run directory": ("mkdir -p /run/nsk8s/c", "file /run/nsk8s/c is new"),
    "a CNI configuration": ("mkdir -p /etc/cni/net.d && touch /etc/cni/net.d/10-nsk8s.conflist", "file /etc/cni/net.d/10-nsk8s.conflist is new"),
    "a changed kubeconfig": ("echo new > ~/.kube/config", "file /run/home/.kube/config was"),
}


@pytest.mark.parametrize("kind", LEFT)
def test_what_is_left_is_named(kind: str) -> None:
    command, said = LEFT[kind]
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-c", CHILD, str(Path(__file__).parents[2]), command],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    problems = json.loads(done.stdout)
    assert any(p.startswith(said) for p in problems), problems


def test_a_process_in_a_control_group_of_ours_is_named() -> None:
    import machine_state

    from nsk8s.kernel.cgroup import Cgroups

    groups, path = Cgroups(), "/nsk8s/machine0test"
    before = machine_state.snapshot()
    groups.create(path)
    try:
        with subprocess.Popen(["sleep", "60"], env={}, preexec_fn=lambda: groups.join(path)) as child:
            problems = machine_state.differences(before, machine_state.snapshot())
            child.kill()
        assert f"process in a control group of ours {child.pid} is new: sleep" in problems
    finally:
        groups.kill_and_wait(path, 5)
        groups.remove(path)
        groups.remove_if_empty("/nsk8s")
