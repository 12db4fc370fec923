"""Oxford Flowers 102, with VPT's JSON lists or the official .mat lists."""

from __future__ import annotations

from pathlib import Path

from vpbench.core.errors import DataError
from vpbench.data.raw import RawData
from vpbench.data.sources._json_lists import json_lists, names_in_order
from vpbench.data.sources._listed import Key, from_lists, nested
from vpbench.data.sources._mat import read_mat, whole_numbers

# Names of classes 1 to 102, missing in the official files, in the order and spelling of torchvision's Flowers102.
NAMES = """
pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily, moon orchid, bird
of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear thistle, yellow iris, globe-flower,
purple coneflower, peruvian lily, balloon flower, giant white arum lily, fire lily, pincushion flower, fritillary, red
ginger, grape hyacinth, corn poppy, prince of wales feathers, stemless gentian, artichoke, sweet william, carnation,
garden phlox, love in the mist, mexican aster, alpine sea holly, ruby-lipped cattleya, cape flower, great masterwort,
siam tulip, lenten rose, barbeton daisy, daffodil, sword lily, poinsettia, bolero deep blue, wallflower, marigold,
buttercup, oxeye daisy, common dandelion, petunia, wild pansy, primula, sunflower, pelargonium, bishop of llandaff,
gaura, geranium, orange dahlia, pink-yellow dahlia?, cautleya spicata, japanese anemone, black-eyed susan, silverbush,
californian poppy, osteospermum, spring crocus, bearded iris, windflower, tree poppy, gazania, azalea, water lily, rose,
thorn apple, morning glory, passion flower, lotus, toad lily, anthurium, frangipani, clematis, hibiscus, columbine,
desert-rose, tree mallow, magnolia, cyclamen, watercress, canna lily, hippeastrum, bee balm, ball moss, foxglove,
bougainvillea, camellia, mallow, mexican petunia, bromelia, blanket flower, trumpet creeper, blackberry lily
"""
CLASS_NAMES = tuple(" ".join(name.split()) for name in NAMES.split(","))


def read(folder: Path) -> RawData:
    """The splits of ``train.json``, ``val.json`` and ``test.json`` if they exist, else those of ``setid.mat``, with
    the labels of ``imagelabels.mat``. Images are ``jpg/image_00001.jpg`` and so on.

    Args:
        folder: the data set's folder, or one with a folder ``flowers-102`` in it.

    Raises:
        DataError: for files that are missing or inconsistent.
    """
    base = nested(Path(folder), "flowers-102")
    lists = json_lists(Path(folder), base, ("", "jpg/")) or _official(base)
    return from_lists(base, lists, names_in_order((key for _, key in lists["train"]), CLASS_NAMES))


def _official(base: Path) -> dict[str, list[tuple[str, Key]]]:
    labels = whole_numbers(read_mat(base / "imagelabels.mat", "labels")[0], base / "imagelabels.mat")
    file = base / "setid.mat"
    lists: dict[str, list[tuple[str, Key]]] = {}
    for split, array in zip(("train", "val", "test"), read_mat(file, "trnid", "valid", "tstid")):
        lists[split] = []
        for image in whole_numbers(array, file):
            if not 1 <= image <= len(labels):
                raise DataError(f"{file}: image {image} of {split} has no label; imagelabels.mat has {len(labels)}.")
            label = labels[image - 1]
            if not 1 <= label <= len(CLASS_NAMES):
                raise DataError(
                    f"{base / 'imagelabels.mat'}: image {image} has label {label}; it must be 1 to {len(CLASS_NAMES)}."
                )
            lists[split].append((f"jpg/image_{image:05d}.jpg", label))
    return lists
