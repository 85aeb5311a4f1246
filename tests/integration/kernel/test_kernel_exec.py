"""A process whose executable cannot be written to by way of /proc."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys

import pytest

from nsk8s.kernel import process

pytestmark = pytest.mark.root


def test_the_file_of_a_readonly_exec_cannot_be_written_even_when_it_has_ended(tmp_path):
    program = tmp_path / "program"
    shutil.copy("/usr/bin/sleep", program)
    pid = os.fork()
    if pid == 0:
        process.exec_readonly(str(program), ["whatever", "1000"], {})
    while os.readlink(f"/proc/{pid}/exe") != "/program":
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    assert os.statvfs(f"/proc/{pid}/exe").f_flag & os.ST_RDONLY
    handle = os.open(f"/proc/{pid}/exe", os.O_PATH)  # as the classic attack does
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    with pytest.raises(OSError) as refused:
        os.open(f"/proc/self/fd/{handle}", os.O_WRONLY)
    os.close(handle)
    assert refused.value.errno == errno.EROFS
    os.close(os.open(program, os.O_WRONLY))


def test_an_interpreter_finds_itself(tmp_path):
    """A virtual environment's Python, which is a link, still knows its own folder."""
    script = (
        "import os, sys; from nsk8s.kernel import process;"
        "process.exec_readonly(sys.executable, [sys.executable, '-c', 'import sys; print(sys.executable, sys.prefix)'], os.environ)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [sys.executable, sys.prefix]
