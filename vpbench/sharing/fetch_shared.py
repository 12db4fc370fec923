"""What ``vpbench push`` has sent, as a results folder of this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from vpbench.core.errors import StoreError
from vpbench.sharing.repositories import ROW_FILE, Repository, find_repository
from vpbench.sharing.shared_models import fetch_models
from vpbench.sharing.shared_rows import fetch_rows
from vpbench.store.importing import Source, open_source
from vpbench.store.reading import COMPACTED


@contextmanager
def fetched(given: str) -> Iterator[tuple[Repository, Source]]:
    """A repository's rows and the files beside them in a temporary folder, to be imported like those of another machine.

    Raises:
        StoreError: when there is no such repository, it holds no results, a file is damaged, or the hub cannot be reached.
        UsageError: for a text that names no repository.
    """
    repository = find_repository(given)
    with TemporaryDirectory(prefix="vpbench-hub-") as scratch:
        folder = Path(scratch, "results")
        folder.mkdir()
        if repository.kind == "model":
            fetch_models(repository, folder)
            shutil.rmtree(folder / "_fetched")
        else:
            if not any(map(ROW_FILE.fullmatch, repository.files)):
                raise StoreError(
                    f"{repository.page} holds no rows of vpbench; images are used where they are: --data hf:{repository.name}."
                )
            fetch_rows(repository, folder, artefacts=True)
        yield repository, _opened(repository, folder)


def _opened(repository: Repository, folder: Path) -> Source:
    """The source, whose messages name the repository and not the temporary folder."""
    try:
        source = open_source(folder)
    except StoreError as error:
        raise StoreError(str(error).replace(str(folder), repository.name)) from error
    broken = [(Path(repository.name, path.name.removeprefix(COMPACTED)), reason) for path, reason in source.found.broken]
    return replace(source, called=repository.name, found=replace(source.found, broken=broken))
