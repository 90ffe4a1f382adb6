"""The disks of the tests are what they claim to be."""

import errno
import threading

import pytest


def test_a_tmpfs_fills_up_is_read_only_is_unplugged_and_comes_back(tmpfs):
    disk = tmpfs("4m")
    (disk.path / "kept").write_text("kept")
    ballast = disk.fill()
    with pytest.raises(OSError) as full:
        (disk.path / "more").write_bytes(b"\0" * 65536)
    assert full.value.errno == errno.ENOSPC
    ballast.unlink()
    disk.remount("ro")
    with pytest.raises(OSError) as read_only:
        (disk.path / "other").write_text("x")
    assert read_only.value.errno == errno.EROFS
    disk.remount("rw")
    disk.unplug()
    assert list(disk.path.iterdir()) == []
    disk.plug()
    assert (disk.path / "kept").read_text() == "kept"


def test_faultfs_hangs_fails_and_goes_on(tmpfs, faultfs):
    disk = faultfs(tmpfs("16m").path)
    (disk.path / "kept").write_text("kept")
    disk.set("error EIO")
    with pytest.raises(OSError) as failed:
        (disk.path / "more").write_text("x")
    assert failed.value.errno == errno.EIO
    disk.set("hang")
    reader = threading.Thread(target=lambda: (disk.path / "kept").read_text())
    reader.start()
    reader.join(timeout=0.2)
    assert reader.is_alive()
    disk.set()
    reader.join(timeout=20)
    assert not reader.is_alive() and (disk.backing / "kept").read_text() == "kept"
