"""What any method trained goes to the hub and comes back with the same logits: by its name, and pulled into another folder."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from alone import write_card
from hub_server import TOKEN, hub_serving, use_hub
from perturbed import CLASSES, run_of, trained
from sweeps import case

from vpbench.cli.import_rows import take_in
from vpbench.deploy.inference_form import check_logits, exact_logits, example_inputs
from vpbench.deploy.load_run import load_run
from vpbench.execution.execute import known_columns
from vpbench.execution.job import Job
from vpbench.models.registry import method_registry
from vpbench.models.saved import encode_model
from vpbench.sharing.fetch_shared import fetched
from vpbench.sharing.shared_models import push_models
from vpbench.store.artefacts import ARTEFACTS
from vpbench.store.store import Store


def store_run(method: str, folder: Path) -> str:
    """The row and the weights of a run, as it leaves them; its id."""
    spec, model = run_of(method), trained(method)
    content = encode_model(model.model, model.description)
    job = Job(
        spec=spec, recipe_source="here", group="custom", classes=len(CLASSES), n_train=4, n_val=2, n_test=6, data_root=""
    )  # fmt: skip
    store = Store(folder)
    store.write_artefact(spec.run_id, ARTEFACTS["weights"], lambda path: path.write_bytes(content))
    store.write_row({**known_columns(job), "status": "ok", "error": "", "started_at": datetime.now(UTC)})
    return spec.run_id


@pytest.mark.parametrize("method", [case(name, always=("lora",)) for name in method_registry().names()])
def test_push_and_pull(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPBENCH_PATH", str(write_card(tmp_path / "cards")))
    run_id, name, mine = store_run(method, tmp_path / "runs"), f"me/{method}", tmp_path / "mine"
    images = example_inputs(trained(method), 2)
    wanted = exact_logits(trained(method), images)
    with hub_serving() as hub:
        use_hub(hub, tmp_path / "hf", monkeypatch, TOKEN)
        push_models([run_id], name, results=tmp_path / "runs")
        check_logits("the model on the hub", exact_logits(load_run(name), images), wanted)
        with fetched(name) as (_, source):
            take_in([source], mine, None, False)
    check_logits("the pulled model", exact_logits(load_run(run_id, results=mine), images), wanted)
