"""Opening the data sets that a request asks for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vpbench.core.errors import DataError, MissingDataError, UsageError
from vpbench.core.hub import HubData, is_on_hub
from vpbench.core.names import unknown
from vpbench.data.catalog import dataset_card
from vpbench.data.class_names import normalised
from vpbench.data.counted import CountedData
from vpbench.data.how_to_get import how_to_get
from vpbench.data.places import data_root
from vpbench.data.raw import RawData
from vpbench.data.sources import open_dataset, open_path, pinned
from vpbench.data.target import TARGETS, Target
from vpbench.planning.suites import SuiteCard
from vpbench.spec.request import Request
from vpbench.tasks import task_class


def open_requested(request: Request, suite: SuiteCard, suite_name: str, without_data: bool) -> dict[str, RawData]:
    """The data sets of a request, opened, by name.

    Args:
        suite: of the request; ``suite_name`` is what it was asked for by.
        without_data: whether data sets that are not there are counted by their cards.

    Raises:
        UsageError: for a name or an option that does not fit the suite.
        DataError: for data that is not there or damaged, with the way to get it.
    """
    target = task_class(suite.task).target
    if request.data:
        if not suite.is_own:
            raise UsageError("--suite and --data exclude each other: a suite brings its own data.")
        if request.datasets:
            raise UsageError("--datasets and --data exclude each other: --datasets chooses among those of a suite.")
        return {name: open_path(path, request.columns, target) for name, path in own_paths(request).items()}
    for option in ("columns", "background"):
        if getattr(request, option):
            raise UsageError(f"--{option} goes with --data; published data sets have theirs on their cards.")
    names = request.datasets or suite.datasets
    for name in names:
        if name not in suite.datasets:
            raise unknown(f"dataset of suite {suite_name}", name, suite.datasets)
    if not names:
        raise UsageError(f"the suite {suite_name} is for your own images: say --data PATH.")
    _check_targets([name for name in names if name not in suite.data], suite, target)
    opened: dict[str, RawData] = {}
    problems: dict[str, DataError] = {}
    for name in dict.fromkeys(names):
        try:
            own = suite.data.get(name)
            opened[name] = open_path(own, target=target) if own else open_dataset(dataset_card(name), request.data_root)
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


def _check_targets(names: Iterable[str], suite: SuiteCard, target: Target) -> None:
    """
    Raises:
        UsageError: for a data set whose images are not labelled as the suite's task needs it.
    """
    for name in names:
        if (found := dataset_card(name).target) != target:
            raise UsageError(f"{name} has {TARGETS[found]}, and {suite.task} needs {TARGETS[target]}.")


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


def own_paths(request: Request) -> dict[str, str]:
    """The user's own data by the name of each.

    Raises:
        UsageError: for two of one name.
    """
    found: dict[str, str] = {}
    for path in request.data or ():
        name = own_name(Path(path))
        if name in found:
            raise UsageError(f"--data {path} and --data {found[name]} would both be called '{name}': rename one of them.")
        found[name] = path
    return found


def own_name(path: Path) -> str:
    """What a user's own data is called: a folder by its name, a file by its name without the ending, a data set of the hub by
    its own and its configuration's."""
    if is_on_hub(path):
        return HubData.parse(str(path)).name
    place = path if path.name not in ("", "..") else path.resolve()
    return normalised(place.stem if place.is_file() else place.name, "--data")
