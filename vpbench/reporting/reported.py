"""Published figures beside measured ones: columns of their own, with the gap, never marked and never in a mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from string import ascii_lowercase

from vpbench.core.errors import UsageError
from vpbench.reporting.definition import MEANS, TableDefinition
from vpbench.reporting.published import Figure, Footnote, footnotes, our_backbones, published_figures
from vpbench.reporting.table import Cell, Column, Row, Section, Table

REPORTED, GAP = "Reported", "Gap"
_ALONE = "Reported only"


@dataclass
class _Letters:
    """Footnotes in the order of their first use."""

    general: Sequence[Footnote]
    texts: list[str] = field(default_factory=list)

    def of(self, figure: Figure, foreign: bool) -> tuple[str, ...]:
        own = [figure.note] if figure.note else []
        own += [f"on {figure.backbone}, pre-training {figure.pretraining}"] if foreign else []
        own += [note.text for note in self.general if note.marks(figure)]
        self.texts += [text for text in dict.fromkeys(own) if text not in self.texts]
        return tuple(_letter(index) for index in sorted({self.texts.index(text) for text in own}))

    def lines(self) -> list[str]:
        return [f"[{_letter(index)}] {_sentence(text)}" for index, text in enumerate(self.texts)]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _letter(index: int) -> str:
    return ascii_lowercase[index] if index < 26 else ascii_lowercase[index // 26 - 1] + ascii_lowercase[index % 26]


def with_reported(table: Table, definition: TableDefinition, paper: str) -> Table:
    """The table with the paper's figures: beside the runs on the paper's suite and backbone, else in a section of their own.

    Raises:
        UsageError: when nothing is published for the table.
    """
    figures = published_figures(definition, paper)
    if not figures:
        raise UsageError(f"nothing is published for table {definition.number} of {paper}: leave out --reported.")
    known = footnotes(paper, definition.number)
    letters = _Letters([note for note in known if note.on_cells()])
    sections = list(table.sections)
    alone: list[Section] = []
    for (backbone, pretraining), own in _by_backbone(figures).items():
        cells = {(figure.method, figure.key): (figure, letters.of(figure, _is_foreign(figure, own))) for figure in own}
        ours = our_backbones(backbone, pretraining)
        places = [index for index, section in enumerate(sections) if _is_comparable(section, ours, definition)]
        for index in places:
            sections[index] = _beside(sections[index], definition, cells)
        if not places:
            alone.append(_apart(f"{backbone}, {pretraining}" if backbone else "backbone not stated", definition, cells))
    lines = [
        f"Reported: as printed in {definition.paper}; gap: measured minus reported. No reported figure enters a mean or a rank.",
        *letters.lines(),
        *(f"On the paper's table: {_sentence(note.text)}" for note in known if not note.on_cells()),
    ]
    return replace(table, sections=(*sections, *alone), footer=(*table.footer, *lines))


def _by_backbone(figures: Iterable[Figure]) -> dict[tuple[str, str], list[Figure]]:
    """Figures by backbone and pre-training. One whose backbone we do not have joins the table's first; a footnote names it."""
    groups: dict[tuple[str, str], list[Figure]] = {}
    first: tuple[str, str] | None = None
    for figure in figures:
        key = (figure.backbone, figure.pretraining)
        if first is None:
            first = key
        groups.setdefault(key if our_backbones(*key) else first, []).append(figure)
    return groups


def _is_foreign(figure: Figure, group: Sequence[Figure]) -> bool:
    return (figure.backbone, figure.pretraining) != (group[0].backbone, group[0].pretraining)


def _is_comparable(section: Section, ours: Sequence[str], definition: TableDefinition) -> bool:
    return section.backbone in ours and bool(set(section.suites) & set(definition.suites))


Cells = Mapping[tuple[str, str], tuple[Figure, tuple[str, ...]]]


def _beside(section: Section, definition: TableDefinition, cells: Cells) -> Section:
    """The section with reported columns, gaps, and the rows of methods that only the paper has."""
    keys = [column.key for column in section.columns if any(key == column.key for _, key in cells)]
    if not keys:
        return section
    named = {column.key: column for column in section.columns}
    hidden = {f"cost:{cost.column}" for cost in definition.costs if not cost.gap}
    gaps = [key for key in keys if key not in hidden]
    columns = (
        *section.columns,
        *(Column(REPORTED, named[key].name, "reported", key) for key in keys),
        *(Column(GAP, named[key].name, "gap", key) for key in gaps),
    )
    rows = [
        replace(row, cells=(*row.cells, *_extra(row, section.columns, definition.published.get(row.label), keys, gaps, cells)))
        for row in section.rows
    ]
    shown = {definition.published.get(row.label) for row in section.rows}
    for method in _methods(cells):
        if method not in shown:
            empty = Row(_ALONE, _label(method, definition), tuple(Cell() for _ in section.columns))
            rows.append(replace(empty, cells=(*empty.cells, *_extra(empty, section.columns, method, keys, gaps, cells))))
    return replace(section, columns=columns, rows=tuple(rows))


def _extra(
    row: Row, columns: Sequence[Column], method: str | None, keys: Sequence[str], gaps: Sequence[str], cells: Cells
) -> list[Cell]:
    measured = {column.key: cell.mean for column, cell in zip(columns, row.cells, strict=True)}
    found = {key: cells.get((method or "", key)) for key in keys}
    extra = [_printed(found[key]) for key in keys]
    for key in gaps:
        figure, value = found[key], measured[key]
        reported = figure[0].value if figure else None
        extra.append(Cell() if value is None or reported is None else _gap(value - reported, figure[0].text if figure else ""))
    return extra


def _printed(found: tuple[Figure, tuple[str, ...]] | None) -> Cell:
    if not found:
        return Cell()
    figure, notes = found
    return Cell(figure.text, figure.value, notes=notes)


def _gap(value: float, printed: str) -> Cell:
    """With the decimals of the printed figure."""
    number = round(value, 9)
    return Cell(f"{number:+.{len(printed.partition('.')[2])}f}", number)


def _apart(title: str, definition: TableDefinition, cells: Cells) -> Section:
    """A section of reported columns alone."""
    first = {key: figure for (_, key), (figure, _) in reversed(list(cells.items()))}
    keys = list(dict.fromkeys(key for _, key in cells))
    columns = tuple(Column(REPORTED, _name(first[key], definition), "reported", key) for key in keys)
    rows = tuple(
        Row(_ALONE, _label(method, definition), tuple(_printed(cells.get((method, key))) for key in keys))
        for method in _methods(cells)
    )
    return Section(f"Reported by the paper: {title}", columns, rows, ("No run here is comparable with these figures.",))


def _methods(cells: Cells) -> list[str]:
    return list(dict.fromkeys(method for method, _ in cells))


def _label(method: str, definition: TableDefinition) -> str:
    """Our row's label for a paper's method, or the paper's own name."""
    return {theirs: ours for ours, theirs in definition.published.items()}.get(method, method)


def _name(figure: Figure, definition: TableDefinition) -> str:
    costs = {f"cost:{cost.column}": cost.title for cost in definition.costs}
    kind, _, name = figure.key.partition(":")
    if kind == "cost":
        return costs[figure.key]
    if kind == "other":
        return name
    if kind == "suite":
        suite, _, mean = name.partition(":")
        return f"{suite}, {MEANS[mean].lower()}"
    return MEANS[name] if kind == "mean" else f"Mean of {name}" if kind == "group" else name
