"""Repositories of the Hugging Face hub: of models, with a folder or more as ``vpbench export --to folder`` writes them, and of
rows, as data sets.

A folder of a model has ``model.safetensors``, ``config.json``, ``README.md``, the run's row in ``row.parquet``, and
``SHA256SUMS``. A data set has ``rows/NUMBER-HASH.parquet``, where a later number holds for a run that several have, and files
that runs have left in ``artefacts/RUN/``, with their ``SHA256SUMS``.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vpbench.core.errors import StoreError, UsageError
from vpbench.core.hub import TOKEN, endpoint, hub_api, hub_errors, hub_token, is_repository
from vpbench.core.names import shortened

ROWS, ROW, ARTEFACT_FOLDER = "rows", "row.parquet", "artefacts"
ROW_FILE = re.compile(rf"{ROWS}/(\d{{6}})-[0-9a-f]{{16}}\.parquet")

Kind = Literal["model", "dataset"]


@dataclass(frozen=True)
class Repository:
    """A repository at one commit.

    Attributes:
        kind: of what the hub calls it.
        name: ``owner/name``.
        commit: hash.
        files: paths of all its files, whatever they are.
    """

    kind: Kind
    name: str
    commit: str
    files: Sequence[str]

    @property
    def page(self) -> str:
        """Its address."""
        return f"{endpoint()}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"

    def download(self, file: str, to: Path) -> None:
        """One of its files as a plain file.

        Raises:
            StoreError: when the hub does not give it.
        """
        with hub_errors(self.name, StoreError, file=file):
            cached = hub_api().hf_hub_download(self.name, file, repo_type=self.kind, revision=self.commit)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(cached, to)


def repository_name(given: str) -> tuple[str, Kind | None, str | None]:
    """Name, kind and revision of what a user calls a repository: ``owner/name``, ``datasets/owner/name``, an address, each with
    ``@revision`` or without.

    Raises:
        UsageError: for something else.
    """
    place, _, revision = given.removeprefix(f"{endpoint()}/").rstrip("/").partition("@")
    first, _, rest = place.partition("/")
    kind: Kind | None = "dataset" if first == "datasets" else "model" if first == "models" else None
    name = rest if kind else place
    if not is_repository(name):
        raise UsageError(f"'{shortened(given)}' is no repository of the hub: write owner/name.")
    return name, kind, revision or None


def find_repository(given: str) -> Repository:
    """A repository that is there.

    Raises:
        StoreError: when there is none, or the hub cannot be reached.
        UsageError: for a text that names none, or both a model and a data set.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    name, kind, revision = repository_name(given)
    found: list[Repository] = []
    with hub_errors(name, StoreError):
        for one in (kind,) if kind else ("model", "dataset"):
            try:
                info = hub_api().repo_info(name, repo_type=one, revision=revision)
            except GatedRepoError:
                raise
            except RepositoryNotFoundError:
                if one == (kind or "dataset") and not found:
                    raise
                continue
            files = [file.rfilename for file in getattr(info, "siblings", None) or ()]
            found.append(Repository(one, name, str(info.sha), files))  # type: ignore[arg-type]
    if len(found) > 1:
        raise UsageError(f"'{name}' is both a model and a data set: write models/{name} or datasets/{name}.")
    return found[0]


def create_repository(name: str, kind: Kind, *, public: bool) -> Repository:
    """A repository as it is now, made if need be.

    Args:
        public: whether a new one is; one that is there stays as it is.

    Raises:
        StoreError: when the hub refuses, or cannot be reached.
    """
    with hub_errors(name, StoreError):
        hub_api().create_repo(name, repo_type=kind, private=not public, exist_ok=True)
    return find_repository(f"{kind}s/{name}")


def check_token() -> None:
    """
    Raises:
        UsageError: without a token in the environment.
    """
    if not hub_token():
        raise UsageError(
            f"{TOKEN} is not set: create a token that may write on {endpoint()}/settings/tokens, and export {TOKEN}=hf_..."
        )


def commit(repository: Repository, folder: Path, message: str, gone: Iterable[str] = ()) -> bool:
    """Add the files of a folder to a repository, and remove those that are ``gone``, in one commit.

    Returns:
        False when somebody else has committed meanwhile, and nothing was done.

    Raises:
        StoreError: when the hub refuses, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.errors import HfHubHTTPError

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    changes = [CommitOperationAdd(file.relative_to(folder).as_posix(), str(file)) for file in files]
    removed = [CommitOperationDelete(file) for file in gone]
    with hub_errors(repository.name, StoreError), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")  # a row, beside its model
        try:
            hub_api().create_commit(
                repository.name, [*changes, *removed], commit_message=message, repo_type=repository.kind,
                parent_commit=repository.commit,
            )  # fmt: skip
        except HfHubHTTPError as error:
            if error.response is not None and error.response.status_code in (409, 412):
                return False
            raise
    return True
