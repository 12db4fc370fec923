"""What identifies a row, a column and a section of a table.

Keys are data: they travel from the frame to the table, and :mod:`vpbench.reporting.row_labels` turns them into text.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class SectionKey:
    """What runs share that may be compared; None for a value that is not recorded, or that does not matter here.

    Attributes:
        weights: ``random``, ``embedded``, ``file`` or a tag.
        preprocess: options as canonical JSON, without those of decoding.
        task: other than classification, whose scores are of another metric.
        images: what the suite trains on: ``train``, ``train+val``, or a number of images per class.
        data: a data set and a rarer version of it, its digest and decoding. The most common version of every data set is in the
            main section, as digests belong to a data set and not to a section.
    """

    backbone: str | None = None
    weights: str | None = None
    weights_sha256: str | None = None
    image_size: int | None = None
    preprocess: str | None = None
    images: str | int | None = None
    selection: str | None = None
    epochs: int | None = None
    precision: str | None = None
    task: str | None = None
    data: tuple[str, str, str] | None = None

    @property
    def model(self) -> SectionKey:
        """The frozen model and its input alone."""
        return SectionKey(self.backbone, self.weights, self.weights_sha256, self.image_size)

    @property
    def values(self) -> tuple[Any, ...]:
        """All fields in their order; the task only where there is one."""
        *others, task, data = astuple(self)
        return (*others, *([task] if task else []), data)

    def __lt__(self, other: SectionKey) -> bool:
        """By backbone first; missing values come before others, numbers before words."""
        return self._order < other._order

    @property
    def _order(self) -> list[tuple[bool, bool, Any]]:
        return [(value is not None, isinstance(value, str), value) for value in self.values]


@dataclass(frozen=True)
class RowKey:
    """One row of a table: runs of one method with the same options.

    Attributes:
        options: what differs from the usual options of the method in the suite: pairs of a name and a value as JSON, None for
            an option that these runs do not have. Fields of the recipe count too.
        line: label of the table's line that selects the runs by their options; empty for a row of its method.
        protocol: only where runs of several sections are put into one: the section of these runs.
    """

    method: str
    preset: str = ""
    options: tuple[tuple[str, str | None], ...] = ()
    line: str = ""
    protocol: SectionKey | None = None

    @property
    def name(self) -> str:
        """``method`` or ``method:preset``, as a command names it."""
        return f"{self.method}:{self.preset}" if self.preset else self.method

    def __lt__(self, other: RowKey) -> bool:
        return self._order < other._order

    @property
    def _order(self) -> tuple[Any, ...]:
        options = [(name, value or "") for name, value in self.options]
        return self.line, self.method, self.preset, options, self.protocol or SectionKey()


@dataclass(frozen=True)
class ColumnKey:
    """What the numbers of a column are of; a figure of a paper has the key of what was measured.

    Attributes:
        name: of the data set, group of data sets, suite, column of the store (``cost``) or result of a test; empty for a mean
            over all data sets.
        over: what a mean is taken over: ``datasets`` or ``groups``; empty for what is no mean.
    """

    kind: Literal["dataset", "group", "mean", "suite", "cost", "other", "test"]
    name: str = ""
    over: str = ""

    def __str__(self) -> str:
        """For programs that read a table as JSON: ``dataset:cub``, ``mean:groups``, ``suite:hta:datasets``."""
        return ":".join(filter(None, ("" if self.kind == "test" else self.kind, self.name, self.over)))


def split_name(name: str) -> tuple[str, str]:
    """``method:preset`` or ``method`` -> method and preset, which is empty for none."""
    method, _, preset = name.partition(":")
    return method, preset
