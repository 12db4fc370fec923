"""Which files below a folder are images, and an account of what is left out."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image

from vpbench.core.names import counted, quoted
from vpbench.data.flaws import Flaw
from vpbench.data.image_errors import UnreadableError

# A file with one of these that cannot be decoded is an error; any other file is an image if its first bytes say so.
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".avif", ".tif", ".tiff", ".jp2", ".j2k"),
        *(".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico"),
    )
)
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "JPEG2000", "BMP")  # those with an unmistakable beginning
NAMED, FEW = 9, 3  # kinds of files and empty folders that a note names; folders that it describes one by one
_JUNK = frozenset({"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "lost+found"})


@dataclass
class Ignored:
    """What a reader left out, for one note with counts."""

    hidden: int = 0
    links: int = 0
    loose: int = 0
    others: Counter[str] = field(default_factory=Counter)  # files that are no images, by suffix
    folders: dict[str, int] = field(default_factory=dict)  # no splits, and how many images they hold
    empty: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """Sentences; none where nothing was left out. Hidden files alone are nothing to remember."""
        kinds = ", ".join(f"{suffix or 'no suffix'} {count}" for suffix, count in sorted(self.others.items())[:NAMED])
        kinds += ", ..." if len(self.others) > NAMED else ""
        parts = [
            *([f"{counted(self.others.total(), 'file')} that Pillow does not know as images ({kinds})"] if self.others else []),
            *([f"{self.hidden} hidden"] if self.hidden else []),
            *([f"{counted(self.loose, 'image')} outside class folders"] if self.loose else []),
            *([f"{counted(self.links, 'link')} to folders that are read anyway"] if self.links else []),
            *self._other_folders,
        ]
        kind = str if self.hidden and len(parts) == 1 else Flaw
        return [
            *([kind(f"Ignored: {'; '.join(parts)}.")] if parts else []),
            *([Flaw(f"Class folders without images: {quoted(sorted(set(self.empty)), NAMED)}.")] if self.empty else []),
        ]

    @property
    def _other_folders(self) -> list[str]:
        """Folders that are no splits: each with its images, or all in one where they are many."""
        if len(self.folders) <= FEW:
            return [f"folder '{name}' with {counted(count, 'image')}, which is no split" for name, count in self.folders.items()]
        total = counted(sum(self.folders.values()), "image")
        return [f"{total} in {len(self.folders)} folders that are no splits ({quoted(self.folders, FEW)})"]


def is_hidden(name: str) -> bool:
    """Files and folders that the user did not put there: ``.git``, ``._cat.jpg``, ``__MACOSX``."""
    return name.startswith(".") or name in _JUNK


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in ``folder``, sorted; links back to it or to a folder above it are none."""
    with os.scandir(folder) as entries:
        inside = [entry for entry in entries if not is_hidden(entry.name) and entry.is_dir()]
    return sorted(Path(entry.path) for entry in inside if not _leads_back(entry, folder))


def _leads_back(entry: os.DirEntry[str], folder: Path) -> bool:
    return entry.is_symlink() and os.path.realpath(entry.path) in above_and_self(folder)


def above_and_self(folder: Path) -> set[str]:
    """The real paths of a folder and of all folders above it."""
    real = Path(os.path.realpath(folder))
    return {str(real), *map(str, real.parents)}


def is_image(file: Path) -> bool:
    """By its suffix, else by what Pillow finds in its first bytes."""
    if file.suffix.lower() in SUFFIXES:
        return True
    try:
        with Image.open(file, formats=_formats()):
            return True
    except Image.DecompressionBombError:
        return True  # decoding will say so
    except Exception:  # plug-ins raise many kinds of errors for what is no image
        return False


@cache
def _formats() -> tuple[str, ...]:
    """Those of the formats that this Pillow was built with."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def read_image(file: Path) -> bytes:
    """The bytes of an image.

    Raises:
        UnreadableError: when it cannot be opened.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        said = f"{file} cannot be read ({error.strerror}); check it and its permissions."
        raise UnreadableError.of({str(file): said}) from error


def images_here(folder: Path, ignored: Ignored) -> list[Path]:
    """The images in ``folder`` itself."""
    with os.scandir(folder) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    folders = [entry for entry in inside if entry.is_dir()]
    ignored.hidden += sum(is_hidden(entry.name) for entry in folders)
    ignored.links += sum(_leads_back(entry, folder) for entry in folders)
    return _sorted_out(folder, [entry.name for entry in inside if not entry.is_dir()], ignored)


def images_below(folder: Path, elsewhere: set[str], ignored: Ignored) -> list[Path]:
    """All images below ``folder``, sorted, so that splits do not depend on the order of a directory listing.

    Links are followed, to every real folder once and to none of those that are read ``elsewhere`` or lie above.
    """

    def fail(error: OSError) -> None:
        raise error

    seen = elsewhere | above_and_self(folder)
    found: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        entered = []
        for name in sorted(folders):
            real = os.path.realpath(Path(place, name))
            if is_hidden(name):
                ignored.hidden += 1
            elif real in seen:
                ignored.links += 1
            else:
                seen.add(real)
                entered.append(name)
        folders[:] = entered
        found += _sorted_out(Path(place), names, ignored)
    return sorted(found)


def _sorted_out(folder: Path, names: list[str], ignored: Ignored) -> list[Path]:
    found = []
    for name in names:
        file = folder / name
        if is_hidden(name):
            ignored.hidden += 1
        elif is_image(file):
            found.append(file)
        else:
            ignored.others[file.suffix.lower()] += 1
    return found
