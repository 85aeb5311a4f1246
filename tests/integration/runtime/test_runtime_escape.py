"""Promise 6: as root in a pod, each classic way out fails."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest
from runtime_node import Pod, RuntimeFailure

from nsk8s.kernel import capabilities

# Each must print exactly FAILED: the attempt was made and refused.
ESCAPES = {
    "core_pattern": "echo '|/x' > /proc/sys/kernel/core_pattern",
    "modprobe path": "echo /x > /proc/sys/kernel/modprobe",
    "ip_forward of the pod": "echo 0 > /proc/sys/net/ipv4/ip_forward",
    "sysrq": "echo h > /proc/sysrq-trigger",
    "irq": "echo 1 > /proc/irq/default_smp_affinity",
    "mknod of a disk": "mknod /tmp/disk b 254 0",
    "mknod of memory": "mknod /tmp/mem c 1 1",
    "mount tmpfs": "mount -t tmpfs none /mnt",
    "mount proc": "mount -t proc proc /mnt",
    "mount disk": "mount /dev/vda /mnt",
    "bind mount": "mount --bind /proc /mnt",
    "umount of a mask": "umount /proc/kcore",
    "remount proc/sys rw": "mount -o remount,rw,bind /proc/sys",
    "remount sys rw": "mount -o remount,rw /sys",
    "write to sys": "echo 1 > /sys/kernel/profiling",
    "uevent_helper": "echo /x > /sys/kernel/uevent_helper",
    "cgroup write": "mkdir /sys/fs/cgroup/memory/x || mkdir /sys/fs/cgroup/x",
    "release_agent": "f=$(find /sys/fs/cgroup -name release_agent | head -n1); echo /x > ${f:-/sys/fs/cgroup/release_agent}",
    "cgroup limits": "echo 1 > /sys/fs/cgroup/pids/pids.max",
    "user namespace": "unshare -U true",
    "mount namespace": "unshare -m true",
    "network namespace": "unshare -n true",
    "setns to a host process": "nsenter -t 1 -m -p cat /etc/hostname.of.host",
    "module": "insmod /lib/modules/x.ko || modprobe dummy",
    "kexec": "python3 -c 'import ctypes,os; l=ctypes.CDLL(None,use_errno=True); r=l.syscall(320,-1,-1,0,0,0); e=ctypes.get_errno(); print(r,e); os._exit(0 if e!=1 else 1)'",
    "bpf": "python3 -c 'import ctypes,os; l=ctypes.CDLL(None,use_errno=True); r=l.syscall(321,0,0,0); os._exit(0 if ctypes.get_errno()!=1 else 1)'",
    "keyctl": "python3 -c 'import ctypes,os; l=ctypes.CDLL(None,use_errno=True); r=l.syscall(250,0,-3,1); os._exit(0 if r>=0 else 1)'",
    "open_by_handle_at": "python3 -c 'import ctypes,os; l=ctypes.CDLL(None,use_errno=True); r=l.syscall(304,3,0,0); os._exit(0 if ctypes.get_errno()!=1 else 1)'",
    "kcore": "test -s /proc/kcore || head -c1 /proc/kcore | grep -q .",
    "keys": "head -c1 /proc/keys | grep -q .",
    "timer_list": "head -c1 /proc/timer_list | grep -q .",
    "firmware": "ls -A /sys/firmware | grep -q .",
    "raw disk": "ls /dev/vd* /dev/sd* /dev/nvme* /dev/mem /dev/kmsg /dev/kvm /dev/fuse",
    "clock": "date -s 2001-01-01",
    "hostname": "hostname other",
    "reboot": "reboot -f",
    "swap": "swapon /dev/vda",
    "host processes": "test $(ls -d /proc/[0-9]* | wc -l) -gt 5",
    "ptrace of process 1 of the host": "test -e /proc/1/root/work -o -e /proc/1/root/lost+found",
    "host home": "ls -A /root | grep -q . || ls -A /home | grep -q . || ls -A /var/lib/dpkg",
    "host shadow": "grep -q '\\$' /etc/shadow",
    "host etc": "ls /etc/kubernetes || ls /etc/ssh || ls /etc/cron.d || ls /etc/ssl/private",
    "host run": "ls /run/nsk8s || ls /run/netns || ls /var/run/docker.sock",
    "host tmp": "ls -A /tmp | grep -q .",
    "device node over nodev": "cp -a /dev/null /root/null && echo x > /root/null",
}


@pytest.fixture(scope="module")
def shell(node):
    client = node.connect()
    pod = Pod(node, client)
    container = pod.start("/bin/sleep", "1000", image="debian")
    yield lambda script: pod.exec(container, "/bin/sh", "-c", script)
    pod.remove()
    client.close()


@pytest.mark.parametrize("name", ESCAPES)
def test_escape_fails(shell, name):
    code, out, err = shell(f"if {{ {ESCAPES[name]}; }} >/dev/null 2>&1; then echo ESCAPED; else echo FAILED; fi")
    assert (code, out) == (0, "FAILED\n"), (out, err)


@pytest.mark.parametrize("name", ["core_pattern", "mknod of a disk", "mount tmpfs", "release_agent", "user namespace"])
def test_escape_fails_for_the_first_process_as_well(pod, name):
    _, out = pod.run(f"if {{ {ESCAPES[name]}; }} >/dev/null 2>&1; then echo ESCAPED; else echo FAILED; fi")
    assert out == "FAILED\n"


def test_no_inherited_descriptors(pod):
    script = "for f in /proc/self/fd/*; do readlink $f; done | sort"
    for image in ("debian", "busybox"):
        _, out = pod.run(f"exec 2>&1; {script}", image=image)
        targets = [t for t in out.split() if not t.startswith("pipe:") and t not in ("/dev/null",) and not t.startswith("/proc/")]
        assert targets == []
    container = pod.start("sleep", "100")
    _, out, _ = pod.exec(container, "/usr/bin/python3", "-c", "import os; print([os.readlink('/proc/self/fd/%s'%f) for f in ('3','4','5','6','7','8') if os.path.lexists('/proc/self/fd/'+f)])")
    assert "socket" not in out
    assert "/sys" not in out


def test_capabilities(pod):
    container = pod.start("sleep", "1000")
    pid = pod.container(container)["pid"]
    default = capabilities.mask(capabilities.DEFAULT)
    assert caps(pid) == {"CapInh": 0, "CapPrm": default, "CapEff": default, "CapBnd": default, "CapAmb": 0}
    status = Path(f"/proc/{pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    _, out, _ = pod.exec(container, "grep", "-E", "^(Cap|NoNewPrivs|Seccomp:)", "/proc/self/status")
    assert f"CapEff:\t{default:016x}" in out
    assert f"CapBnd:\t{default:016x}" in out
    assert "NoNewPrivs:\t1" in out
    assert "Seccomp:\t2" in out


def caps(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1], 16) for line in lines if line.startswith("Cap")}


def test_capabilities_added_and_dropped(pod):
    def bounding(add, drop, **more):
        container = pod.start(
            "sleep", "100",
            linux={"securityContext": {"capabilities": {"addCapabilities": add, "dropCapabilities": drop}, **more}},
        )  # fmt: skip
        return caps(pod.container(container)["pid"])

    assert bounding([], ["ALL"])["CapBnd"] == 0
    assert bounding(["NET_ADMIN"], ["ALL"])["CapEff"] == capabilities.mask(["NET_ADMIN"])
    have = caps(os.getpid())["CapBnd"]
    assert bounding(["ALL"], ["SYS_ADMIN"])["CapEff"] == have & ~capabilities.mask(["SYS_ADMIN"])
    user = bounding([], [], runAsUser={"value": 1000}, runAsGroup={"value": 1000}, supplementalGroups=[2000])
    assert user["CapEff"] == user["CapPrm"] == user["CapAmb"] == 0
    assert user["CapBnd"] == capabilities.mask(capabilities.DEFAULT)


def test_writes_stay_in_the_container(pod):
    marker = f"nsk8s-marker-{os.getpid()}"
    code, out = pod.run(f"echo x > /usr/{marker} && echo x > /etc/{marker} && rm /usr/bin/busybox && echo done")
    assert (code, out) == (0, "done\n")
    assert not os.path.exists(f"/usr/{marker}")
    assert not os.path.exists(f"/etc/{marker}")
    assert os.path.exists("/usr/bin/busybox")


def test_readonly_root(pod):
    code, out = pod.run(
        "touch /x || echo root; touch /usr/x || echo usr; touch /tmp/x || echo tmp; touch /dev/shm/x && echo shm",
        linux={"securityContext": {"readonlyRootfs": True}},
    )
    assert [line for line in out.splitlines() if "cannot" not in line] == ["root", "usr", "tmp", "shm"]
    assert code == 0


def test_privileged_is_root_on_the_machine(pod):
    code, out = pod.run(
        "mount -t tmpfs none /mnt && echo mounted; test -b /dev/vda -o -c /dev/mem -o -c /dev/kmsg && echo devices; "
        "echo 1 > /proc/sys/net/ipv4/ip_forward && echo proc",
        linux={"securityContext": {"privileged": True}},
    )
    assert (code, out) == (0, "mounted\ndevices\nproc\n")


def test_allowed_things_work(pod):
    code, out = pod.run(
        "id -u; chown 1:1 /tmp && echo chown; ls /dev | sort | tr '\\n' ' '; "
        "cat /etc/resolv.conf; hostname; touch /etc/new && echo etc; python3 -c 'import ssl,json; print(len(ssl.create_default_context().get_ca_certs())>0)'"
    )
    assert out.splitlines() == [
        "0", "chown",
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero search default.svc.cluster.local",
        "nameserver 10.96.0.10", "options ndots:5", pod.config["hostname"], "etc", "True",
    ]  # fmt: skip
    assert code == 0


def test_ping_without_capabilities(pod):
    """ping_group_range is open in pods, as with containerd 2."""
    script = "import socket; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM,1); s.sendto(b'\\x08\\0\\0\\0\\0\\0\\0\\0',('127.0.0.1',0)); print(s.recv(9)[0])"
    container = pod.start("python3", "-c", script, linux={"securityContext": {"runAsUser": {"value": 1000}}})
    assert pod.wait_exit(container)["exitCode"] == 0
    assert pod.log(container) == "0\n"


def test_own_executable_is_out_of_reach(pod, tmp_path):
    """CVE-2019-5736: neither at start nor by exec can a script become the runtime's own interpreter."""
    script = tmp_path / "evil"
    script.write_text("#!/proc/self/exe\n")
    script.chmod(0o755)
    mounts = [{"containerPath": "/v", "hostPath": str(tmp_path)}]
    container = pod.create("/v/evil", mounts=mounts)
    with pytest.raises(RuntimeFailure, match="permission denied"):
        pod.client.call("StartContainer", {"containerId": container})
    container = pod.start("sleep", "100", mounts=mounts)
    for path in ("/v/evil", "/proc/self/exe"):
        with pytest.raises(RuntimeFailure, match="permission denied"):
            pod.exec(container, path)


def test_nothing_is_imported_from_the_container(pod):
    """Modules planted in the container must not run in the runtime's fork."""
    container = pod.start(
        "sh", "-c", "for d in /usr/lib/python3*; do for m in resource traceback encodings/x codecs signal; do "
        "echo 'open(\"/planted\",\"w\")' > $d/$m.py; done; rm -rf $d/lib-dynload; done; sleep 1000",
    )  # fmt: skip
    for _ in range(3):
        pod.exec(container, "true")
        with pytest.raises(RuntimeFailure):
            pod.exec(container, "nosuch")
    assert pod.exec(container, "test", "-e", "/planted")[0] == 1


def shared_pod(node, client):
    options = {"namespaceOptions": {"pid": "POD"}}
    return Pod(node, client, linux={"securityContext": options})


def test_process_1_of_a_shared_namespace_has_nothing_to_take(node, client):
    pod = shared_pod(node, client)
    caps = {"securityContext": {"capabilities": {"addCapabilities": ["SYS_PTRACE"]}}}
    container = pod.start("sleep", "1000", linux=caps)
    code, out, err = pod.exec(container, "sh", "-c", "cat /proc/1/comm && ls -A /proc/1/root/ && ls /proc/1/fd && grep -E '^Cap(Eff|Prm|Bnd)' /proc/1/status")
    assert (code, err) == (0, "")
    assert out.split("\n")[0] == "pause"
    assert out.split()[1:4] == ["0", "1", "2"], "no files; descriptors 0 to 2"
    assert out.count("0000000000000000") == 3
    pod.remove()


SPY = """
import os
seen = set()
me = {"1", str(os.getpid())}
import time
start = time.monotonic()
print("ready", flush=True)
while (lasted := time.monotonic() - start) < 2 or (("root", "own") not in seen and lasted < 60):
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or pid in me:
            continue
        for what in ("root", "cwd", "exe"):
            try:
                fd = os.open(f"/proc/{pid}/{what}", os.O_PATH)
            except OSError as e:
                seen.add((what, type(e).__name__))
                continue
            if what == "exe":
                try:
                    os.close(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY))
                    seen.add((what, "WRITABLE " + os.readlink(f"/proc/{pid}/exe")))
                except OSError:
                    seen.add((what, "not writable"))
            else:
                marker = os.path.exists(f"/proc/self/fd/{fd}/" + os.environ["MARKER"])
                seen.add((what, "THE MACHINE" if marker else "own"))
            os.close(fd)
print(sorted(seen), flush=True)
"""


def test_an_exec_is_never_seen_with_the_machine_in_its_hands(pod, tmp_path):
    """A container with CAP_SYS_PTRACE watches every process that comes into its namespace by exec, from its first moment."""
    (tmp_path / "marker").write_text("x")
    caps = {"securityContext": {"capabilities": {"addCapabilities": ["SYS_PTRACE"]}}}
    spy = pod.start(
        "python3", "-c", SPY, linux=caps, envs=[{"key": "MARKER", "value": str(tmp_path / "marker").lstrip("/")}],
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while "ready" not in pod.log(spy) and time.monotonic() < deadline:
        time.sleep(0.01)
    while pod.container(spy)["state"] == "CONTAINER_RUNNING":
        with contextlib.suppress(RuntimeFailure):  # it may just have ended
            pod.exec(spy, "true")
    seen = pod.log(spy)
    assert "('root', 'own')" in seen, "the spy did see processes"
    assert "MACHINE" not in seen
    assert "WRITABLE" not in seen


def test_without_the_filter_only_when_asked_for(pod):
    code, out = pod.run(
        "grep Seccomp: /proc/self/status; grep NoNewPrivs /proc/self/status",
        linux={"securityContext": {"seccomp": {"profileType": "Unconfined"}}},
    )
    assert (code, out.split()) == (0, ["Seccomp:", "0", "NoNewPrivs:", "1"])
