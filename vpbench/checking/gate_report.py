"""A comparison as text, Markdown for a pull request, JUnit XML and JSON."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vpbench.checking.findings import Comparison, Finding
from vpbench.core.errors import StoreError
from vpbench.core.escaping import for_markdown, one_line
from vpbench.core.files import write_atomically
from vpbench.core.names import counted

HEADER = ("method", "data set", "column", "baseline", "now", "allowed")
LONGEST = 60  # characters of a value, such as a digest or an option's


def verdict(comparison: Comparison) -> str:
    """The outcome in one line."""
    failures, others = len(comparison.failures), len(comparison.findings) - len(comparison.failures)
    cells = len({(finding.method, finding.dataset) for finding in comparison.failures})
    if failures:
        text = f"Regression: {counted(failures, 'number')} of {counted(cells, 'cell')} outside of what the baseline allows"
    else:
        text = f"No regression in {counted(comparison.cells, 'cell')}"
    return text + (f"; {counted(others, 'difference')} reported only." if others else ".")


def certainty(comparison: Comparison) -> str:
    """The false-alarm rate in a sentence."""
    if not comparison.accuracies:
        return "No accuracy was compared."
    return (
        f"False alarms: the accuracies of an unchanged vpbench raise one in at most {100 * comparison.false_alarm:g} % of runs "
        f"({100 * comparison.cell_alarm:.2g} % for each of {len(comparison.accuracies)} cells, Bonferroni); "
        "what is compared seed by seed on the baseline's platform repeats exactly and raises none."
    )


def skips(comparison: Comparison) -> list[str]:
    """What was not compared and why, equal reasons together."""
    reasons = Counter((check.check, check.skipped) for check in comparison.checks if check.skipped)
    return [f"Not compared: {check} of {counted(count, 'cell')}: {reason}." for (check, reason), count in reasons.items()]


def as_text(comparison: Comparison, width: int | None = None) -> str:
    """For a terminal of ``width`` characters (None: no limit): offending cells, what was not compared, and the verdict."""
    import io

    from rich.table import Table

    from vpbench.core.terminal import Terminal

    lines = [*comparison.notes, *skips(comparison), certainty(comparison), verdict(comparison)]
    if not comparison.findings:
        return "\n".join(lines) + "\n"
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in HEADER:
        table.add_column(name, overflow="fold")
    for row in _rows(comparison.findings):
        table.add_row(*row)
    stream = io.StringIO()
    Terminal(file=stream, width=width or 200, color_system=None, force_jupyter=False).print(table)
    shown = "\n".join(line.rstrip() for line in stream.getvalue().rstrip("\n").splitlines())
    return shown + "\n\n" + "\n".join(lines) + "\n"


def as_markdown(comparison: Comparison, baseline: Path) -> str:
    """For a pull request: verdict, offending cells, and all accuracies to unfold."""
    sign = "❌" if comparison.failures else "✅"
    parts = [f"### {sign} vpbench check", verdict(comparison)]
    if comparison.findings:
        parts.append(_table(HEADER, _rows(comparison.findings)))
    if comparison.accuracies:
        rows: list[tuple[str, ...]] = [
            (
                found.method, found.dataset, f"{found.mean:.1f} ± {found.std:.1f} (n = {found.seeds})", f"{found.now:.1f}",
                f"{found.low:.1f} to {found.high:.1f}",
            )
            for found in comparison.accuracies
        ]  # fmt: skip
        names = ("method", "data set", "baseline, %", "now, %", "allowed, %")
        parts.append(f"<details><summary>All accuracies</summary>\n\n{_table(names, rows)}\n\n</details>")
    lines = [*comparison.notes, *skips(comparison), certainty(comparison), f"Baseline: {baseline.as_posix()}."]
    parts.append("\n".join(f"- {for_markdown(line)}" for line in lines))
    return "\n\n".join(parts) + "\n"


def as_junit(comparison: Comparison) -> str:
    """One test case for each check of each cell; costs that may not fail are written to its output."""
    checks = comparison.checks
    failing = [any(finding.fails for finding in check.findings) for check in checks]
    suite = ElementTree.Element(
        "testsuite", name="vpbench check", tests=str(len(checks)), failures=str(sum(failing)), errors="0",
        skipped=str(sum(bool(check.skipped) for check in checks)),
    )  # fmt: skip
    for check, fails in zip(checks, failing):
        case = ElementTree.SubElement(suite, "testcase", classname=one_line(f"{check.dataset}.{check.method}"), name=check.check)
        text = "\n".join(_line(finding) for finding in check.findings)
        if fails:
            ElementTree.SubElement(case, "failure", message=_line(next(f for f in check.findings if f.fails))).text = text
        elif text:
            ElementTree.SubElement(case, "system-out").text = text
        if check.skipped:
            ElementTree.SubElement(case, "skipped", message=one_line(check.skipped))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def as_data(comparison: Comparison) -> dict[str, Any]:
    """For JSON."""
    return {
        "regression": bool(comparison.failures),
        "findings": [asdict(finding) for finding in comparison.findings],
        "accuracies": [asdict(found) for found in comparison.accuracies],
        "cells": comparison.cells,
        "false_alarm": comparison.false_alarm,
        "false_alarm_per_cell": comparison.cell_alarm,
        "notes": [*comparison.notes, *skips(comparison)],
    }


def write_text(text: str, path: Path) -> None:
    """Write a file atomically.

    Raises:
        StoreError: when it cannot be written.
    """
    try:
        write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}.") from error


def _rows(findings: list[Finding]) -> list[tuple[str, ...]]:
    """Failures first."""
    ordered = sorted(findings, key=lambda finding: not finding.fails)
    return [
        (f.method, f.dataset, f.column, _short(f.baseline), _short(f.now), f.allowed + ("" if f.fails else " (reported only)"))
        for f in ordered
    ]


def _line(finding: Finding) -> str:
    return _in_one(f"{finding.column}: baseline {finding.baseline}, now {finding.now}, allowed {finding.allowed}")


def _in_one(text: str) -> str:
    """In one line and without control characters, which XML cannot hold."""
    return one_line(" ".join(text.split()))


def _short(text: str) -> str:
    line = _in_one(text)
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(for_markdown(cell) for cell in line) + " |" for line in lines)
