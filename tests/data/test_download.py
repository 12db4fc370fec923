"""Files from a real server with chosen faults, to a real disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from downloads import CONTENT, QUICK, names, one_line
from file_server import FileServer, serving
from published_set import offered

from vpbench.core.errors import DataError, UsageError
from vpbench.data.catalog import Download
from vpbench.data.download import GoneError, RetryPolicy, check_room, fetch


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
