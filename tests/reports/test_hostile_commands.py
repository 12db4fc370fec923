"""Hostile names through the commands: what is printed is text, and no terminal takes a command from it."""

from __future__ import annotations

import sys
from io import StringIO
from pathlib import Path
from unittest import mock

import pytest
from hostile_names import HOSTILE, OBEYED
from report_rows import fill, make_row

from vpbench.cli.app import main
from vpbench.cli.streams import guarded_streams, write_styled
from vpbench.core.terminal import Terminal


def call(*words: object) -> tuple[int, str, str]:
    """The command in this process: exit code, stdout and stderr."""
    out, err = StringIO(), StringIO()
    with (
        mock.patch.object(sys, "argv", ["vpbench", *map(str, words)]),
        mock.patch.multiple(sys, stdout=out, stderr=err),
        pytest.raises(SystemExit) as stop,
    ):
        main()
    return int(stop.value.code or 0), out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with hostile names, and a log."""
    rows = [make_row("vpt", name, error=name) for name in HOSTILE] + [make_row(name, "digits", 3, None) for name in HOSTILE]
    store = fill(tmp_path_factory.mktemp("store") / "runs", *rows)
    log = store.log_path(rows[0]["run_id"])
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("\n".join(HOSTILE))
    return store.folder


@pytest.mark.parametrize(
    "command",
    [
        "report",
        "status",
        *(pytest.param(f"report --{how}", marks=pytest.mark.sweep) for how in ("statistics", "json", "format csv")),
    ],
)
def test_listings(command: str, folder: Path) -> None:
    code, out, err = call(*command.split(), "--results", folder)
    assert (OBEYED.findall(out), OBEYED.findall(err)) == ([], []), command
    assert code == 0, err


def test_rows_and_logs(folder: Path) -> None:
    for path in sorted(folder.glob("*.parquet"))[::9]:
        for command in ("show run", "logs"):
            code, out, err = call(*command.split(), path.stem, "--results", folder)
            assert code == 0, err
            assert OBEYED.findall(out + err) == []


def test_errors_are_text(folder: Path) -> None:
    code, _, err = call("report", "--dataset", "\x1b[1mx", "--results", folder)
    assert code == 2 and OBEYED.findall(err) == [] and err.count("\n") == 1
    assert r"'\x1b[1mx'" in err and r"nul\x00byte" in err  # what is asked for, and all that there is


def test_streams() -> None:
    out = StringIO()
    before = sys.stdout
    sys.stdout = out
    try:
        with guarded_streams():
            sys.stdout.write("a\x1b[1mb\r\nc\x00\n")
            sys.stdout.write("\r 50%\x1b[1m")  # a bar of tqdm
            sys.stdout.write("\rhidden\n")
            Terminal().print("[red]d\x1b[0m")
            write_styled("\x1b[1me\x1b[0m\n")
    finally:
        sys.stdout = before
    assert out.getvalue() == "a\\x1b[1mb\nc\\x00\n\r 50%\\x1b[1m\\rhidden\n[red]d\\x1b[0m\n\x1b[1me\x1b[0m\n"
