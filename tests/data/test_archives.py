"""Archives that are good, broken and bad."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from downloads import CONTENT, names, one_line
from published_set import lay_out, members, packed

from vpbench.core.errors import DataError
from vpbench.data.unpack import KINDS, UnsafeError, unpack


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
