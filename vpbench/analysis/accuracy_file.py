"""Accuracies of a stored model on changed test images, in a table beside its row; nothing is trained again."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vpbench.core.errors import StoreError
from vpbench.data.cache import CachedSplit
from vpbench.data.raw import RawData
from vpbench.store.store import Store

if TYPE_CHECKING:
    import torch

    from vpbench.spec.run_spec import BackboneSpec

SCORES: Mapping[str, type] = {"acc1": float, "correct": int, "total": int}
Key = tuple[Any, ...]
Change = Callable[[CachedSplit], CachedSplit]
"""From the test split to one with other images."""


@dataclass(frozen=True)
class AccuracyFile:
    """A CSV file of accuracies, one line per change of the test images.

    Attributes:
        name: of the file.
        keys: the columns that say which change, and their types; then come ``acc1`` (percent), ``correct`` and ``total``.
        what: the change, in words.
    """

    name: str
    keys: Mapping[str, type]
    what: str

    def complete(
        self, row: Mapping[Any, Any], store: Store, wanted: Mapping[Key, Change], device: torch.device | str = "auto",
        raw: RawData | None = None, backbone: BackboneSpec | None = None,
    ) -> pd.DataFrame:  # fmt: skip
        """Test a stored model on changed images, those that the file does not have yet.

        Args:
            row: of a run that is ok and was made with ``--save weights``.
            store: holds its tensors and receives the file.
            wanted: the change by what stands in the columns :attr:`keys`.
            device: ``auto``, or where to compute.
            raw: the data set where it is open already.
            backbone: the run's, where the path of its weights is known already.

        Returns:
            the whole file, sorted by its keys.

        Raises:
            StoreError, WeightsError, DataError: see :func:`vpbench.analysis.load.load_stored`.
        """
        run_id = row["run_id"]
        known = self._known(store, run_id)
        done = set() if known is None else set(known[list(self.keys)].itertuples(index=False, name=None))
        missing = {key: change for key, change in wanted.items() if key not in done}
        if known is not None and not missing:
            return known
        rows = [] if known is None else list(known[[*self.keys, *SCORES]].itertuples(index=False, name=None))
        rows += _tested(row, store, missing, device, raw, backbone)

        def write(path: Path) -> None:
            with path.open("w", newline="", encoding="utf-8") as stream:
                table = csv.writer(stream)
                table.writerow([*self.keys, *SCORES])
                table.writerows(sorted(rows))

        store.write_artefact(run_id, self.name, write)
        return self.read(store, run_id)

    def read(self, store: Store, run_id: str) -> pd.DataFrame:
        """What :meth:`complete` left.

        Raises:
            StoreError: when the file is no such table.
        """
        columns: dict[Any, Any] = {**self.keys, **SCORES}
        path = store.artefact_path(run_id, self.name)
        try:
            content = io.BytesIO(store.read_artefact(run_id, self.name))
            return pd.read_csv(content)[list(columns)].astype(columns)
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(f"{path} is no table of accuracies {self.what}: delete it, and evaluate the run again.") from error

    def _known(self, store: Store, run_id: str) -> pd.DataFrame | None:
        """What was found earlier; None when the model was trained again since."""
        from vpbench.store.artefacts import ARTEFACTS

        path, weights = store.artefact_path(run_id, self.name), store.artefact_path(run_id, ARTEFACTS["weights"])
        if not path.exists() or (weights.exists() and path.stat().st_mtime_ns < weights.stat().st_mtime_ns):
            return None
        return self.read(store, run_id)


def _tested(
    row: Mapping[Any, Any], store: Store, changes: Mapping[Key, Change], device: torch.device | str, raw: RawData | None,
    backbone: BackboneSpec | None,
) -> list[Key]:  # fmt: skip
    """Lines of the file."""
    # Imported here: a figure that reads the file needs no torch.
    from vpbench.analysis.load import load_stored
    from vpbench.data.batches import Normaliser
    from vpbench.spec.device import resolve_device
    from vpbench.spec.precision import float32_products
    from vpbench.training.fit import Trainer

    place = resolve_device(device) if isinstance(device, str) else device
    stored = load_stored(row, store, place, raw, backbone)
    normalise = Normaliser(stored.spec.backbone.mean, stored.spec.backbone.std, place)
    trainer = Trainer(stored.model, stored.data, stored.spec, normalise, place)
    with float32_products(stored.spec.precision):
        found = [(key, trainer.evaluate(change(stored.data.test))) for key, change in changes.items()]
    return [(*key, *(scores.columns()[name] for name in SCORES)) for key, scores in found]
