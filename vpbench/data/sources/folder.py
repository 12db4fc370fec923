"""A user's folder of images, laid out as torchvision's ImageFolder: ``PATH/{train,val,test}/CLASS/*`` or ``PATH/CLASS/*``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from vpbench.core.errors import DataError
from vpbench.core.names import quoted
from vpbench.data.raw import Labels, RawData
from vpbench.data.sources._assemble import assemble
from vpbench.data.sources._image_files import Ignored, images_below, images_here, read_image, subfolders
from vpbench.data.sources._own_split import OwnSplit
from vpbench.data.sources._split_names import split_of, split_word
from vpbench.data.sources.mask_folder import pairs_of_folders

# A folder that all classes have for their images is no sign of classes below.
CONTAINERS = frozenset({"images", "image", "imgs", "img", "photos", "pictures", "jpg", "jpeg", "png"})


class FolderSplit(OwnSplit):
    """Images in files, read when needed."""

    def __init__(self, paths: list[Path], labels: Labels) -> None:
        super().__init__(labels)
        self._paths = paths

    def name(self, index: int) -> str:
        return str(self._paths[index])

    def content(self, index: int) -> bytes:
        return read_image(self._paths[index])


def read(path: str | Path, skip_unreadable: bool = False) -> RawData:
    """The images below ``path``, with folder names as classes.

    Split folders have any of their usual names: ``train``, ``Training``, ``seg_train``, ``dev``, ``test_set``. A folder with
    nothing but one folder of class folders is entered (``seg_train/seg_train``, ``archive/flowers``). Without ``val``, a tenth
    of train is used; without any split, every class is split 70/10/20. Both are drawn with a fixed seed and recorded in
    ``RawData.note``, as is what was left out: hidden files, files that are no images, folders that are no split.

    Args:
        skip_unreadable: whether images that cannot be decoded are left out, for which every image is decoded once.

    Raises:
        DataError: in one line: the file, the value and how to fix it.
    """
    root, ignored = Path(path), Ignored()
    base = _base(root)
    _refuse_masks(base)
    notes = [f"Read from its folder '{base.relative_to(root)}'."] if base != root else []
    splits = _split_folders(base)
    if splits:
        _other_folders(base, splits, ignored)
        splits = {split: _doubled(folder, split) for split, folder in splits.items()}
    else:
        _refuse_unknown_splits(base)
    categories = {split: subfolders(folder) for split, folder in (splits or {"": base}).items()}
    elsewhere = {os.path.realpath(folder) for folders in categories.values() for folder in folders}
    found: list[tuple[Path, str, str]] = []
    for folder in {base, *splits.values()}:
        ignored.loose += len(images_here(folder, ignored))
    for split, folders in categories.items():
        for category in folders:
            images = images_below(category, elsewhere, ignored)
            found += [(file, category.name, split) for file in images]
            ignored.empty += [] if images else [str(category.relative_to(base))]
    for split, folder in splits.items():
        if not any(entry[2] == split for entry in found):
            raise DataError(f"{folder} holds no images in class folders; put them in {folder / 'CLASS'}, or remove the folder.")
    if not found:
        raise DataError(
            f"{root} holds no images in class folders; put them in {root / 'train' / 'CLASS'} and {root / 'test' / 'CLASS'}."
        )
    paths = [entry[0] for entry in found]
    return assemble(
        str(root),
        np.array([entry[1] for entry in found]),
        np.array([entry[2] for entry in found]) if splits else None,
        lambda part, labels: FolderSplit([paths[index] for index in part], labels),
        known=[*notes, *ignored.notes],
        skip_unreadable=skip_unreadable,
    )


def _base(root: Path) -> Path:
    """The folder with the splits or classes: ``root``, or one below where each holds nothing but the next."""
    base = root
    while not _split_folders(base):
        inside = subfolders(base)
        if len(inside) != 1 or not subfolders(inside[0]) or images_here(base, Ignored()):
            break
        base = inside[0]
    return base


def _split_folders(root: Path) -> dict[str, Path]:
    """Folders of the splits, by ``train``, ``val``, ``test``; empty if the folders in ``root`` are classes.

    A single folder ``train`` without subfolders is a class, images of trains, and so is ``steam_train`` anyway.
    """
    folders = [item for item in subfolders(root) if split_word(item.name) or (split_of(item.name) and subfolders(item))]
    splits: dict[str, Path] = {}
    for folder in folders:
        split = split_of(folder.name) or ""
        if split in splits:
            raise DataError(f"{root} has both '{splits[split].name}' and '{folder.name}', which are one split; keep one of them.")
        splits[split] = folder
    return splits if len(splits) > 1 or any(subfolders(folder) for folder in folders) else {}


def _doubled(folder: Path, split: str) -> Path:
    """``seg_train/seg_train`` or ``train/images`` for their outer folder, where that holds nothing else."""
    inside = subfolders(folder)
    if len(inside) != 1 or not subfolders(inside[0]) or images_here(folder, Ignored()):
        return folder
    name = inside[0].name
    return _doubled(inside[0], split) if split_of(name) == split or name.lower() in CONTAINERS else folder


def _other_folders(base: Path, splits: dict[str, Path], ignored: Ignored) -> None:
    """Counts the images of folders beside the splits."""
    for folder in subfolders(base):
        if folder not in splits.values():
            ignored.folders[folder.name] = len(images_below(folder, set(), Ignored()))


def _refuse_unknown_splits(base: Path) -> None:
    """
    Raises:
        DataError: when all folders hold folders of the same names: these are the classes, and the folders above are splits.
    """
    folders = subfolders(base)
    same = {item.name for item in subfolders(folders[0])} if len(folders) > 1 else set()
    if not same or (len(same) == 1 and min(same).lower() in CONTAINERS):
        return
    if all({item.name for item in subfolders(folder)} == same for folder in folders[1:]):
        above, below = quoted(sorted(folder.name for folder in folders), 3), quoted(sorted(same), 3)
        raise DataError(
            f"{base}: its folders ({above}) all hold folders of the same names ({below}), so they look like splits "
            "and not like classes; call them train, val and test, or put the images of each class into one folder."
        )


def _refuse_masks(base: Path) -> None:
    """
    Raises:
        DataError: when the folders hold images and masks of the same names, and no classes.
    """
    pairs = pairs_of_folders(base)
    inside = {folder for _, images, masks in pairs for folder in (images, masks)}
    others = [folder for folder in subfolders(base) if not any(each.is_relative_to(folder) for each in inside)]
    for _, images, masks in pairs if not others else ():
        ours, theirs = ({file.stem for file in images_below(folder, set(), Ignored())} for folder in (images, masks))
        if ours and ours <= theirs:
            raise DataError(
                f"{images} and {masks} hold files of the same names, so they look like images and their masks and not like "
                "classes; say --task segmentation, or put the images of each class into one folder."
            )
