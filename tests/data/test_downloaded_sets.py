"""From a server to a data set that can be read."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from downloads import CONTENT, QUICK, names, one_line
from file_server import FileServer
from published_set import card, lay_out, members, offered, packed

from vpbench.core.errors import DataError, UsageError
from vpbench.data.catalog import Download
from vpbench.data.download import GoneError
from vpbench.data.get import get_dataset
from vpbench.data.unpack import KINDS


def get(root: Path, *downloads: Download, **more: Any) -> str:
    return get_dataset("pictures", card(*downloads), root, retries=QUICK, **more).status


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("kind", KINDS)
def test_a_data_set_becomes_ready(server: FileServer, tmp_path: Path, kind: str) -> None:
    content, root = packed(kind), tmp_path / "root"
    wanted = offered(server.put(f"set{kind}", content), content)
    assert get(root, wanted) == "ready"
    assert sorted(path.name for path in (root / "pictures").iterdir()) == sorted(
        [f"set{kind}", f"set{kind}.unpacked", "images", "test.txt", "train.txt"]
    )
    assert get(root, wanted) == "ready"
    assert len(server.exchanges) == 1
    assert get(root, wanted, force=True) == "ready"
    assert len(server.exchanges) == 2


@pytest.mark.usefixtures("source")
def test_what_is_there_and_right_is_not_fetched_again(server: FileServer, tmp_path: Path) -> None:
    """Three files, of which the third is not there: the next call asks for it alone, and unpacks the first once."""
    files = members()
    lists = {name: files.pop(name) for name in ("train.txt", "test.txt")}
    archive = packed(".tar.gz", files)
    downloads = [offered(server.put("images.tar.gz", archive), archive)] + [
        offered(server.put(name, content), content, unpack=False) for name, content in lists.items()
    ]
    del server.files["/test.txt"]
    with pytest.raises(GoneError) as caught:
        get(tmp_path, *downloads)
    one_line(caught, f"{server.url}/test.txt", "404", "Ask at https://pictures.invalid/")
    marker = tmp_path / "pictures" / "images.tar.gz.unpacked"
    before = marker.stat().st_mtime_ns
    server.put("test.txt", lists["test.txt"])
    server.exchanges.clear()
    assert get(tmp_path, *downloads) == "ready"
    assert [exchange.path for exchange in server.exchanges] == ["/test.txt"]
    assert marker.stat().st_mtime_ns == before
    shutil.rmtree(tmp_path / "pictures" / "images")
    assert get(tmp_path, *downloads) == "ready"
    assert len(server.exchanges) == 1


@pytest.mark.usefixtures("source")
def test_files_that_fit_one_by_one_but_not_together(server: FileServer, disk: Path) -> None:
    part = CONTENT[:700_000]
    downloads = [offered(server.put(name, part), part, unpack=False) for name in ("a.bin", "b.bin")]
    with pytest.raises(DataError) as caught:
        get(disk, *downloads)
    one_line(caught, "Pictures needs 1.4 MB", "are free")
    assert server.exchanges == []
    assert names(disk) == []


@pytest.mark.usefixtures("source")
def test_a_file_of_the_user_is_not_replaced_without_a_word(server: FileServer, tmp_path: Path) -> None:
    content = packed(".zip")
    lay_out(tmp_path / "pictures", {"set.zip": b"mine"})
    wanted = offered(server.put("set.zip", content), content)
    with pytest.raises(DataError) as caught:
        get(tmp_path, wanted)
    one_line(caught, "set.zip has 4 bytes", f"the card says {len(content)}", "--force")
    assert (tmp_path / "pictures" / "set.zip").read_bytes() == b"mine"
    assert get(tmp_path, wanted, force=True) == "ready"


@pytest.mark.usefixtures("source")
def test_nothing_is_fetched_for_a_copy_that_is_ready(server: FileServer, tmp_path: Path) -> None:
    lay_out(tmp_path / "Pictures-1.0")
    assert get(tmp_path, offered(f"{server.url}/set.zip", b"x")) == "ready"
    assert server.exchanges == []


@pytest.mark.usefixtures("source")
def test_failures_leave_no_folder(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(GoneError):
        get(tmp_path / "root", offered(f"{server.url}/nowhere.zip", b"x"))
    assert not (tmp_path / "root" / "pictures").exists()
    with pytest.raises(DataError, match=r"^Pictures cannot be downloaded automatically\. Ask at"):
        get(tmp_path / "root")


@pytest.mark.usefixtures("source")
def test_two_processes_do_not_write_the_same_file(server: FileServer, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    content = packed(".zip")
    (tmp_path / "pictures").mkdir()
    other = os.open(tmp_path / "pictures", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    wanted = offered(server.put("set.zip", content), content)
    try:
        with pytest.raises(DataError, match="another process is fetching into"):
            get(tmp_path, wanted)
    finally:
        os.close(other)
    assert get(tmp_path, wanted) == "ready"


@pytest.mark.usefixtures("source")
def test_leftovers_of_a_killed_process_are_removed(server: FileServer, tmp_path: Path) -> None:
    content = packed(".zip")
    lay_out(tmp_path / "pictures" / ".unpacking-dead", {"half": b"x"})
    assert get(tmp_path, offered(server.put("set.zip", content), content)) == "ready"
    assert not (tmp_path / "pictures" / ".unpacking-dead").exists()


@pytest.mark.usefixtures("source")
def test_a_root_that_is_a_file(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError) as caught:
        get(tmp_path / "file", offered(f"{server.url}/set.zip", b"x"))
    one_line(caught, str(tmp_path / "file"), os.strerror(errno.ENOTDIR), "--data-root")


@pytest.mark.parametrize("file", ["../a.zip", "/tmp/a.zip", ".."])
def test_a_card_cannot_write_outside_of_the_folder(tmp_path: Path, file: str) -> None:
    with pytest.raises(UsageError, match="no path below the data set's folder"):
        get_dataset("pictures", card(Download(url="http://host/a.zip", file=file), folders=("p",)), tmp_path, retries=QUICK)
