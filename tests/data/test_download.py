"""Files from a real server with chosen faults, to a real disk; archives that are good, broken and bad."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_server import FileServer, serving
from published_set import SOURCE, card, lay_out, members, offered, packed

from vpbench.core.errors import DataError, UsageError
from vpbench.data import sources
from vpbench.data.catalog import Download
from vpbench.data.download import GoneError, RetryPolicy, check_room, fetch
from vpbench.data.get import get_dataset
from vpbench.data.unpack import KINDS, UnsafeError, unpack

QUICK = RetryPolicy(timeout=5, attempts=3, pause=0.001)
CONTENT = np.random.default_rng(0).bytes(3_000_000)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as running:
        yield running


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source of one more file, as a contributor adds one."""
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "pictures.py").write_text(SOURCE)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path / "sources")])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1000k", "tmpfs", folder], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a full disk cannot be had here: mounting a tmpfs needs root; NOT TESTED")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def one_line(caught: pytest.ExceptionInfo[DataError], *parts: str) -> None:
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_a_file_comes_whole(server: FileServer, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int | None]] = []
    fetch(
        offered(server.put("a.bin", CONTENT), CONTENT),
        tmp_path / "a.bin",
        retries=QUICK,
        on_step=lambda *step: steps.append(step),
    )
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["a.bin"]
    done = [step[1] for step in steps if step[0] == "fetching a.bin"]
    assert done == sorted(done)
    assert done[-1] == len(CONTENT)
    assert {step[2] for step in steps} == {len(CONTENT)}
    assert steps[-1] == ("checking a.bin", len(CONTENT), len(CONTENT))


@pytest.mark.parametrize("checksum", ["sha256", "none"])
def test_a_cut_connection_goes_on_where_it_was(server: FileServer, tmp_path: Path, checksum: str) -> None:
    wanted = offered(server.put("a.bin", CONTENT), CONTENT)
    if checksum == "none":  # what says that the rest belongs to the same file is then the server's ETag
        wanted = Download(url=wanted.url)
    server.faults = [-1_000_000, -500_000, None]
    fetch(wanted, tmp_path / "a.bin", retries=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [exchange.range for exchange in server.exchanges] == [None, "bytes=1000000-", "bytes=1500000-"]
    assert [exchange.status for exchange in server.exchanges] == [200, 206, 206]
    assert sum(exchange.sent for exchange in server.exchanges) == len(CONTENT)
    assert names(tmp_path) == ["a.bin"]


def test_a_later_call_goes_on_where_the_first_gave_up(server: FileServer, tmp_path: Path) -> None:
    wanted = offered(server.put("a.bin", CONTENT), CONTENT)
    server.faults = [-1_000_000, 503, 503, 503]
    with pytest.raises(DataError) as caught:
        fetch(wanted, tmp_path / "a.bin", retries=QUICK)
    one_line(caught, wanted.url, "503", "tried 3 times", "1.0 MB are kept", "a.bin.part", "the same command continues")
    assert (tmp_path / "a.bin.part").read_bytes() == CONTENT[:1_000_000]
    assert not (tmp_path / "a.bin").exists()
    fetch(wanted, tmp_path / "a.bin", retries=QUICK)
    assert server.exchanges[-1].range == "bytes=1000000-"
    assert server.exchanges[-1].sent == 2_000_000
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_file_that_only_lacks_its_name_is_not_asked_for_again(server: FileServer, tmp_path: Path) -> None:
    """As when the computer went down while the checksum was taken."""
    wanted = offered(server.put("a.bin", CONTENT), CONTENT)
    server.faults = [-2_999_999, 503, 503, 503]
    with pytest.raises(DataError):
        fetch(wanted, tmp_path / "a.bin", retries=QUICK)
    with (tmp_path / "a.bin.part").open("ab") as stream:
        stream.write(CONTENT[-1:])
    asked = len(server.exchanges)
    fetch(wanted, tmp_path / "a.bin", retries=QUICK)
    assert len(server.exchanges) == asked
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_server_without_parts_starts_again(server: FileServer, tmp_path: Path) -> None:
    server.ranges = False
    server.faults = [-1_000_000, None]
    fetch(offered(server.put("a.bin", CONTENT), CONTENT), tmp_path / "a.bin", retries=QUICK)
    assert [exchange.sent for exchange in server.exchanges] == [1_000_000, 3_000_000]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_server_without_parts_that_always_cuts_is_given_up(server: FileServer, tmp_path: Path) -> None:
    """It brings bytes each time, but never gets any farther."""
    server.ranges = False
    server.faults = [-1000] * 20
    with pytest.raises(DataError) as caught:
        fetch(offered(server.put("a.bin", CONTENT), CONTENT), tmp_path / "a.bin", retries=QUICK)
    one_line(caught, "the connection ended after 1000 of 3000000 bytes")
    assert len(server.exchanges) == 3


@pytest.mark.parametrize("honest", [True, False])
def test_a_file_that_changes_between_requests_is_fetched_from_its_start(server: FileServer, tmp_path: Path, honest: bool) -> None:
    """A server may also ignore If-Range and send a part of the new file."""
    other = CONTENT[::-1]
    wanted = Download(url=server.put("a.bin", CONTENT))
    server.faults = [-1_000_000, 500, 500, 500]
    with pytest.raises(DataError):
        fetch(wanted, tmp_path / "a.bin", retries=QUICK)
    server.put("a.bin", other)
    server.heed_if_range = honest
    fetch(wanted, tmp_path / "a.bin", retries=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == other
    statuses = [exchange.status for exchange in server.exchanges[4:]]
    assert statuses == ([200] if honest else [206, 200])


def test_a_part_that_nothing_vouches_for_is_not_kept(server: FileServer, tmp_path: Path) -> None:
    """No ETag and no checksum: the rest could be of another file."""
    server.validators = False
    server.faults = [-1_000_000, None]
    fetch(Download(url=server.put("a.bin", CONTENT)), tmp_path / "a.bin", retries=QUICK)
    assert [exchange.range for exchange in server.exchanges] == [None, None]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file(server: FileServer, tmp_path: Path) -> None:
    wanted = Download(url=server.put("a.bin", CONTENT))
    server.faults = [-1_000_000, 500, 500, 500]
    with pytest.raises(DataError):
        fetch(wanted, tmp_path / "a.bin", retries=QUICK)
    (tmp_path / "a.bin.part").write_bytes(CONTENT + b"more")
    fetch(wanted, tmp_path / "a.bin", retries=QUICK)
    assert [exchange.status for exchange in server.exchanges[4:]] == [416, 200]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_passing_fault_is_waited_for(server: FileServer, tmp_path: Path, status: int) -> None:
    server.faults = [status, status, None]
    fetch(offered(server.put("a.bin", CONTENT), CONTENT), tmp_path / "a.bin", retries=QUICK)
    assert [exchange.status for exchange in server.exchanges] == [status, status, 200]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_not_repeated(server: FileServer, tmp_path: Path, status: int) -> None:
    server.faults = [status]
    wanted = offered(server.put("a.bin", CONTENT), CONTENT)
    with pytest.raises(GoneError) as caught:
        fetch(wanted, tmp_path / "a.bin", retries=QUICK)
    one_line(caught, wanted.url, str(status))
    assert len(server.exchanges) == 1
    assert names(tmp_path) == []


def test_nobody_listens(tmp_path: Path) -> None:
    with serving() as server:
        wanted = offered(server.put("a.bin", CONTENT), CONTENT)
    with pytest.raises(DataError) as caught:
        fetch(wanted, tmp_path / "a.bin", retries=QUICK)
    one_line(caught, wanted.url, "refused", "tried 3 times", "try again later")


def test_the_proxy_of_the_surroundings_is_used(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This server takes the place of the proxy; the host itself does not exist."""
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    server.files["http://pictures.invalid/a.bin"] = CONTENT
    fetch(offered("http://pictures.invalid/a.bin", CONTENT), tmp_path / "a.bin", retries=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_silent_server_is_given_up(server: FileServer, tmp_path: Path) -> None:
    server.hold_after = 1000
    with pytest.raises(DataError) as caught:
        fetch(
            offered(server.put("a.bin", CONTENT), CONTENT),
            tmp_path / "a.bin",
            retries=RetryPolicy(timeout=0.2, attempts=2, pause=0),
        )
    one_line(caught, "does not answer in time")
    assert (tmp_path / "a.bin.part").stat().st_size >= 1000


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_checksum(server: FileServer, tmp_path: Path, kind: str) -> None:
    wanted = Download(**{"url": server.put("a.bin", CONTENT), kind: "0" * 32})
    with pytest.raises(DataError) as caught:
        fetch(wanted, tmp_path / "a.bin", retries=QUICK)
    one_line(caught, wanted.url, hashlib.new(kind, CONTENT).hexdigest(), "0" * 32, "it was removed")
    assert names(tmp_path) == []


def test_a_wrong_size_is_seen_before_anything_is_fetched(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        fetch(offered(server.put("a.bin", CONTENT), CONTENT, size=77), tmp_path / "a.bin", retries=QUICK)
    one_line(caught, "3000000 bytes", "the card says 77")
    assert names(tmp_path) == []


def test_a_server_that_does_not_say_how_long_the_file_is(server: FileServer, tmp_path: Path) -> None:
    server.length = False
    fetch(offered(server.put("a.bin", CONTENT), CONTENT), tmp_path / "a.bin", retries=QUICK)
    fetch(Download(url=server.put("b.bin", CONTENT)), tmp_path / "b.bin", retries=QUICK)
    assert names(tmp_path) == ["a.bin", "b.bin"]
    assert (tmp_path / "b.bin").read_bytes() == CONTENT


def test_a_local_address(tmp_path: Path) -> None:
    origin = tmp_path / "with space.bin"
    origin.write_bytes(CONTENT)
    fetch(offered(origin.as_uri(), CONTENT), tmp_path / "a.bin", retries=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    with pytest.raises(GoneError, match=r"nowhere\.bin cannot be read \(No such file"):
        fetch(Download(url=(tmp_path / "nowhere.bin").as_uri()), tmp_path / "b.bin", retries=QUICK)


@pytest.mark.parametrize("url", ["ftp://host/a.bin", "a.bin", "/etc/passwd", "data:,x"])
def test_other_addresses(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="http, https, file"):
        fetch(Download(url=url), tmp_path / "a.bin", retries=QUICK)


def test_no_room_is_seen_before_anything_is_fetched(server: FileServer, disk: Path) -> None:
    with pytest.raises(DataError) as caught:
        fetch(Download(url=server.put("a.bin", CONTENT)), disk / "a.bin", retries=QUICK)
    one_line(caught, "a.bin needs 3.0 MB", "are free", "--data-root")
    assert not (disk / "a.bin.part").exists()
    with pytest.raises(DataError, match="Pictures needs"):
        check_room(disk / "deeper" / "still", 2_000_000, "Pictures")


def test_a_disk_that_fills_up_keeps_what_came(server: FileServer, disk: Path) -> None:
    """The server did not say how much would come."""
    content = CONTENT[:900_000]
    wanted = Download(url=server.put("a.bin", content))
    server.length = False
    filler = disk / "filler"
    filler.write_bytes(bytes(400_000))
    with pytest.raises(DataError) as caught:
        fetch(wanted, disk / "a.bin", retries=QUICK)
    one_line(caught, "the disk is full", "a.bin.part", "are kept", "the same command continues")
    kept = (disk / "a.bin.part").stat().st_size
    assert 300_000 < kept < 700_000
    filler.unlink()
    server.length = True
    fetch(wanted, disk / "a.bin", retries=QUICK)
    assert server.exchanges[-1].range == f"bytes={kept}-"
    assert (disk / "a.bin").read_bytes() == content
    assert names(disk) == ["a.bin"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_archive(tmp_path: Path, kind: str) -> None:
    archive = tmp_path / f"a{kind}"
    archive.write_bytes(packed(kind))
    steps: list[tuple[str, int, int | None]] = []
    assert unpack(archive, tmp_path, lambda *step: steps.append(step)) == ["images", "test.txt", "train.txt"]
    assert {name: (tmp_path / name).read_bytes() for name in members()} == members()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([archive.name, "images", "test.txt", "train.txt"])
    assert {step[0] for step in steps} == {f"unpacking a{kind}"}
    assert steps[-1][1] <= archive.stat().st_size == steps[-1][2]


def test_unpacking_adds_to_folders_that_are_there(tmp_path: Path) -> None:
    lay_out(tmp_path, {"images/mine.png": b"mine", "train.txt": b"old"})
    (tmp_path / "a.zip").write_bytes(packed(".zip"))
    unpack(tmp_path / "a.zip", tmp_path)
    assert (tmp_path / "images" / "mine.png").read_bytes() == b"mine"
    assert (tmp_path / "train.txt").read_bytes() == members()["train.txt"]
    assert (tmp_path / "images" / "test" / "0-0.png").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95])
def test_a_truncated_archive(tmp_path: Path, kind: str, share: float) -> None:
    whole = packed(kind)
    archive = tmp_path / f"a{kind}"
    archive.write_bytes(whole[: int(share * len(whole))])
    if kind == ".tar" and share == 0.95:  # an archive ends with zeros; this one loses all of them
        archive.write_bytes(whole.rstrip(b"\0"))
    with pytest.raises(DataError) as caught:
        unpack(archive, tmp_path)
    one_line(caught, str(archive), "damaged or truncated", "--force")
    assert names(tmp_path) == [archive.name]


def test_a_tar_archive_that_ends_between_two_members(tmp_path: Path) -> None:
    """tarfile takes it for a whole one."""
    archive = tmp_path / "a.tar"
    archive.write_bytes(packed(".tar", {"a.txt": b"a" * 512, "b.txt": b"b" * 512})[:1024])
    with tarfile.open(archive) as opened:
        assert opened.getnames() == ["a.txt"]
    with pytest.raises(DataError, match="its end is missing"):
        unpack(archive, tmp_path)
    assert names(tmp_path) == ["a.tar"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != ".tar"])
def test_a_byte_that_changed(tmp_path: Path, kind: str) -> None:
    content = bytearray(packed(kind, {"noise.bin": CONTENT[:50_000]}))
    content[25_000] ^= 0xFF
    (tmp_path / f"a{kind}").write_bytes(content)
    with pytest.raises(DataError, match="damaged or truncated"):
        unpack(tmp_path / f"a{kind}", tmp_path)
    assert names(tmp_path) == [f"a{kind}"]


def tar_with(*members: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as opened:
        for member in members:
            opened.addfile(member, io.BytesIO(bytes(member.size)))
    return stream.getvalue()


def tar_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, 3 if kind == tarfile.REGTYPE else 0
    return member


def zip_with(name: str, mode: int = stat.S_IFREG | 0o644, content: bytes = b"abc") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        member = zipfile.ZipInfo("placeholder")
        member.filename, member.external_attr = name, mode << 16
        opened.writestr(member, content)
    return stream.getvalue()


BAD: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "tar above": (
        ".tar",
        lambda: tar_with(tar_member("good"), tar_member("../outside")),
        "'../outside' would be written outside",
    ),
    "tar above, deeper": (".tar", lambda: tar_with(tar_member("a/../../outside")), "would be written outside"),
    "tar absolute": (".tar", lambda: tar_with(tar_member("/tmp/outside")), "'/tmp/outside' would be written outside"),
    "tar link above": (".tar", lambda: tar_with(tar_member("a", tarfile.SYMTYPE, "../..")), "link out of the folder, to '../..'"),
    "tar link absolute": (
        ".tar",
        lambda: tar_with(tar_member("a", tarfile.SYMTYPE, "/etc")),
        "link out of the folder, to '/etc'",
    ),
    "tar behind a link": (
        ".tar",
        lambda: tar_with(tar_member("d", tarfile.DIRTYPE), tar_member("a", tarfile.SYMTYPE, "d"), tar_member("./a/x")),
        "'./a/x' lies behind a link",
    ),
    "tar hard link above": (".tar", lambda: tar_with(tar_member("a", tarfile.LNKTYPE, "../x")), "link out of the folder"),
    "tar hard link to a link": (
        ".tar",
        lambda: tar_with(tar_member("x"), tar_member("a", tarfile.SYMTYPE, "x"), tar_member("b", tarfile.LNKTYPE, "a")),
        "is a link to a link",
    ),
    "tar pipe": (".tar", lambda: tar_with(tar_member("a", tarfile.FIFOTYPE)), "'a' is a device"),
    "tar device": (".tar", lambda: tar_with(tar_member("a", tarfile.CHRTYPE)), "'a' is a device"),
    "zip above": (".zip", lambda: zip_with("../outside"), "'../outside' would be written outside"),
    "zip absolute": (".zip", lambda: zip_with("/tmp/outside"), "would be written outside"),
    "zip drive": (".zip", lambda: zip_with("C:/outside"), "would be written outside"),
    "zip backslash": (".zip", lambda: zip_with("..\\outside"), "would be written outside"),
    "zip link": (".zip", lambda: zip_with("a", stat.S_IFLNK | 0o777, b"/etc"), "'a' is a link or a device"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_archive_that_would_leave_its_folder(tmp_path: Path, case: str) -> None:
    kind, make, message = BAD[case]
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    archive = folder / f"a{kind}"
    archive.write_bytes(make())
    with pytest.raises(UnsafeError) as caught:
        unpack(archive, folder)
    one_line(caught, str(archive), message, "Nothing of it was kept")
    assert names(tmp_path) == ["deep", "deep/er", f"deep/er/a{kind}"]


def test_links_inside_the_folder_are_kept(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(
        tar_with(tar_member("d/x"), tar_member("d/soft", tarfile.SYMTYPE, "../d/x"), tar_member("hard", tarfile.LNKTYPE, "d/x"))
    )
    unpack(archive, tmp_path)
    assert (tmp_path / "d" / "soft").is_symlink()
    assert [(tmp_path / name).read_bytes() for name in ("d/soft", "hard")] == [bytes(3), bytes(3)]


@pytest.mark.parametrize("kind", [".zip", ".tar.gz"])
def test_an_archive_that_is_larger_than_the_disk(disk: Path, kind: str) -> None:
    """Five megabytes of zeros take a few kilobytes."""
    archive = disk / f"a{kind}"
    archive.write_bytes(packed(kind, {"first": b"1", "zeros": bytes(5_000_000)}))
    assert archive.stat().st_size < 50_000
    with pytest.raises(UnsafeError) as caught:
        unpack(archive, disk)
    one_line(caught, "unpacked it has 5.0 MB or more", "are free", "Nothing of it was kept")
    assert names(disk) == [archive.name]


def test_a_disk_that_fills_up_while_unpacking(disk: Path) -> None:
    """Each file takes a page, however short it is."""
    archive = disk / "a.zip"
    archive.write_bytes(packed(".zip", {f"{number}.txt": b"x" for number in range(400)}))
    with pytest.raises(DataError) as caught:
        unpack(archive, disk)
    one_line(caught, "the disk is full", str(archive), "make room")
    assert names(disk) == ["a.zip"]


def test_an_archive_of_an_unknown_kind(tmp_path: Path) -> None:
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    with pytest.raises(DataError, match=r"a\.rar cannot be unpacked: its name must end with \.zip, \.tar"):
        unpack(tmp_path / "a.rar", tmp_path)


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
