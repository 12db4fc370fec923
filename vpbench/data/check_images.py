"""Whether all images of a data set can be decoded, without keeping any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from vpbench.core.errors import DataError
from vpbench.data.image_errors import UnreadableError
from vpbench.data.raw import RawData, RawSplit

AT_A_TIME = 256  # map() submits all of its input at once, which would fill the memory


def check_images(raw: RawData) -> None:
    """The refusal that a run would meet once it decodes the images.

    Raises:
        UnreadableError: for all images that cannot be decoded, of all splits together.
        DataError: for a mask that does not fit its image.
    """
    broken: dict[str, str] = {}
    for problem in image_problems(raw):
        if not isinstance(problem, UnreadableError):
            raise problem
        broken.update(problem.errors)
    if broken:
        raise UnreadableError.of(broken)


def image_problems(raw: RawData, on_progress: Callable[[int, int], None] | None = None) -> Iterator[DataError]:
    """What is wrong with images and masks, in order. Pillow releases the GIL, so threads suffice.

    Args:
        on_progress: called with (images decoded, total).
    """
    done, total = 0, sum(len(split) for split in raw.splits.values())
    with ThreadPoolExecutor() as pool:
        for chunk in _chunks(raw):
            for problem in pool.map(_problem, *zip(*chunk)):
                done += 1
                if on_progress:
                    on_progress(done, total)
                if problem:
                    yield problem


def _chunks(raw: RawData) -> Iterator[list[tuple[RawSplit, int]]]:
    for split in raw.splits.values():
        for start in range(0, len(split), AT_A_TIME):
            yield [(split, index) for index in range(start, min(start + AT_A_TIME, len(split)))]


def _problem(split: RawSplit, index: int) -> DataError | None:
    try:
        image = split.image(index)
        if split.has_masks:
            split.mask(index, image.size)
    except DataError as error:
        return error
    return None
