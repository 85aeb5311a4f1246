"""The Vagrantfile, evaluated by Ruby with Vagrant played by a recorder: what each provider on each architecture gets."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
RUBY = shutil.which("ruby")

RECORDER = r"""
require "json"
require "rbconfig"
RbConfig::CONFIG["host_cpu"] = ARGV[1]
class Recorder
  attr_reader :log
  def initialize(path = "config", log = {}) = (@path, @log = path, log)
  def method_missing(name, *words, &block)
    key = "#{@path}.#{name}"
    if name == :provider
      block.call(Recorder.new(words[0], @log), Recorder.new("config", @log)) if words[0] == ARGV[2]
    elsif name.end_with?("=") then @log[key.chomp("=")] = words[0]
    elsif words.empty? then Recorder.new(key, @log)
    else @log[key] = words
    end
  end
  def respond_to_missing?(*) = true
end
module Vagrant
  def self.configure(version)
    recorder = Recorder.new
    yield recorder
    puts JSON.generate(recorder.log)
  end
end
load ARGV[0]
"""


def evaluated(cpu: str, provider: str) -> dict[str, Any]:
    assert RUBY is not None
    done = subprocess.run([RUBY, "-e", RECORDER, str(ROOT / "Vagrantfile"), cpu, provider], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(RUBY is None, reason="no ruby on PATH to evaluate the Vagrantfile")
@pytest.mark.parametrize(
    ("cpu", "provider", "box", "folder"),
    [
        ("x86_64", "virtualbox", "bento/debian-12", "virtualbox"),
        ("arm64", "virtualbox", "bento/debian-12", "virtualbox"),
        ("x86_64", "libvirt", "debian/bookworm64", "rsync"),
        ("aarch64", "libvirt", "cloud-image/debian-12", "rsync"),
    ],
)
def test_the_vagrantfile(cpu: str, provider: str, box: str, folder: str) -> None:
    found = evaluated(cpu, provider)
    assert found["config.vm.box"] == box
    assert found["config.vm.synced_folder"][:2] == [".", "/vagrant"]
    assert found["config.vm.synced_folder"][2]["type"] == folder
    assert (found[f"{provider}.cpus"], found[f"{provider}.memory"]) == (2, 2048)
    kind, options = found["config.vm.provision"]
    assert kind == "shell"
    assert (ROOT / options["path"]).is_file()


def test_the_scripts_are_understood_by_their_shells() -> None:
    for script in (*(ROOT / "scripts").iterdir(), ROOT / "vagrant" / "provision.sh"):
        shell = script.read_text().splitlines()[0].removeprefix("#!").split()[-1]
        done = subprocess.run([Path(shell).name, "-n", str(script)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), script
        assert script.stat().st_mode & 0o111, f"{script.name} can be executed"


@pytest.mark.parametrize("script", ["quickstart", "setup", "test"])
def test_a_script_knows_help_and_refuses_what_it_does_not_know(script: str) -> None:
    help_page = subprocess.run([str(ROOT / "scripts" / script), "--help"], capture_output=True, text=True, check=False)
    assert (help_page.returncode, help_page.stderr) == (0, "")
    assert f"sudo scripts/{script}" in help_page.stdout
    wrong = subprocess.run([str(ROOT / "scripts" / script), "--nosuch"], capture_output=True, text=True, check=False)
    assert wrong.returncode != 0
    assert "unknown option --nosuch" in wrong.stderr
