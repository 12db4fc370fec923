"""The interface of an export target, and the targets by name. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vpbench.core.plugins import Registry, subclass_in

if TYPE_CHECKING:
    from vpbench.models.saved import TrainedModel


class ExportTarget:
    """Base class of export targets: writes a trained model into a folder, for programs without vpbench or for others to load.

    A target is a module of ``vpbench.deploy.targets``, or an entry point of the group ``vpbench.export_targets``; its name is the
    name for ``vpbench export --to``.

    Attributes:
        summary: one line on what is written.
    """

    summary: ClassVar[str]

    def write(self, trained: TrainedModel, folder: Path, row: Mapping[str, Any] | None) -> str:
        """Write the model's files and its model card.

        Args:
            trained: the model, on the CPU; it may be changed, merged say.
            folder: empty.
            row: the run's, with what was measured; None where the model came without one.

        Returns:
            a sentence on what was written, for the user.

        Raises:
            UnsupportedError: when the method cannot be exported exactly, with the reason.
        """
        raise NotImplementedError


def target_registry() -> Registry[type[ExportTarget]]:
    """Every module of ``vpbench.deploy.targets``, and the entry points of the group ``vpbench.export_targets``."""
    return Registry("export target", "vpbench.deploy.targets", subclass_in(ExportTarget), group="vpbench.export_targets")
