"""The check at the end of every test run can fail."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import machine_state

EMPTY: machine_state.State = {
    "link": {"lo": "device"},
    "sysctl": {"ipv4/ip_forward": "0", "ipv4/conf/eth0/rp_filter": "0"},
    "file": {},
    "mount": {"/": "ext4"},
}


def test_no_difference() -> None:
    assert machine_state.differences(EMPTY, copy.deepcopy(EMPTY)) == []


def test_new_gone_and_changed_things_are_named() -> None:
    after = copy.deepcopy(EMPTY)
    after["link"] = {"veth0": "veth"}
    after["sysctl"]["ipv4/ip_forward"] = "1"
    after["file"]["/run/nsk8s/x"] = ""
    assert machine_state.differences(EMPTY, after) == [
        "link lo is gone",
        "link veth0 is new: veth",
        "sysctl ipv4/ip_forward was '0' and is '1'",
        "file /run/nsk8s/x is new",
    ]


def test_of_a_tree_of_cgroups_the_top_is_named() -> None:
    after = {"cgroup": {"/sys/fs/cgroup/nsk8s": "", "/sys/fs/cgroup/nsk8s/c": "", "/sys/fs/cgroup/nsk8s/c/node1": ""}}
    assert machine_state.differences({"cgroup": {}}, after) == ["cgroup /sys/fs/cgroup/nsk8s is new"]


def test_a_module_may_bring_sysctls_but_not_filter_the_hosts_bridges() -> None:
    after = copy.deepcopy(EMPTY)
    after["sysctl"] |= {"bridge/bridge-nf-call-iptables": "0", "netfilter/nf_log_all_netns": "0"}
    assert machine_state.differences(EMPTY, after) == []
    after["sysctl"]["bridge/bridge-nf-call-iptables"] = "1"
    assert machine_state.differences(EMPTY, after) == ["sysctl bridge/bridge-nf-call-iptables is new: 1"]


def test_a_process_is_found_by_its_mark_until_it_ends() -> None:
    mark = f"NSK8S_TEST_MARK={os.getpid()}"
    name, value = mark.split("=")
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"], env={name: value}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert [p.split(" ", 1)[0] for p in machine_state.processes(mark)] == [str(child.pid)]
        child.communicate(b"\n")
    assert machine_state.processes(mark) == []


def test_a_process_that_overwrote_its_environment_is_found_by_its_title() -> None:
    before = machine_state._titled()
    code = "import setproctitle, sys, time; setproctitle.setproctitle('kubelet c-node1'); print(1, flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    problems = machine_state.differences({"titled process": before}, {"titled process": machine_state._titled()})
    child.communicate()
    assert [p for p in problems if f" {child.pid} (" in p and p.endswith("is new: kubelet c-node1")]
    after = machine_state._titled()
    assert not [t for t in after if t.startswith(f"{child.pid} ")]
    assert machine_state.differences({"titled process": {"1 (started at 1)": "kubelet x"}}, {"titled process": {}}) == []
