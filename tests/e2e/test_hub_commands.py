"""``vpbench push`` and ``pull``, and models loaded from the hub: against a hub on this machine."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from command import Outcome, rows, vpbench
from hub_server import TOKEN, Hub, hub_serving, use_hub
from huggingface_hub.errors import LocalEntryNotFoundError

import vpbench as package
from vpbench.core.errors import StoreError, VpbenchError
from vpbench.core.hub import hub_errors
from vpbench.deploy.model_card import model_card
from vpbench.store.artefacts import CHECKSUMS
from vpbench.store.store import Store


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_serving() as served:
        use_hub(served, tmp_path / "hf", monkeypatch, TOKEN)
        yield served


def run_of(results: Path, method: str) -> str:
    (run_id,) = rows(results).query(f"method == '{method}'")["run_id"]
    return str(run_id)


def one_line(done: Outcome) -> str:
    assert done.err.count("\n") == 1 and done.err.startswith("vpbench: ")
    return done.err


def test_a_model_goes_round(hub: Hub, finished: Path, tmp_path: Path) -> None:
    """Pushed, loaded by its name, and pulled into another folder: the same logits, without the data."""
    run_id = run_of(finished, "vpt")
    done = vpbench("push", run_id[:8], "me/vpt-grey", "--results", finished)
    assert done.code == 0, done.err
    assert done.out == f'vpt on grey: {hub.url}/me/vpt-grey. vpbench.load_run("me/vpt-grey") loads it.\n'
    files = hub.files("models", "me/vpt-grey")
    assert set(files) == {".gitattributes", "README.md", "config.json", "model.safetensors", "row.parquet", CHECKSUMS}
    assert files["model.safetensors"] == Store(finished).read_artefact(run_id, "weights.safetensors")  # whatever the method
    assert hub.repositories["models", "me/vpt-grey"].private
    card = files["README.md"].decode()
    for words in ("library_name: vpbench", "# vpt on grey", "licence of the backbone", 'load_run("me/vpt-grey")', run_id):
        assert words in card
    row = pq.read_table(io.BytesIO(files["row.parquet"])).to_pylist()[0]
    assert row["run_id"] == run_id and row["data_path"] is None

    images = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = package.load_run(run_id, results=finished)(images)
        assert torch.equal(package.load_run("me/vpt-grey")(images), wanted)
        pulled = vpbench("pull", "me/vpt-grey", "--results", tmp_path / "mine")
        assert pulled.code == 0 and "1 new row" in pulled.out
        assert torch.equal(package.load_run(run_id[:8], results=tmp_path / "mine")(images), wanted)
    again = vpbench("pull", "me/vpt-grey", "--results", tmp_path / "mine")
    assert "0 new rows, 1 the same here and there" in again.out


@pytest.mark.sweep
def test_several_models_are_folders(hub: Hub, finished: Path, tmp_path: Path) -> None:
    runs = [run_of(finished, method) for method in ("linear", "vpt")]
    done = vpbench("push", *runs, "me/both", "--results", finished, "--public", "--json")
    assert done.code == 0, done.err
    sent = json.loads(done.out)
    assert [model["run_id"] for model in sent["models"]] == runs
    assert not hub.repositories["models", "me/both"].private
    place = sent["models"][1]["model"]
    assert place == f"me/both/vpt-grey-{runs[1][:8]}" and place in hub.files("models", "me/both")["README.md"].decode() + place
    assert package.load_run(place).description.run_id == runs[1]
    assert vpbench("pull", "me/both", "--results", tmp_path / "mine").code == 0
    assert sorted(rows(tmp_path / "mine")["run_id"]) == sorted(runs)


@pytest.mark.sweep
def test_weights_for_rows_that_are_here(hub: Hub, finished: Path, tmp_path: Path) -> None:
    run_id, mine = run_of(finished, "vpt"), tmp_path / "mine"
    assert vpbench("push", run_id, "me/vpt", "--results", finished).code == 0
    assert vpbench("push", finished, "lab/board").code == 0
    assert vpbench("pull", "lab/board", "--results", mine).code == 0
    with pytest.raises(StoreError, match="left no weights"):
        package.load_run(run_id, results=mine)
    pulled = vpbench("pull", "me/vpt", "--results", mine)
    assert f"1 file that runs lacked here: {run_id[:8]}/weights.safetensors" in pulled.out
    assert package.load_run(run_id, results=mine).class_names == ("c0", "c1", "c2")


def altered(results: Path, folder: Path, **changes: Any) -> Path:
    """A results folder with the first run, changed."""
    row = Store(results).read_row(run_of(results, "linear"))
    assert row is not None
    Store(folder).write_row({**row, **changes})
    return folder


@pytest.mark.sweep
def test_a_leaderboard_of_several_people(hub: Hub, finished: Path, tmp_path: Path) -> None:
    done = vpbench("push", finished, "lab/board", "--artefacts", "curve")
    assert done.code == 0, done.err
    assert done.out == f"{hub.url}/datasets/lab/board: 2 new rows.\n"
    other = altered(finished, tmp_path / "other", run_id="0" * 32, method="own")
    altered(finished, other, run_id="1" * 32, method="own", status="failed", error="/home/me/secret.py failed")

    def somebody_else() -> None:
        hub.put("datasets", "lab/board", {**hub.files("datasets", "lab/board"), "notes.txt": b"hello"})

    hub.before_commit = somebody_else
    done = vpbench("push", other, "lab/board")
    assert done.code == 0 and "1 new row" in done.out and done.err == "1 run that went wrong stayed here.\n"
    files = hub.files("datasets", "lab/board")
    assert files["notes.txt"] == b"hello"
    tables = [pq.read_table(io.BytesIO(content)) for name, content in files.items() if name.startswith("rows/")]
    assert sorted(len(table) for table in tables) == [1, 2]
    assert all(table["data_path"].null_count == len(table) for table in tables)
    card = files["README.md"].decode()
    assert "path: rows/*.parquet" in card and "3 runs of 3 methods on 1 data set" in card and "| linear" in card.lower()
    assert vpbench("push", other, "lab/board").out == f"{hub.url}/datasets/lab/board: 0 new rows, 1 the same here and there.\n"

    pulled = vpbench("pull", "lab/board", "--results", tmp_path / "mine")
    assert pulled.code == 0 and "3 new rows" in pulled.out
    assert set(rows(tmp_path / "mine")["method"]) == {"linear", "vpt", "own"}
    curve = Store(tmp_path / "mine").read_artefact(run_of(finished, "vpt"), "curve.csv")
    assert curve == Store(finished).read_artefact(run_of(finished, "vpt"), "curve.csv")
    report = vpbench("report", "--table", "1", "--results", tmp_path / "mine")
    assert report.code == 0, report.err


def test_other_numbers_there(hub: Hub, finished: Path, tmp_path: Path) -> None:
    assert vpbench("push", finished, "lab/board").code == 0
    before = hub.repositories["datasets", "lab/board"].head
    row = Store(finished).read_row(run_of(finished, "linear"))
    assert row is not None
    correct = row["correct"] - 1 if row["correct"] else 1
    other = altered(finished, tmp_path / "other", correct=correct, acc1=100 * correct / row["total"])
    done = vpbench("push", other, "lab/board")
    assert done.code == 1 and "1 run with other numbers there, so nothing was sent: say --on-conflict" in done.err
    assert hub.repositories["datasets", "lab/board"].head == before
    done = vpbench("push", other, "lab/board", "--on-conflict", "replace")
    assert done.code == 0 and "1 replaced" in done.out
    vpbench("pull", "lab/board", "--results", tmp_path / "mine")
    assert rows(tmp_path / "mine").query("method == 'linear'")["correct"].tolist() == [correct]


@pytest.mark.sweep
def test_many_pushes_become_one_file(hub: Hub, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpbench.sharing.shared_rows.FILES", 2)
    for number in range(3):
        other = altered(finished, tmp_path / str(number), run_id=f"{number:032x}")
        assert vpbench("push", other, "lab/board").code == 0
    (name,) = [name for name in hub.files("datasets", "lab/board") if name.startswith("rows/")]
    assert name.startswith("rows/000003-")
    assert vpbench("pull", "lab/board", "--results", tmp_path / "mine").code == 0
    assert len(rows(tmp_path / "mine")) == 3


def test_what_is_not_trusted(hub: Hub, finished: Path, tmp_path: Path) -> None:
    """Names that lead elsewhere are never asked for, and what is not as it was sent is refused."""
    run_id = run_of(finished, "linear")
    assert vpbench("push", run_id, "me/one", "--results", finished).code == 0
    good = hub.files("models", "me/one")
    rows_file = good["row.parquet"]
    for name, files, words in (
        (
            "weights",
            {"model.safetensors": good["model.safetensors"] + b"x"},
            "model.safetensors is not the file that its SHA256SUMS",
        ),
        ("sums", {CHECKSUMS: b""}, "row.parquet|model.safetensors is not the file"),
        ("none", {"model.safetensors": None}, "holds no model.safetensors"),
        ("row", {"row.parquet": None}, r"me/row has no row.parquet: vpbench.load_run\('me/row'\) loads the model"),
    ):
        changed = {**good, **files}
        hub.put("models", f"me/{name}", {path: content for path, content in changed.items() if content is not None})
        with pytest.raises(VpbenchError, match=words):
            vpbench_raises("pull", f"me/{name}", "--results", tmp_path / "mine")
    evil = {
        "rows/../../../evil.parquet": rows_file, "rows/x.parquet": rows_file, "_claims/x": b"", "sitecustomize.py": b"boom",
        f"artefacts/{run_id}/../../x": b"", f"artefacts/{run_id}/sitecustomize.py": b"boom",
        f"rows/000001-{'0' * 16}.parquet": rows_file, f"artefacts/{run_id}/curve.csv": b"1",
        f"artefacts/{run_id}/{CHECKSUMS}": f"{hashlib.sha256(b'2').hexdigest()}  curve.csv\n".encode(),
    }  # fmt: skip
    hub.put("datasets", "evil/rows", evil)
    hub.requests.clear()
    assert vpbench("pull", "evil/rows", "--results", tmp_path / "taken").code == 0
    assert not [asked for asked in hub.requests if "evil.parquet" in asked or "sitecustomize" in asked or "claims" in asked]
    taken = {path.relative_to(tmp_path / "taken").as_posix() for path in (tmp_path / "taken").rglob("*") if path.is_file()}
    assert {path for path in taken if not path.startswith(("_claims", "compacted-"))} == {
        f"_artefacts/{run_id}/curve.csv", f"_artefacts/{run_id}/{CHECKSUMS}",
    }  # fmt: skip
    with pytest.raises(Exception, match="checksum"):
        Store(tmp_path / "taken").read_artefact(run_id, "curve.csv")


def vpbench_raises(*words: object) -> None:
    done = vpbench(*words)
    assert done.code != 0
    raise StoreError(done.err)


def test_mistakes_are_one_line(hub: Hub, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = run_of(finished, "linear")
    hub.put("datasets", "me/photos", {"train.parquet": b""})
    hub.put("models", "me/twice", {})
    hub.put("datasets", "me/twice", {})
    bare = tmp_path / "bare"
    Store(bare).write_row(Store(finished).read_row(run_id) or {})
    cases = {
        ("pull", "me/nothing"): f"there is no 'me/nothing' on {hub.url}: correct the name, or set HF_TOKEN to a token",
        ("pull", "nothing"): "'nothing' is no repository of the hub: write owner/name.",
        ("pull", "../../etc"): "'../../etc' is no repository of the hub: write owner/name.",
        ("pull", "me/photos"): "holds no rows of vpbench; images are used where they are: --data hf:me/photos.",
        ("pull", "me/twice"): "'me/twice' is both a model and a data set: write models/me/twice or datasets/me/twice.",
        ("push", "me/x"): "what is to go to me/x? Say vpbench push RUN... me/x",
        (
            "push",
            run_id[:8],
            "--results",
            finished,
        ): f"the repository is missing. It comes last, owner/name: vpbench push {run_id[:8]} o",
        ("push", finished): "the repository is missing. It comes last, owner/name",
        ("push", "fr"): "the repository is missing. It comes last, owner/name: vpbench push fr owner/name",
        ("push", run_id, run_id[:8]): "the repository is missing",
        ("push", run_id, "me"): "'me' is no repository of the hub: write owner/name",
        ("push", "no/folder", "me/x"): "there is no 'no/folder' on http",
        ("push", run_id, "me/x", "--artefacts", "curve"): "--artefacts is for a results folder, and",
        ("push", run_id, "me/x", "--on-conflict", "keep"): "--on-conflict is for a results folder, and",
        ("push", finished, "me/x", "--weights", "w.pt"): "--weights is for models, and",
        ("push", finished, "me/x", "--artefacts", ","): "--artefacts names no kind of file: take some of features, predictions",
        ("push", run_id, "me/x@main"): "a push is a new revision; leave out @main",
        (
            "push",
            run_id,
            "other/x",
            "--results",
            finished,
        ): f"{hub.url} refuses this for other/x: set HF_TOKEN to a token that may",
        ("push", run_id, "me/x", "--results", bare): "left no weights",
        ("push", finished, "me/x", "--artefacts", "curves"): "unknown kind of --artefacts 'curves'. Did you mean 'curve'?",
        ("push", finished, run_id, "me/x"): "is a results folder: push it alone",
    }
    for words, said in cases.items():
        assert said in one_line(vpbench(*words)), words
    for name, said in (
        ("me/nothing", "there is no 'me/nothing' on http.* There is no file or folder 'me/nothing' here either"),
        ("me/twice", "me/twice on .* has no model.safetensors"),
    ):
        with pytest.raises(StoreError, match=said):
            package.load_run(name)
    monkeypatch.setenv("HF_TOKEN", "")
    asked = len(hub.requests)
    for what in ((run_id, "me/x", "--results", finished), (finished, "lab/board")):
        assert "HF_TOKEN is not set: create a token that may write on" in one_line(vpbench("push", *what))
    assert len(hub.requests) == asked
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached" in one_line(vpbench("pull", "me/one"))
    assert isinstance(rows(finished), pd.DataFrame)


def test_retries_are_not_told_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    """A rate limit is, since waiting for its end can take minutes."""
    log = logging.getLogger("huggingface_hub.utils._http")
    with hub_errors("me/x", StoreError):
        log.warning("'[Errno -2] Name or service not known' thrown while requesting HEAD https://huggingface.co/x")
        log.warning("Retrying in 1s [Retry 1/5].")
        log.warning("Rate limited. Waiting 250s before retry [Retry 1/5].")
    assert [record.getMessage() for record in caplog.records] == ["Rate limited. Waiting 250s before retry [Retry 1/5]."]


def test_what_the_client_says_of_its_cache_alone_is_not_the_reason() -> None:
    said = r"cannot be reached \(ConnectionError: no such host\)\. There is no folder\.$"
    with pytest.raises(StoreError, match=said), hub_errors("me/x", StoreError, ending="There is no folder."):
        raise LocalEntryNotFoundError("check your connection") from ConnectionError("no such host")


def test_a_card_names_its_backbone_and_data_on_the_hub(finished: Path) -> None:
    description = package.load_run(run_of(finished, "linear"), results=finished).description
    hubs = {
        "data": description.data.model_copy(update={"hub": "uni/cifar:small@" + "0" * 40}),
        "backbone": description.backbone.model_copy(update={"weights": "hub:timm/vit_base.augreg/model.safetensors"}),
    }
    card = model_card(description.model_copy(update=hubs), "")
    front, _, text = card.removeprefix("---\n").partition("---\n")
    assert "base_model: timm/vit_base.augreg\ndatasets:\n- uni/cifar\n" in front
    assert "| data set of the hub | uni/cifar:small@000" in text
    assert "base_model" not in model_card(description, "") and "datasets:" not in model_card(description, "")
