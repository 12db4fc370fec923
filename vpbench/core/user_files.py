"""The user's own cards and code, outside the installed package.

They lie in folders with the sub-folders of :data:`KINDS`: ``datasets/birds.toml``, ``methods/my_prompts.py``. Such a folder is
named by ``--cards`` or ``VPBENCH_PATH`` (several, separated as in PATH), or by the file ``vpbench.toml`` of the working folder::

    cards = "vpbench_user"

``VPBENCH_PATH`` can also name single files: a method (``.py``) or a suite (``.toml``).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from vpbench.core.errors import UsageError
from vpbench.core.names import unknown
from vpbench.core.user_folders import user_path

SETTING = "VPBENCH_PATH"
FILE = "vpbench.toml"
DEFAULT_FOLDER = "vpbench_user"  # that `vpbench new` makes where there is none

# Sub-folders, and the ending of what lies there.
KINDS = {
    **dict.fromkeys(("datasets", "suites", "recipes", "searches", "tables", "backbones"), ".toml"),
    **dict.fromkeys(("methods", "sources", "plots", "executors", "tasks", "trackers"), ".py"),
}
_SINGLE = {"methods": ".py", "suites": ".toml"}  # kinds that a place can be a single file of


def places() -> list[Path]:
    """All folders and single files of the user's, absolute, each once.

    Raises:
        UsageError: when one does not exist, or ``vpbench.toml`` cannot be read; the message names where that is said.
    """
    said = [(f"{SETTING}={entry}", Path(entry)) for entry in os.environ.get(SETTING, "").split(os.pathsep) if entry]
    said += [(f'{FILE}: cards = "{entry}"', Path(entry)) for entry in _of_the_working_folder()]
    found = []
    for origin, place in said:
        place = user_path(place).absolute()
        if not place.exists():
            raise UsageError(f"{origin}: there is no such folder or file; correct it, or create it.")
        found.append(place)
    return list(dict.fromkeys(found))


def add_places(added: Iterable[str | Path]) -> None:
    """Use more folders or files in this process and in those that it starts."""
    known = [entry for entry in os.environ.get(SETTING, "").split(os.pathsep) if entry]
    new = [str(user_path(place).absolute()) for place in added]
    if any(os.pathsep in place for place in new):
        raise UsageError(f"{', '.join(new)}: the path holds '{os.pathsep}', which separates paths in {SETTING}; rename it.")
    os.environ[SETTING] = os.pathsep.join(dict.fromkeys([*new, *known]))


def add_file(given: str, kind: str, option: str) -> str:
    """Use a single file of a kind in this process and in those that it starts; returns its name.

    Args:
        given: path of a method or a suite.
        option: what named it, for messages, e.g. ``"--suite"``.

    Raises:
        UsageError: when there is no such file.
    """
    path = user_path(given)
    if not path.is_file():
        raise UsageError(f"{option} {given}: there is no such file.")
    add_places([path])
    return path.name.removesuffix(KINDS[kind])


def user_files(kind: str) -> dict[str, list[Path]]:
    """The user's files of a kind by their names, without the ending; several files of one name are a mistake, to be reported by
    who asks for it."""
    found: dict[str, dict[Path, Path]] = {}
    for file in _files(kind):
        if not file.name.startswith(("_", ".")):
            found.setdefault(file.name.removesuffix(KINDS[kind]), {})[file.resolve()] = file
    return {name: list(files.values()) for name, files in found.items()}


def _files(kind: str) -> Iterator[Path]:
    for place in places():
        if place.is_dir():
            yield from sorted(place.joinpath(kind).glob(f"*{KINDS[kind]}"))
        elif place.suffix == _SINGLE.get(kind):
            yield place


def folder_for_new_files(chosen: Path | None = None) -> Path:
    """Where a new file goes: the folder chosen, else the first of the user's folders, else ``vpbench_user``, which the
    ``vpbench.toml`` of the working folder names from then on."""
    if chosen is not None:
        return user_path(chosen)
    return next((place for place in places() if place.is_dir()), Path(DEFAULT_FOLDER).absolute())


def make_known(folder: Path) -> Path | None:
    """Let ``vpbench.toml`` name a folder that nothing names yet.

    Returns:
        the file, if it was written.

    Raises:
        UsageError: when the file is there and names other folders.
    """
    if folder.absolute() in places():
        return None
    file = Path(FILE)
    if file.exists():
        raise UsageError(f"{file.absolute()} names other folders; add '{folder}' to its cards, or say --cards {folder}.")
    own = folder.absolute()
    inside = own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own
    file.write_text(f"# Where vpbench finds your own cards and methods.\ncards = {_quoted(str(inside))}\n", encoding="utf-8")
    return file.absolute()


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _of_the_working_folder() -> list[str]:
    """What ``vpbench.toml`` names; nothing without it."""
    file = Path(FILE)
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UsageError(f"{file.absolute()} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # of the syntax, or of the encoding
        raise UsageError(f"{file.absolute()} is not valid TOML: {error}") from error
    if strange := [key for key in content if key != "cards"]:
        raise UsageError(f"{file.absolute()}: {unknown('field', strange[0], ['cards'])}")
    cards = content.get("cards", [])
    entries = [cards] if isinstance(cards, str) else cards
    if not isinstance(entries, list) or not all(isinstance(entry, str) and entry for entry in entries):
        raise UsageError(f"{file.absolute()}: cards must be a folder or a list of folders; it is {cards!r}.")
    return entries
