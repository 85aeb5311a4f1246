"""Runs in a pod, as root: every way out that promise 6 names, really tried. Prints {name: evidence of success or ""}.

It knows what to look for from its first argument, a JSON object: `marker` (a file name that lies in many folders of the machine),
`pids` (processes of the machine and of another pod). `only` limits it to some names.
"""

import contextlib
import ctypes
import errno
import fcntl
import glob
import json
import os
import platform
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile

KNOWN = json.loads(sys.argv[1])
LIBC = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
FOLDERS = ("/root", "/home", "/var", "/var/lib", "/opt", "/srv", "/run", "/tmp", "/etc", "/")
ATTEMPTS = {}


def attempt(name):
    return lambda function: ATTEMPTS.setdefault(name, function)


def call(x86, arm, *args):
    """(result, errno name) of a system call by number."""
    ctypes.set_errno(0)
    result = LIBC.syscall(ctypes.c_long(x86 if X86 else arm), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    return result, errno.errorcode.get(ctypes.get_errno(), "")


def denied(x86, arm, *args):
    """Not refused as such: a call with senseless arguments gives another error than EPERM to those who may make it."""
    result, error = call(x86, arm, *args)
    return "" if result < 0 and error in ("EPERM", "ENOSYS") else f"{result} {error}"


def write(path, text):
    with open(path, "w") as f:
        f.write(text)
    return f"wrote {path}"


def keep(path):
    """Write back what a file holds already."""
    with open(path) as f:
        text = f.read()
    return write(path, text)


def run(*argv, **options):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, **options)
    return done.stdout + "ran" if done.returncode == 0 else ""


def forked(work):
    """What `work()` returns in a child."""
    read, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(end, str(work() or "").encode())
        finally:
            os._exit(0)
    os.close(end)
    os.waitpid(pid, 0)
    with os.fdopen(read) as f:
        return f.read()


def markers(root=""):
    return " ".join(p for f in FOLDERS if os.path.exists(p := f"{root}{f}/{KNOWN['marker']}"))


# ── devices and mounts ──

for name, kind, device in (("disk", stat.S_IFBLK, (254, 0)), ("memory", stat.S_IFCHR, (1, 1)), ("fuse", stat.S_IFCHR, (10, 229))):
    ATTEMPTS[f"mknod {name}"] = lambda kind=kind, device=device, name=name: (
        os.mknod(f"/tmp/dev-{name}", kind | 0o600, os.makedev(*device)) or "made"
    )


@attempt("device list")
def _():
    allowed = {"fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"}
    return " ".join(sorted(set(os.listdir("/dev")) - allowed - {"termination-log"}))


@attempt("device node that is not nodev")
def _():
    bad = []
    for line in open("/proc/self/mountinfo"):
        fields = line.split()
        kind = fields[fields.index("-") + 1]
        if kind not in ("devpts", "proc", "sysfs") and "nodev" not in fields[5] and not fields[4].startswith(("/dev", "/proc/")):
            bad.append(fields[4])
    return " ".join(bad)


ATTEMPTS["mount tmpfs"] = lambda: run("mount", "-t", "tmpfs", "none", "/mnt")
ATTEMPTS["mount proc"] = lambda: run("mount", "-t", "proc", "proc", "/mnt")
ATTEMPTS["mount sysfs"] = lambda: run("mount", "-t", "sysfs", "sysfs", "/mnt")
ATTEMPTS["mount cgroup"] = lambda: run("mount", "-t", "cgroup", "-o", "pids", "c", "/mnt") + run("mount", "-t", "cgroup2", "c", "/mnt")
ATTEMPTS["bind mount"] = lambda: run("mount", "--bind", "/proc", "/mnt")
ATTEMPTS["remount /proc/sys"] = lambda: run("mount", "-o", "remount,rw,bind", "/proc/sys")
ATTEMPTS["remount /sys"] = lambda: run("mount", "-o", "remount,rw", "/sys")
ATTEMPTS["umount a mask"] = lambda: run("umount", "/proc/sys") + run("umount", "/proc/kcore")
ATTEMPTS["new mount API"] = lambda: denied(428, 428, -100, b"/", 1) + denied(430, 430, b"tmpfs", 0)
ATTEMPTS["pivot_root"] = lambda: denied(155, 41, b"/nosuch", b"/nosuch")

# ── /proc and /sys ──

for path in ("kernel/core_pattern", "kernel/modprobe", "net/ipv4/ip_forward", "vm/panic_on_oom", "kernel/hostname", "vm/drop_caches"):
    ATTEMPTS["/proc/sys/" + path] = lambda path=path: keep("/proc/sys/" + path)
ATTEMPTS["binfmt_misc"] = lambda: write("/proc/sys/fs/binfmt_misc/register", ":x:M::xx::/x:")
ATTEMPTS["sysrq-trigger"] = lambda: write("/proc/sysrq-trigger", "h")
ATTEMPTS["irq affinity"] = lambda: keep("/proc/irq/default_smp_affinity")
ATTEMPTS["oom_score_adj"] = lambda: write("/proc/self/oom_score_adj", "-1000")
ATTEMPTS["uevent_helper"] = lambda: keep("/sys/kernel/uevent_helper")
ATTEMPTS["/sys writable"] = lambda: " ".join(d for d in ("/sys", "/sys/kernel", "/sys/fs/cgroup") if os.access(d, os.W_OK))
ATTEMPTS["debugfs, tracefs, securityfs"] = lambda: " ".join(
    d for d in ("/sys/kernel/debug", "/sys/kernel/tracing", "/sys/kernel/security", "/sys/fs/bpf", "/sys/fs/pstore")
    if os.path.isdir(d) and os.listdir(d)
)  # fmt: skip
for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/sys/firmware", "/sys/devices/virtual/powercap"):

    @attempt("masked " + path)
    def _(path=path):
        if not os.path.exists(path):
            return ""
        if os.path.isdir(path):
            return " ".join(os.listdir(path))
        with open(path, "rb") as f:
            return repr(f.read(8))[2:-1]


# ── the machine's files ──

ATTEMPTS["the machine's folders"] = markers
ATTEMPTS["/proc/1/root"] = lambda: markers("/proc/1/root") + markers("/proc/1/root/../../..") + markers("/proc/1/cwd/../../..")
ATTEMPTS["/proc/PID/root of the machine"] = lambda: "".join(markers(f"/proc/{pid}/root") for pid in KNOWN["pids"])


@attempt("chroot breakout")
def _():
    def work():
        here = os.open("/", os.O_RDONLY)
        os.makedirs("/tmp/jail", exist_ok=True)
        os.chroot("/tmp/jail")
        os.fchdir(here)
        for _ in range(64):
            os.chdir("..")
        os.chroot(".")
        return markers()

    return forked(work)


@attempt("open_by_handle_at")
def _():
    """The root folder's handle is a guess that works on ext4 and xfs (the original `shocker`)."""
    handle = ctypes.create_string_buffer(b"\x08\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0")
    fd = os.open("/etc/hosts", os.O_RDONLY)  # a bind of the machine's file system
    result, error = call(304, 265, fd, handle, os.O_RDONLY)
    return "" if error == "EPERM" else f"{result} {error}"


@attempt("/etc/shadow and friends")
def _():
    seen = []
    with contextlib.suppress(OSError):
        seen += [line for line in open("/etc/shadow") if "$" in line]
    seen += [p for p in ("/etc/kubernetes", "/etc/ssh", "/etc/sudoers", "/etc/crontab") if os.path.exists(p)]
    return " ".join(seen)


ATTEMPTS["sockets of the machine"] = lambda: " ".join(
    glob.glob("/run/*.sock") + glob.glob("/run/*/*.sock") + glob.glob("/var/run/*.sock") + glob.glob("/run/nsk8s*")
)


@attempt("descriptors of the node")
def _():
    seen = {fd: os.readlink(f"/proc/1/fd/{fd}") for fd in os.listdir("/proc/1/fd")}
    return " ".join(f"{fd}={to}" for fd, to in seen.items() if not to.startswith("pipe:") and to != "/dev/null")


# ── other processes ──

ATTEMPTS["processes of the machine"] = lambda: " ".join(
    f"{pid} {text}" for pid in os.listdir("/proc") if pid.isdigit()
    and not (text := open(f"/proc/{pid}/cmdline").read().replace("\0", " ")).startswith(("sleep", "python3", "/usr/bin/python3"))
)  # fmt: skip


@attempt("signals to the machine's processes")
def _():
    hit = ""
    for pid in KNOWN["pids"]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, 0)
            hit += f"{pid} {open(f'/proc/{pid}/comm').read()}"
    return hit


@attempt("ptrace of other pods and the machine")
def _():
    hit = ""
    for pid in KNOWN["pids"]:
        result, error = call(101, 117, 16, pid, 0, 0)  # PTRACE_ATTACH
        hit += f"{pid} {error}" if result == 0 else ""
        result, _ = call(310, 270, pid, 0, 0, 0, 0, 0)  # process_vm_readv
        hit += f"{pid} read" if result >= 0 else ""
    return hit


@attempt("setns to the node")
def _():
    hit = ""
    for pid in (*KNOWN["pids"], 1):
        for kind in ("mnt", "net", "pid", "uts", "cgroup"):
            with contextlib.suppress(OSError):
                fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
                hit += forked(lambda fd=fd, what=f"{pid} {kind}": what if call(308, 268, fd, 0)[0] == 0 else "")
                os.close(fd)
    return hit


for flag, name in ((0x10000000, "user"), (0x20000, "mount"), (0x40000000, "network"), (0x20000000, "pid"), (0x02000000, "cgroup")):
    ATTEMPTS[f"unshare {name}"] = lambda flag=flag: forked(lambda: "made" if call(272, 97, flag)[0] == 0 else "")
ATTEMPTS["clone with a user namespace"] = lambda: run("unshare", "--user", "--map-root-user", "--mount", "true")


@attempt("set-user-id program")
def _():
    folder = tempfile.mkdtemp(dir="/var")
    os.chmod(folder, 0o755)
    program = shutil.copy(os.path.realpath("/usr/bin/python3"), folder + "/py")
    os.chmod(program, 0o4755)
    done = subprocess.run([program, "-c", "import os; print(os.geteuid())"], user=1000, group=1000, capture_output=True, text=True)
    return "euid 0" if done.stdout.strip() == "0" else ""


ATTEMPTS["no_new_privs is off"] = lambda: "" if LIBC.prctl(39, 0, 0, 0, 0) == 1 else "off"
ATTEMPTS["no system call filter"] = lambda: "" if "Seccomp:\t2" in open("/proc/self/status").read() else "none"


@attempt("capabilities beyond the usual")
def _():
    usual = 0xA80425FB & ~(1 << 27)  # containerd's default without MKNOD
    have = next(int(line.split()[1], 16) for line in open("/proc/self/status") if line.startswith("CapBnd"))
    return hex(have & ~usual) if have & ~usual else ""


# ── control groups ──


@attempt("release_agent")
def _():
    hit = ""
    for path in [*glob.glob("/sys/fs/cgroup/*/release_agent"), "/sys/fs/cgroup/release_agent"]:
        with contextlib.suppress(OSError):
            hit += write(path, "/x")
    return hit


@attempt("cgroup writes")
def _():
    hit = ""
    for root in ["/sys/fs/cgroup", *glob.glob("/sys/fs/cgroup/*/")]:
        with contextlib.suppress(OSError):
            os.mkdir(f"{root}/mine")
            hit += f"mkdir {root} "
            os.rmdir(f"{root}/mine")
        for name in ("cgroup.procs", "pids.max", "memory.limit_in_bytes", "memory.max", "devices.allow"):
            with contextlib.suppress(OSError):
                os.close(os.open(f"{root}/{name}", os.O_WRONLY))
                hit += f"{root}/{name} "
    return hit


ATTEMPTS["cgroup path of the machine"] = lambda: "".join(
    line for line in open("/proc/self/cgroup") if not line.rstrip().endswith(":/")
)

# ── the kernel ──

ATTEMPTS["init_module"] = lambda: denied(175, 105, 0, 0, b"")
ATTEMPTS["delete_module"] = lambda: denied(176, 106, b"nosuch", 0)
ATTEMPTS["modprobe"] = lambda: run("modprobe", "dummy")
ATTEMPTS["kexec_load"] = lambda: denied(246, 104, 0, 0, 0, 0xFFFF)
ATTEMPTS["reboot"] = lambda: denied(169, 142, 0, 0, 0, 0)
ATTEMPTS["bpf"] = lambda: denied(321, 280, 0, 0, 0)
ATTEMPTS["perf_event_open"] = lambda: denied(298, 241, 0, 0, -1, -1, 0)
ATTEMPTS["keyctl"] = lambda: denied(250, 219, 0, -3, 1) + denied(248, 217, b"user", b"x", b"y", 1, -3)
ATTEMPTS["io_uring"] = lambda: denied(425, 425, 1, 0)
ATTEMPTS["userfaultfd"] = lambda: denied(323, 282, 0)
ATTEMPTS["kernel log"] = lambda: denied(103, 116, 10, 0, 0)
ATTEMPTS["clock"] = lambda: denied(227, 112, 0, 0)
ATTEMPTS["swapon"] = lambda: denied(167, 224, b"/nosuch", 0)
ATTEMPTS["acct"] = lambda: denied(163, 89, b"/tmp/acct")
ATTEMPTS["fanotify"] = lambda: denied(300, 262, 0, 0)
ATTEMPTS["iopl"] = lambda: denied(172, 5000, 3) if X86 else ""
ATTEMPTS["hostname"] = lambda: socket.sethostname("other") or "set"


@attempt("vsock to the hypervisor")
def _():
    with contextlib.suppress(OSError):
        socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
        return "made"
    return ""


@attempt("keystrokes into a terminal of others")
def _():
    hit = ""
    for fd in (0, 1, 2):
        with contextlib.suppress(OSError):
            fcntl.ioctl(fd, 0x5412, b"x")  # TIOCSTI
            hit += str(fd)
    return hit


@attempt("network of the node")
def _():
    return " ".join(n for n in os.listdir("/sys/class/net") if n not in ("lo", "eth0"))


def main():
    signal.alarm(60)
    out = {}
    for name, function in ATTEMPTS.items():
        if KNOWN.get("only") and name not in KNOWN["only"]:
            continue
        try:
            out[name] = str(function() or "")
        except (OSError, subprocess.SubprocessError):
            out[name] = ""
    print(json.dumps(out))


main()
