"""Help pages: what a reader of 80 columns sees, and examples that can be copied."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from command import vpbench
from typer.main import get_command

from vpbench.cli.app import COMMANDS, app
from vpbench.cli.help_page import filled

WIDTH = 80


def pages() -> list[tuple[str, ...]]:
    """The words before ``--help`` of every page."""
    root: Any = get_command(app)
    found: list[tuple[str, ...]] = [()]
    for name in COMMANDS:
        found += [(name,), *((name, inner) for inner in getattr(root.commands[name].built(), "commands", {}))]
    return found


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))


def examples(page: str) -> list[str]:
    """The commands of a page, continued lines put together."""
    block = page.partition("Examples:\n")[2].partition("\n\n")[0]
    return [line.strip() for line in re.sub(r"\\\n\s+", "", block).splitlines()]


@pytest.mark.parametrize("words", pages())
def test_a_page(words: tuple[str, ...]) -> None:
    done = vpbench(*words, "--help")
    assert (done.code, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) < WIDTH
    assert not re.search(r"<\w+>|<list|\[\[|\{\w|…|\bUNSET\b", done.out)
    assert not re.search(r"\[default:$", done.out, re.MULTILINE)
    for line in examples(done.out):
        assert line.startswith(("vpbench ", "eval ", "# ")), line
        assert not re.search(r"\S {3,}\S", line), line


@pytest.mark.parametrize("words", pages())
def test_examples_can_be_copied(words: tuple[str, ...]) -> None:
    """The parser of their command takes them, comments and all."""
    root: Any = get_command(app)
    for line in examples(vpbench(*words, "--help").out):
        program, *given = shlex.split(line, comments=True) or [""]
        if program != "vpbench" or ">" in given:
            continue
        command, given = root.commands[given[0]].built(), given[1:]
        if hasattr(command, "commands"):
            command, given = command.commands[given[0]], given[1:]
        context = command.context_class(command, info_name="vpbench", resilient_parsing=True)
        command.make_parser(context).parse_args(args=list(given))


def test_every_value_has_a_word_and_no_flag_has_one() -> None:
    root: Any = get_command(app)
    for words in pages()[1:]:
        command = root.commands[words[0]].built()
        command = command.commands[words[1]] if len(words) > 1 else command
        for each in command.params:
            assert bool(each.metavar) != bool(getattr(each, "is_flag", False)), (words, each.name)
    assert "\n  --skip-unreadable   " in vpbench("run", "--help").out
    assert "Usage: vpbench predict [OPTIONS] RUN PATH...\n" in vpbench("predict", "--help").out
    assert "Usage: vpbench run [OPTIONS] [FILE.toml]\n" in vpbench("run", "--help").out


def test_paragraphs_are_filled_and_examples_stay() -> None:
    text = "First of\nall.\n\nMore on vit-b16-in21k\nthen.\n\n\b\n  vpbench run  # this\n"
    assert list(filled(text, 20)) == ["", "First of all.", "", "More on", "vit-b16-in21k then.", "  vpbench run  # this"]


def test_report_names_its_tables() -> None:
    shown = " ".join(vpbench("report", "--help").out.split())
    assert "insvp: 1 to 5; ivpt: 1 to 14; viapt: 1; vpbench: 1, groups, leaderboard, shift" in shown
    assert "methods, scores, search" in shown
