"""The tab key: commands, options, and names after a comma."""

from __future__ import annotations

import pytest
from command import vpbench

from vpbench.cli.completion import SHELLS, VARIABLE


@pytest.mark.parametrize(
    ("words", "place", "expected"),
    [
        ("vpbench ru", 1, {"run"}),
        ("vpbench data ver", 2, {"verify"}),
        ("vpbench run --metho", 2, {"--methods"}),
        ("vpbench run --methods linear,vpt", 3, {"linear,vpt"}),
        ("vpbench tune --suite vtab1k-n", 3, {"vtab1k-natural", "vtab1k-noah"}),
    ],
)
def test_what_is_offered(words: str, place: int, expected: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(place))
    assert set(vpbench().out.split()) == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts(shell: str) -> None:
    assert VARIABLE in vpbench("completion", shell).out


def test_another_shell() -> None:
    done = vpbench("completion", "tcsh")
    assert done.code == 2 and "unknown shell 'tcsh'" in done.err
