"""Rows, curves and predictions for figures."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from report_rows import fill, make_row

from vpbench.reporting.figures import SectionRuns, sections
from vpbench.reporting.frame import Filters
from vpbench.store.store import Store

COSTS = {"latency_ms_p50": 5.0, "mem_train_peak": 2**30}


def section_of(folder: Path, *rows: dict[str, Any]) -> SectionRuns:
    (section,) = sections(fill(folder, *rows).load(), Filters())
    return section


def save_text(store: Store, run_id: str, name: str, text: str) -> None:
    store.write_artefact(run_id, name, lambda path: path.write_text(text, encoding="utf-8"))


def save_curve(store: Store, run_id: str, losses: list[float], accuracies: list[float] | None = None, phases: int = 1) -> None:
    lines = ["phase,epoch,epochs,lr,train_loss,val_acc1"]
    for phase in range(phases):
        for epoch, loss in enumerate(losses):
            accuracy = accuracies[epoch] if accuracies else ""
            lines.append(f"phase{phase},{epoch + 1},{len(losses)},0.1,{loss},{accuracy}")
    save_text(store, run_id, "curve.csv", "\n".join(lines) + "\n")


def save_predictions(store: Store, run_id: str, labels: list[int], guesses: list[int], **more: Any) -> None:
    ranked = np.array([guesses, labels]).T
    with io.BytesIO() as stream:
        np.savez(stream, labels=np.array(labels), ranked=ranked, **more)
        content = stream.getvalue()
    store.write_artefact(run_id, "predictions.npz", lambda path: path.write_bytes(content))


def trials() -> list[dict[str, Any]]:
    """Of a search over two settings: four whole trainings, a pruned one and one that failed."""
    search = {"space": "adamw", "sampler": "tpe", "trials": 6, "searched": ["recipe.lr", "prompt_length"]}
    about = {"stage": "search", "search": json.dumps(search)}
    found = [
        make_row("vpt", recipe={"lr": lr}, options={"prompt_length": n}, minutes=place, acc1=None, **about)
        | {"status": "ok", "val_acc1": 60.0 + place}
        for place, (lr, n) in enumerate([(0.001, 5), (0.01, 5), (0.1, 10), (0.01, 10)])
    ]
    pruned = make_row("vpt", recipe={"lr": 0.5, "epochs": 3}, acc1=None, **about) | {"status": "ok", "val_acc1": 99.0}
    return [*found, pruned, make_row("vpt", recipe={"lr": 1.0}, acc1=None, **about)]
