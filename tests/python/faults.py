"""Disks that fail on request: file systems of their own (tmpfs), and `faultfs`, a passthrough that hangs, slows or fails.

Both need root; a test that cannot mount is skipped with the reason. Whatever a test leaves mounted is unmounted.
"""

import os
import pathlib
import signal
import subprocess
import time

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def run(*command):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


class Tmpfs:
    """A file system of `size` bytes in memory, mounted at `path`."""

    def __init__(self, path, size):
        self.path = pathlib.Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self.size = size
        self.mount()

    def mount(self):
        done = run("mount", "-t", "tmpfs", "-o", f"size={self.size}", "tmpfs", self.path)
        if done.returncode != 0:
            pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")

    def remount(self, options):
        done = run("mount", "-o", f"remount,{options}", self.path)
        assert done.returncode == 0, done.stderr

    def unplug(self):
        """The mount point is an empty directory from now on, as without the disk; open files stay what they are."""
        hidden = self.path.with_name(self.path.name + ".unplugged")
        hidden.mkdir(exist_ok=True)
        done = run("mount", "--bind", self.path, hidden)
        assert done.returncode == 0, done.stderr
        done = run("umount", "-l", self.path)
        assert done.returncode == 0, done.stderr

    def plug(self):
        """The disk is back, with what it held."""
        hidden = self.path.with_name(self.path.name + ".unplugged")
        done = run("mount", "--bind", hidden, self.path)
        assert done.returncode == 0, done.stderr
        done = run("umount", "-l", hidden)
        assert done.returncode == 0, done.stderr

    def fill(self):
        """Takes the space that is left; returns the file that takes it."""
        ballast = self.path / "ballast"
        with open(ballast, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 65536)
            except OSError:
                pass
        return ballast

    def close(self):
        for path in (self.path, self.path.with_name(self.path.name + ".unplugged")):
            while os.path.ismount(path):
                assert run("umount", "-l", path).returncode == 0


class FaultFs:
    """`faultfs` over `backing`, mounted at `path`. `set` puts faults in force (see crates/faultfs/src/faults.rs)."""

    def __init__(self, binary, backing, path):
        self.path, self.backing = pathlib.Path(path), pathlib.Path(backing)
        for directory in (self.path, self.backing):
            directory.mkdir(parents=True, exist_ok=True)
        self.control = self.path.with_name(self.path.name + ".control")
        self.control.write_text("")
        self.process = subprocess.Popen([binary, self.backing, self.path, self.control], stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not os.path.ismount(self.path):
            if self.process.poll() is not None:
                pytest.skip(f"faultfs cannot mount here: {self.process.stderr.read().decode().strip()}")
            assert time.monotonic() < deadline, "faultfs did not mount"
            time.sleep(0.01)
        self.set()

    def set(self, *lines):
        """Puts faults in force, none without a line; returns when they are."""
        text = "\n".join(lines)
        following = self.control.with_suffix(".next")
        following.write_text(text)
        following.rename(self.control)
        applied = pathlib.Path(f"{self.control}.applied")
        deadline = time.monotonic() + 60
        while not applied.exists() or applied.read_text() != text:
            assert time.monotonic() < deadline and self.process.poll() is None, "faultfs does not answer"
            time.sleep(0.005)

    def close(self):
        self.process.send_signal(signal.SIGKILL)  # Everything that hangs fails now.
        self.process.wait()
        run("umount", "-l", self.path)


@pytest.fixture
def tmpfs(tmp_path):
    """A factory of disks: `tmpfs("64m", "name")`."""
    mounted = []

    def make(size, name=None):
        disk = Tmpfs(tmp_path / (name or f"tmpfs{len(mounted)}"), size)
        mounted.append(disk)
        return disk

    yield make
    for disk in mounted:
        disk.close()


@pytest.fixture(scope="session")
def faultfs_binary():
    """The test disk, which is built beside the server's binary."""
    if not os.path.exists("/dev/fuse") or os.geteuid() != 0:
        pytest.skip("faultfs needs /dev/fuse and root")
    server = pathlib.Path(os.environ.get("PROXIMADB_BINARY", REPOSITORY / "target" / "checked" / "proximadb"))
    return server.with_name("faultfs")


@pytest.fixture
def faultfs(tmp_path, faultfs_binary):
    """A factory of passthroughs: `faultfs(backing, "name")`."""
    mounted = []

    def make(backing, name=None):
        disk = FaultFs(faultfs_binary, backing, tmp_path / (name or f"fault{len(mounted)}"))
        mounted.append(disk)
        return disk

    yield make
    for disk in mounted:
        disk.close()
