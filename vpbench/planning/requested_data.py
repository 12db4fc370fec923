"""Opening the data sets that a request asks for."""

from __future__ import annotations

from collections.abc import Iterable

from vpbench.core.errors import DataError, MissingDataError
from vpbench.data.catalog import DatasetCard, dataset_card
from vpbench.data.check_images import check_images
from vpbench.data.counted import CountedData
from vpbench.data.how_to_get import how_to_get
from vpbench.data.image_errors import offers_to_skip
from vpbench.data.places import data_root
from vpbench.data.raw import RawData
from vpbench.data.sources import open_dataset, open_path, pinned
from vpbench.planning.check_names import check_datasets, own_paths
from vpbench.planning.suites import SuiteCard
from vpbench.spec.request import Request
from vpbench.tasks import task_class


def open_requested(request: Request, suite: SuiteCard, suite_name: str, without_data: bool) -> dict[str, RawData]:
    """The data sets of a request, opened, by name.

    Args:
        suite: of the request; ``suite_name`` is what it was asked for by.
        without_data: whether the plan is only shown: data sets that are not there are counted by their cards, and the images of
            one's own are decoded, which else happens before the first run.

    Raises:
        UsageError: for a name or an option that does not fit the suite.
        DataError: for data that is not there or damaged, with the way to get it.
    """
    check_datasets(request, suite, suite_name)
    target, skip = task_class(suite.task).target, request.skip_unreadable

    def open_own(path: str) -> RawData:
        with offers_to_skip():
            raw = open_path(path, request.columns, target, skip)
            if without_data and not skip:  # which decodes every image already
                check_images(raw)
            return raw

    def open_card(card: DatasetCard) -> RawData:
        raw = open_dataset(card, request.data_root)
        if without_data and card.path:
            check_images(raw)
        return raw

    if request.data:
        return {name: open_own(path) for name, path in own_paths(request).items()}
    names = request.datasets or suite.datasets
    opened: dict[str, RawData] = {}
    problems: dict[str, DataError] = {}
    for name in dict.fromkeys(names):
        try:
            own = suite.data.get(name)
            opened[name] = open_own(own) if own else open_card(dataset_card(name))
        except MissingDataError as error:
            if without_data:
                opened[name] = CountedData.of_card(dataset_card(name))
            else:
                problems[name] = error
        except DataError as error:
            problems[name] = error
        if name in opened and not len(opened[name].splits["train"]):
            del opened[name]
            problems[name] = DataError("it has test images alone, to test models on that were trained on others.")
    if problems:
        raise _not_ready(problems, opened, request, suite_name)
    return opened


def _not_ready(problems: dict[str, DataError], opened: Iterable[str], request: Request, suite_name: str) -> DataError:
    """The error for data sets that are not there or damaged: the first in full, and the way to all of them."""
    missing = [name for name, error in problems.items() if isinstance(error, MissingDataError)]
    name, problem = next(iter(problems.items()))
    ready = f" Ready: --datasets {','.join(opened)}." if opened else ""
    if len(missing) < len(problems) or len(problems) == 1:
        others = f" Also not ready: {', '.join(list(problems)[1:])}." if len(problems) > 1 else ""
        way = f" {how_to_get(missing)}" if missing else ""
        return type(problem)(f"{name}: {problem}{others}{way}{ready}")
    return MissingDataError(
        f"{', '.join(missing)} of {suite_name} are not in {data_root(request.data_root)}. {how_to_get(missing, suite_name)} "
        f"--dry-run shows the plan without them.{ready} Data elsewhere: --data-root FOLDER or VPBENCH_DATA."
    )


def pinned_data(request: Request, suite: SuiteCard) -> tuple[Request, SuiteCard]:
    """The same with the commit that each data set of the Hugging Face hub has now; it is part of a run's identity.

    Raises:
        DataError: when there is no such data set, or the hub cannot be reached.
    """
    data = request.data and tuple(map(pinned, request.data))
    asked = request.datasets or suite.datasets
    own = {name: pinned(path) if name in asked else path for name, path in suite.data.items()}
    return request.model_copy(update={"data": data}), suite.model_copy(update={"data": own})
