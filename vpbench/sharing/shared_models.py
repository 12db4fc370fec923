"""Trained models, shared as model repositories of the hub."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pyarrow as pa

from vpbench.core.errors import StoreError
from vpbench.core.file_names import file_name, is_file_name
from vpbench.core.hashing import file_sha256
from vpbench.core.names import counted
from vpbench.deploy.export_run import export_run
from vpbench.deploy.load_run import MODEL_FILE
from vpbench.models.saved import Description, decode_model
from vpbench.sharing.repositories import ROW, Repository, check_token, commit, create_repository
from vpbench.sharing.shared_rows import is_run
from vpbench.store.artefacts import ARTEFACTS, CHECKSUMS, read_checksums, write_checksums
from vpbench.store.exporting import write_export
from vpbench.store.reading import COMPACTED, read_file
from vpbench.store.schema import SCHEMA
from vpbench.store.store import Store

HERE = "THIS_FOLDER"  # what the card of an exported folder calls itself


@dataclass(frozen=True)
class SentModel:
    """A model in a repository: its folder there ("" for the repository itself), and its description."""

    folder: str
    description: Description


def push_models(
    runs: Sequence[str], name: str, *, results: str | Path, weights: str | Path | None = None, public: bool = False
) -> tuple[str, list[SentModel]]:
    """Put trained models into a repository: one into the repository itself, several into a folder each.

    What is sent is what ``vpbench export --to folder`` writes, and the run's row. The backbone's weights are not.

    Args:
        runs: each as for :func:`vpbench.deploy.load_run.load_run`.
        name: ``owner/name`` of the model, which is made if need be.
        results: folder of the rows.
        weights: file or folder of the backbone's weights, where they are not in their usual place.
        public: whether a new repository is public.

    Returns:
        the repository's page, and what was sent.

    Raises:
        StoreError: for a run without weights, or when the hub refuses or cannot be reached.
        UsageError: without a token.
    """
    check_token()
    with TemporaryDirectory(prefix="vpbench-hub-") as scratch:
        new, sent = Path(scratch, "new"), []
        new.mkdir()
        for number, run in enumerate(runs):
            exported = Path(scratch, str(number))
            export_run(run, "folder", exported, results=results, weights=weights)
            sent.append(_add(exported, new, name, Store(results), alone=len(runs) == 1))
        if len(sent) > 1:
            (new / "README.md").write_text(_card_of_several(name, sent), encoding="utf-8")
        repository = create_repository(name, "model", public=public)
        if not commit(repository, new, f"{counted(len(sent), 'model')} by vpbench"):
            raise StoreError(f"{name}: somebody else has changed it at the same time; push again.")
    return repository.page, sent


def _add(exported: Path, new: Path, name: str, store: Store, *, alone: bool) -> SentModel:
    """Move an exported folder to its place, with its row and its checksums."""
    content = decode_model((exported / MODEL_FILE).read_bytes(), exported / MODEL_FILE)
    assert content.description is not None  # it was exported
    description = content.description
    folder = "" if alone else _folder_of(description)
    card = exported / "README.md"
    card.write_text(card.read_text(encoding="utf-8").replace(HERE, "/".join(filter(None, [name, folder]))), encoding="utf-8")
    if (row := store.read_row(description.run_id)) is not None:
        write_export(pa.Table.from_pylist([{**row, "data_path": None, "weights_path": None}], schema=SCHEMA), exported / ROW)
    write_checksums({file.name: file_sha256(file) for file in exported.iterdir()}, exported / CHECKSUMS)
    shutil.copytree(exported, new / folder, dirs_exist_ok=True)
    return SentModel(folder, description)


def _folder_of(description: Description) -> str:
    label = f"{description.method.label}-{description.data.dataset}-{description.run_id[:8]}".replace(":", "-")
    return file_name(label)


def _card_of_several(name: str, sent: Sequence[SentModel]) -> str:
    rows = [f"| {model.description.method.label} | {model.description.data.dataset} | {model.description.backbone.name} | "
            f"[{model.folder}]({model.folder}/README.md) |" for model in sent]  # fmt: skip
    tags = ["---", "library_name: vpbench", "pipeline_tag: image-classification", "tags:", "- vpbench", "---", ""]
    table = ["| method | data | backbone | folder |", "|---|---|---|---|", *rows]
    usage = ["", "```python", "import vpbench", "", f'model = vpbench.load_run("{name}/{sent[0].folder}")', "```"]
    return "\n".join([*tags, f"# {name.rpartition('/')[2]}", "", *table, *usage]) + "\n"


def model_folders(files: Iterable[str]) -> list[str]:
    """Folders of a repository that hold a model, "" for the repository itself; of names that cannot lead elsewhere."""
    paths = [PurePosixPath(file) for file in files if PurePosixPath(file).name == MODEL_FILE]
    folders = ["" if len(path.parts) == 1 else path.parts[0] for path in paths if len(path.parts) <= 2]
    return sorted(folder for folder in folders if not folder or is_file_name(folder))


def fetch_models(repository: Repository, folder: Path) -> None:
    """The models of a repository as a results folder, for ``vpbench.store.importing``.

    Raises:
        StoreError: when it holds none, or a file is not what it is said to be.
    """
    found = model_folders(repository.files)
    if not found:
        raise StoreError(f"{repository.page} holds no {MODEL_FILE}: vpbench push RUN {repository.name} makes such a repository.")
    for number, place in enumerate(found, start=1):
        _fetch(repository, place, folder, number)


def _fetch(repository: Repository, place: str, folder: Path, number: int) -> None:
    prefix, shown = f"{place}/" if place else "", f"{repository.name}/{place}" if place else repository.name
    fetched = {name: folder / "_fetched" / str(number) / name for name in (MODEL_FILE, ROW, CHECKSUMS)}
    for name, path in fetched.items():
        if f"{prefix}{name}" not in repository.files:
            way = f"vpbench.load_run('{shown}') loads the model" if name == ROW else "push it again"
            raise StoreError(f"{shown} has no {name}: {way}.")
        repository.download(f"{prefix}{name}", path)
    known = read_checksums(fetched[CHECKSUMS])
    for name in (MODEL_FILE, ROW):
        if known.get(name) != file_sha256(fetched[name]):
            raise StoreError(f"{shown}: {name} is not the file that its {CHECKSUMS} means; it is damaged, push it again.")
    ids = read_file(fetched[ROW], ["run_id"]).table["run_id"].to_pylist()
    described = decode_model(fetched[MODEL_FILE].read_bytes(), fetched[MODEL_FILE]).description
    if len(ids) != 1 or not is_run(ids[0]) or described is None or described.run_id != ids[0]:
        raise StoreError(f"{shown}: {ROW} and {MODEL_FILE} are not of one run; push it again.")
    shutil.move(fetched[ROW], folder / f"{COMPACTED}{number:06}-{ids[0][:16]}.parquet")
    target = Store(folder).artefact_path(ids[0], ARTEFACTS["weights"])
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(fetched[MODEL_FILE], target)
    write_checksums({target.name: known[MODEL_FILE]}, target.with_name(CHECKSUMS))
