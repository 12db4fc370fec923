"""What killed processes leave is swept by the next command, and what living ones are writing is not."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vpbench.core.files import remove_partials, this_process, write_atomically
from vpbench.store.claims import Claims
from vpbench.store.store import Store

GONE = 2**22 + 1  # above the largest process id of Linux


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_partial_files_of_processes_that_are_gone(tmp_path: Path) -> None:
    host, other = this_process().rpartition("-")[0], ".b.another-1.partial.pt"
    for name in (f".a.{host}-{GONE}.partial.pt", f".a.b.{GONE}.partial.pt", f".a.{GONE}.partial", f".a.{'9' * 30}.partial.pt"):
        (tmp_path / name).touch()
    kept = [
        f".a.{this_process()}.partial.pt",
        f".a.{os.getpid()}.partial.pt",
        other,
        ".partial",
        "a.1.partial.pt",
        ".a.partial.pt",
    ]
    for name in kept:
        (tmp_path / name).touch()
    remove_partials(tmp_path)
    assert names(tmp_path) == sorted(kept)
    os.utime(tmp_path / other, (0, 0))  # of another machine, where nobody can be asked
    remove_partials(tmp_path)
    assert names(tmp_path) == sorted({*kept} - {other})


def test_the_file_that_is_being_written_stays(tmp_path: Path) -> None:
    def write(partial: Path) -> None:
        partial.write_text("content")
        remove_partials(tmp_path)

    write_atomically(tmp_path / "a.csv", write)
    assert names(tmp_path) == ["a.csv"]


def test_a_host_with_an_odd_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "lab-3.example.org/../x" * 9)
    seen: list[str] = []
    write_atomically(tmp_path / "a.csv", lambda partial: (seen.append(partial.name), partial.touch()))
    assert "/" not in seen[0] and len(seen[0]) < 80
    (tmp_path / seen[0].replace(str(os.getpid()), str(GONE))).touch()
    remove_partials(tmp_path)
    assert names(tmp_path) == ["a.csv"]


@pytest.mark.sweep
def test_the_next_command_sweeps(tmp_path: Path) -> None:
    """A process is killed while it has published its runs and writes a checkpoint, a row and an artefact."""
    code = (
        "import os, signal, sys; from vpbench.store.store import Store\n"
        "store, host = Store(sys.argv[1]), None\n"
        "def die(path): path.write_bytes(b'half'); print(path, flush=True); os.kill(os.getpid(), signal.SIGSTOP)\n"
        "with store.claims.grid({'a': {}}): store.write_file(store.checkpoint_path('a'), die)"
    )
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    partial = Path(process.stdout.readline().strip())
    store = Store(tmp_path)
    store.check_writable()
    assert partial.exists() and len(names(tmp_path)) == 3 and len(store.claims.grids()) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(names(tmp_path)) == 3
    store.check_writable()
    assert names(tmp_path) == []


def test_claims_of_runs_under_way_stay(tmp_path: Path) -> None:
    store, other = Store(tmp_path), Claims(tmp_path / "_claims")
    with store.claims.claim("a"), store.claims.grid({"a": {}}):
        other.sweep()
        assert "a" in other.held() and len(other.grids()) == 1
    assert names(tmp_path) == []


def test_a_note_without_a_lock(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    (tmp_path / "grid-host-1.json").write_text("{}")
    (tmp_path / "grid-host-2.lock").touch()
    claims.sweep()
    assert names(tmp_path) == []


def test_artefacts_of_a_run_that_is_done_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.write_artefact("a", "curve.csv", lambda path: path.write_text("epoch") and None).parent
    (folder / f".features.{GONE}.partial.npz").touch()
    store.write_artefact("a", "curve.csv", lambda path: path.write_text("epoch") and None)
    assert names(folder) == ["SHA256SUMS", "curve.csv"]
