"""A node's own files, on a machine that has things of its own where Kubernetes puts them. In a mount namespace of this test's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

CHILD = """
import json, os, subprocess, sys
from pathlib import Path
from nsk8s.kernel import machine

def sh(line):
    subprocess.run(line, shell=True, check=True)

# A machine with podman and a real cluster on it: files in its /etc, laid over the true one.
sh("mount -t tmpfs own /mnt && mkdir -p /mnt/upper/cni/net.d /mnt/upper/kubernetes/pki /mnt/work /mnt/node")
sh("echo '{}' > /mnt/upper/cni/net.d/00-podman.conflist; echo secret > /mnt/upper/kubernetes/pki/ca.key; echo machine > /mnt/upper/theirs")
sh("mount -t overlay machine /etc -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work")
before = [os.path.exists("/etc/cni/net.d/00-podman.conflist"), os.path.exists("/etc/kubernetes/pki/ca.key")]
for boot in (1, 2):
    if os.fork() == 0:
        os.unshare(0x00020000) if hasattr(os, "unshare") else __import__("ctypes").CDLL(None).unshare(0x00020000)
        machine.furnish(Path("/mnt/node"))
        seen = {
            "cni": sorted(os.listdir("/etc/cni")), "kubernetes": sorted(os.listdir("/etc/kubernetes")),
            "theirs": Path("/etc/theirs").read_text(), "run": sorted(os.listdir("/run")),
        }
        Path("/etc/cni/net.d").mkdir(exist_ok=True)
        Path("/etc/cni/net.d/10-own.conflist").write_text("{}")
        Path(f"/mnt/seen{boot}").write_text(json.dumps(seen))
        os._exit(0)
    assert os.wait()[1] == 0
print(json.dumps([before, *(json.loads(Path(f"/mnt/seen{b}").read_text()) for b in (1, 2)), os.listdir("/etc/cni/net.d")]))
"""


def test_what_the_machine_has_in_its_etc_for_cni_and_kubernetes_is_not_the_nodes() -> None:
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--uts", "--propagation", "private", sys.executable, "-c", CHILD],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, first, second, machines = json.loads(done.stdout)
    assert before == [True, True], "the machine has them"
    assert first["theirs"] == "machine\n", "the rest of /etc is the machine's"
    assert (first["cni"], first["kubernetes"]) == ([], [])
    assert (second["cni"], second["kubernetes"]) == (["net.d"], []), "the second boot finds what the first wrote"
    assert "10-own.conflist" not in machines
