"""What the runtime decides without touching anything: logs, specs, capabilities, filters, control groups, flags, images."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsk8s.kernel import capabilities, cgroup, seccomp
from nsk8s.kernel.cgroup import Cgroups, limit_files, parse_mountinfo, shares_to_weight
from nsk8s.runtime import images, main, rootfs, spec
from nsk8s.runtime.errors import InvalidArgument, describe
from nsk8s.runtime.logs import MAX_LINE, Framer, stamp


def test_stamp():
    assert stamp(1_795_000_000_000_000_007) == b"2026-11-18T11:06:40.000000007Z"


@given(st.lists(st.binary(max_size=60).map(lambda b: b.replace(b"\r", b""))))
def test_framer_loses_nothing(pieces):
    framer = Framer("stdout")
    log = b"".join(framer.feed(p, 0) for p in pieces) + framer.finish(0)
    lines = log.split(b"\n")[:-1]
    assert all(line.startswith(b"1970-01-01T00:00:00.000000000Z stdout F ") for line in lines)
    whole = b"".join(pieces)
    assert b"\n".join(line.split(b" ", 3)[3] for line in lines) == whole.removesuffix(b"\n")


def test_long_line_is_cut():
    framer = Framer("stderr")
    out = framer.feed(b"x" * (2 * MAX_LINE + 5), 0) + framer.feed(b"yy\n", 0)
    assert [(line.split()[2], len(line.split()[3])) for line in out.splitlines()] == [(b"P", MAX_LINE), (b"P", MAX_LINE), (b"F", 7)]
    assert framer.finish(0) == b""


def test_capability_sets():
    default = capabilities.mask(capabilities.DEFAULT)
    assert capabilities.for_container([], [], False) == default == 0xA00425FB & ~(1 << 27)
    assert capabilities.for_container(["net_admin"], [], False) == default | 1 << 12
    assert capabilities.for_container([], ["CAP_NET_RAW"], False) == default & ~(1 << 13)
    assert capabilities.for_container(["NET_RAW"], ["ALL"], False) == 1 << 13
    assert capabilities.for_container([], ["ALL"], True) == capabilities.ALL
    with pytest.raises(ValueError, match='unknown capability "NOPE"'):
        capabilities.for_container(["NOPE"], [], False)


def run_filter(program: bytes, arch: int, number: int, flags: int = 0) -> int:
    """The BPF machine, as far as our filters use it."""
    data = struct.pack("=iIQQ", number, arch, 0, flags)
    code = [struct.unpack_from("=HBBI", program, i) for i in range(0, len(program), 8)]
    accumulator = at = 0
    while True:
        op, yes, no, k = code[at]
        at += 1
        if op == 0x20:
            accumulator = struct.unpack_from("=I", data, k)[0]
        elif op == 0x06:
            return k
        else:
            holds = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[op]
            at += yes if holds else no


ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026


def test_filter_denies_and_allows():
    arch = 0xC000003E
    plain = seccomp.build(capabilities.mask(capabilities.DEFAULT), "x86_64")
    verdict = lambda number, flags=0: run_filter(plain, arch, number, flags)  # noqa: E731
    assert [verdict(n) for n in (0, 1, 59, 101)] == [ALLOW] * 4  # read, write, execve, ptrace
    assert [verdict(n) for n in (165, 166, 155, 321, 250, 175, 304, 246)] == [EPERM] * 8
    assert verdict(272, 0x10000000) == EPERM  # unshare(CLONE_NEWUSER)
    assert verdict(272, 0x400) == ALLOW  # unshare(CLONE_FILES)
    assert verdict(56, 0x1200011) == ALLOW  # fork
    assert verdict(56, 0x10000011) == EPERM
    assert verdict(435) == ENOSYS
    assert verdict(0x40000000) == ENOSYS
    assert [verdict(41, family) for family in (1, 2, 10, 16, 40)] == [ALLOW] * 4 + [EPERM]  # socket; 40 is AF_VSOCK
    assert verdict(103) == EPERM  # syslog
    assert run_filter(plain, 0x40000003, 0) == EPERM  # i386
    admin = seccomp.build(capabilities.mask(["SYS_ADMIN"]), "x86_64")
    assert run_filter(admin, arch, 165) == ALLOW
    assert run_filter(admin, arch, 272, 0x10000000) == ALLOW
    assert run_filter(admin, arch, 175) == EPERM
    arm = seccomp.build(0, "aarch64")
    assert run_filter(arm, 0xC00000B7, 40) == EPERM
    assert run_filter(arm, 0xC00000B7, 220, 0x20000000) == EPERM
    assert run_filter(arm, 0xC00000B7, 63) == ALLOW
    assert [run_filter(arm, 0xC00000B7, 198, family) for family in (2, 40)] == [ALLOW, EPERM]
    assert seccomp.build(0, "riscv64") == b""


V1 = """\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw
"""


def test_hierarchies():
    v1, v2 = parse_mountinfo(V1)
    assert (v1["cpu"], v1["cpuacct"], v1["memory"], v2) == (
        "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/uni fied",
    )  # fmt: skip


@pytest.mark.parametrize(("shares", "weight"), [(0, 0), (1, 1), (2, 1), (1024, 39), (262144, 10000), (10**6, 10000)])
def test_weights(shares, weight):
    assert shares_to_weight(shares) == weight


def test_limit_files():
    resources = {"cpuQuota": 50000, "cpuPeriod": 100000, "cpuShares": 1024, "memoryLimitInBytes": 1 << 20, "pidsLimit": 10}
    assert limit_files(resources, True) == [
        ("cpu", "cpu.weight", "39"), ("cpu", "cpu.max", "50000 100000"), ("memory", "memory.max", "1048576"),
        ("memory", "memory.swap.max", "0"), ("pids", "pids.max", "10"),
    ]  # fmt: skip
    assert limit_files(resources, False) == [
        ("cpu", "cpu.shares", "1024"), ("cpu", "cpu.cfs_period_us", "100000"), ("cpu", "cpu.cfs_quota_us", "50000"),
        ("memory", "memory.limit_in_bytes", "1048576"), ("memory", "memory.memsw.limit_in_bytes", "1048576"), ("pids", "pids.max", "10"),
    ]  # fmt: skip
    assert limit_files({"cpuQuota": -1, "memoryLimitInBytes": -1, "pidsLimit": -1}, True) == [
        ("cpu", "cpu.max", "max 100000"), ("memory", "memory.max", "max"), ("memory", "memory.swap.max", "max"),
        ("pids", "pids.max", "max"),
    ]  # fmt: skip
    assert limit_files({}, True) == []


def fake_v2(root, monkeypatch, busy=()):
    """A folder that behaves as a v2 tree where controllers are handed down. `busy`: groups with processes of their own, which
    therefore hand nothing down (but for the real root, which this one then is not)."""
    (root / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (root / "cgroup.subtree_control").write_text("")
    plain_write, plain_mkdir = cgroup._write, os.mkdir

    def mkdir(path, mode=0o777):
        plain_mkdir(path, mode)
        for name in ("cgroup.subtree_control", "cgroup.procs"):
            (Path(path) / name).write_text("")

    def write(path, text):
        file = Path(path)
        if file.name != "cgroup.subtree_control":
            plain_write(path, text)
            return
        name = text.removeprefix("+")
        if str(file.parent.relative_to(root)) in busy:
            raise OSError(errno.EBUSY, "busy")
        offers = root / "cgroup.controllers" if file.parent == root else file.parent.parent / "cgroup.subtree_control"
        if name not in offers.read_text().split():
            raise OSError(errno.ENOENT, "no such controller here")
        file.write_text(f"{file.read_text().strip()} {name}".strip() + "\n")

    monkeypatch.setattr(cgroup, "_write", write)
    monkeypatch.setattr(cgroup.os, "mkdir", mkdir)
    return Cgroups(f"41 31 0:38 / {root} rw - cgroup2 cgroup2 rw\n")


def test_a_root_that_hands_nothing_down_leaves_no_controllers(tmp_path, monkeypatch):
    """Inside a container of its own: better no limits, and said so, than files that are not there."""
    groups = fake_v2(tmp_path, monkeypatch, busy=(".",))
    groups.create("/a/b")
    assert groups.v2_controllers == []
    assert not groups.has("pids")
    with pytest.raises(OSError, match="no memory control group"):
        groups.limit("/a/b", {"memoryLimitInBytes": 5})


def test_leaving_a_login_session(tmp_path):
    """systemd on v1 and hybrid machines: its own hierarchy has no controllers, and an empty v2 tree is its as well."""
    for name in ("pids", "systemd", "unified"):
        (tmp_path / name).mkdir()
    (tmp_path / "unified" / "cgroup.controllers").write_text("\n")
    lines = [
        f"1 0 0:1 / {tmp_path}/pids rw - cgroup cgroup rw,pids,freezer", f"2 0 0:2 / {tmp_path}/systemd rw - cgroup cgroup rw,xattr,name=systemd",
        f"3 0 0:3 / {tmp_path}/unified rw - cgroup2 cgroup2 rw",
    ]  # fmt: skip
    groups = Cgroups("\n".join(lines))
    assert (groups.roots, groups.tracking) == ([f"{tmp_path}/pids"], [f"{tmp_path}/systemd", f"{tmp_path}/unified"])
    for root in ("systemd", "unified"):
        (tmp_path / root / "nsk8s" / "c").mkdir(parents=True)
        (tmp_path / root / "nsk8s" / "c" / "cgroup.procs").write_text("")
    groups.leave_session("/nsk8s/c")
    for root in ("systemd", "unified"):
        file = tmp_path / root / "nsk8s" / "c" / "cgroup.procs"
        assert file.read_text() == "0"
        file.unlink()
    assert not (tmp_path / "pids" / "nsk8s").exists(), "what has controllers is joined apart"
    groups.remove("/nsk8s")
    assert not (tmp_path / "systemd" / "nsk8s").exists()
    assert not (tmp_path / "unified" / "nsk8s").exists()


def test_v2_tree(tmp_path, monkeypatch):
    groups = fake_v2(tmp_path, monkeypatch)
    assert (groups.version, groups.v2_controllers) == ("v2", ["cpu", "memory", "pids"])
    groups.create("/a/b/c")
    down = ["cpu", "memory", "pids"]
    assert [(tmp_path / p / "cgroup.subtree_control").read_text().split() for p in (".", "a", "a/b", "a/b/c")] == [*[down] * 3, []]
    assert groups.v2_controllers == down
    (tmp_path / "a/b/c/cgroup.procs").write_text("12\n13\n")
    (tmp_path / "a/b/c/memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    (tmp_path / "a/b/c/memory.current").write_text("1000\n")
    (tmp_path / "a/b/c/memory.stat").write_text("anon 300\ninactive_file 400\n")
    (tmp_path / "a/b/c/cpu.stat").write_text("usage_usec 7\nuser_usec 3\n")
    assert groups.oom_kills("/a/b/c") == 2
    for name in ("memory.max", "memory.swap.max", "memory.oom.group"):
        (tmp_path / "a/b/c" / name).write_text("")
    groups.limit("/a/b/c", {"memoryLimitInBytes": 5})
    assert (tmp_path / "a/b/c/memory.oom.group").read_text() == "", "a pod's group: who is the largest goes"
    groups.die_together("/a/b/c")
    assert (tmp_path / "a/b/c/memory.oom.group").read_text() == "1"
    assert groups.stats("/a/b/c") == {"cpuNs": 7000, "memoryUsage": 1000, "workingSet": 600, "rss": 300, "pids": 2}
    assert groups.all_processes("/a") == {12, 13}
    assert list(groups.mounts_for_container()) == [("", "cgroup2", "nsdelegate")]
    (tmp_path / "a/b/c/memory.max").write_text("")
    (tmp_path / "a/b/c/pids.max").write_text("")
    groups.limit("/a/b/c", {"memoryLimitInBytes": 5, "pidsLimit": 6})
    assert (tmp_path / "a/b/c/memory.max").read_text() == "5"
    (tmp_path / "a/b/c/cgroup.kill").write_text("")
    groups.kill("/a/b/c")
    assert (tmp_path / "a/b/c/cgroup.kill").read_text() == "1"


def test_missing_controller_is_refused(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    groups = Cgroups(f"41 31 0:38 / {tmp_path} rw - cgroup2 cgroup2 rw\n")
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError, match="no memory control group"):
        groups.limit("/x", {"memoryLimitInBytes": 5})
    assert Cgroups("").version == "none"


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("nginx", "nginx"), ("nginx:1.27-alpine", "nginx"), ("docker.io/library/nginx:latest", "nginx"), ("library/busybox", "busybox"),
        ("docker.io/curlimages/curl:8", "curlimages/curl"), ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause"),
        ("localhost:5000/a/b:1", "localhost:5000/a/b"), ("debian@sha256:00", "debian"), ("nsk8s/echo", "nsk8s/echo"),
    ],
)  # fmt: skip
def test_image_names(name, bare):
    assert images.normalize(name) == bare


def test_image_refs_are_the_same_for_every_tag():
    assert images.resolve("nsk8s/echo:1").ref == images.resolve("docker.io/nsk8s/echo").ref != images.resolve("nsk8s/dns").ref


def test_unknown_and_lacking_images(monkeypatch):
    with pytest.raises(images.ImageError, match=r'image "x/y:1" is not built in, and nsk8s downloads none. There are: alpine, '):
        images.resolve("x/y:1")
    monkeypatch.setattr(images.os, "access", lambda *_: False)
    with pytest.raises(images.ImageError, match='image "nginx:1" needs /usr/sbin/nginx on this machine: apt-get install nginx'):
        images.resolve("nginx:1")


SANDBOX = {"dir": "/s", "hostname": "h", "config": {"logDirectory": "/l"}}


def build(config, image=None, sandbox=SANDBOX):
    image = image or images.Image("i", ["/entry"], ["cmd"], env={"X": "1"}, user="nobody")
    return spec.build(
        sandbox, config, image, container_id="c", directory="/d", cgroup="/g", layers=[], trees=["/usr"], tmpfs=False, cgroup_mounts=[]
    )


@pytest.mark.parametrize(
    ("command", "args", "argv"),
    [([], [], ["/entry", "cmd"]), ([], ["a"], ["/entry", "a"]), (["c"], [], ["c"]), (["c"], ["a"], ["c", "a"])],
)
def test_command_and_args(command, args, argv):
    assert build({"command": command, "args": args})["argv"] == argv


def test_spec_defaults():
    built = build({"envs": [{"key": "X", "value": "2"}], "logPath": "a/0.log"})
    assert (built["uid"], built["gid"], built["groups"]) == (65534, 65534, [65534])
    assert built["env"] == {"PATH": images.PATH, "X": "2", "HOSTNAME": "h", "HOME": "/nonexistent"}
    assert built["noNewPrivs"] is True
    assert built["logPath"] == "/l/a/0.log"
    assert [m["containerPath"] for m in built["mounts"]] == ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]
    with pytest.raises(InvalidArgument, match="no command specified"):
        build({}, images.Image("i"))
    with pytest.raises(InvalidArgument, match="absolute containerPath"):
        build({"mounts": [{"containerPath": "x", "hostPath": "/y"}]})
    with pytest.raises(InvalidArgument, match="unable to find user mary"):
        build({"linux": {"securityContext": {"runAsUsername": "mary"}}})


@pytest.mark.parametrize(
    ("asked", "expected"),
    [({}, True), ({"privileged": True}, False), ({"noNewPrivs": False}, False), ({"noNewPrivs": True, "privileged": True}, True)],
)
def test_no_new_privs(asked, expected):
    assert build({"linux": {"securityContext": asked}})["noNewPrivs"] is expected


def test_sysctls():
    assert spec.check_sysctls({"net.ipv4.tcp_syncookies": "1"}, False, False) == [("net/ipv4/tcp_syncookies", "1")]
    for name, host_net, host_ipc in (("net.x", True, False), ("kernel.shmmax", False, True), ("vm.swappiness", False, False), ("net/../kernel/x", False, False)):
        with pytest.raises(InvalidArgument, match="is not in a separate kernel namespace"):
            spec.check_sysctls({name: "1"}, host_net, host_ipc)


def test_resolv_conf():
    dns = {"servers": ["10.96.0.10"], "searches": ["a", "b"], "options": ["ndots:5"]}
    assert spec.resolv_conf(dns, "host") == "search a b\nnameserver 10.96.0.10\noptions ndots:5\n"
    assert spec.resolv_conf({}, "host") == "host"


def test_overlay_options():
    assert rootfs.overlay_options(["/a:b", "/c,d"], "/u", "/w", True) == "lowerdir=/a\\:b:/c\\,d,upperdir=/u,workdir=/w,volatile"


def test_flags():
    flags = main.parse_flags(["--listen=/x", "--state-dir", "/y"])
    assert (flags["--listen"], flags["--state-dir"], flags["--cni-conf-dir"]) == ("/x", "/y", "/etc/cni/net.d")
    for argv, message in ((["--nope"], "unknown flag: --nope"), (["x"], "unexpected argument: x"), (["--listen"], "flag needs an argument")):
        with pytest.raises(ValueError, match=message):
            main.parse_flags(argv)


def test_errors_read_well():
    assert describe(FileNotFoundError(2, "No such file or directory", "/a")) == "/a: no such file or directory"
    assert describe(ValueError("x")) == "x"
    assert describe(ValueError()) == "ValueError"


def test_a_lane_is_so_wide_and_keeps_the_order() -> None:
    from nsk8s.runtime.lane import Lane

    lane, begun = Lane(2), []
    for name in "abcd":
        lane.enter(lambda name=name: begun.append(name))  # type: ignore[misc]
    assert begun == ["a", "b"]
    lane.leave()
    assert begun == ["a", "b", "c"]
    other = Lane(1)
    other.enter(lambda: begun.append("x"))
    assert begun[-1] == "x", "who hangs in one lane holds up nobody in another"
    for _ in range(3):
        lane.leave()
    assert (begun, lane.running) == (["a", "b", "c", "x", "d"], 0)
