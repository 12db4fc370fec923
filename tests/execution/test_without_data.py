"""Plans of data sets that are not on this machine: counted by their cards."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpbench.core.errors import DataError, MissingDataError, UsageError
from vpbench.data.catalog import dataset_card
from vpbench.data.conversion import tfds
from vpbench.data.counted import CountedData
from vpbench.data.doctor import examine
from vpbench.data.how_to_get import how_to_get, shared_sentences
from vpbench.data.protocols import with_all_for_training, with_few_shots
from vpbench.data.sources import open_dataset
from vpbench.planning.plan import Request, make_plan, resolve
from vpbench.planning.suites import suite_card
from vpbench.search.search_plan import plan_search
from vpbench.spec.budget import Budget
from vpbench.store.store import Store


@pytest.fixture(autouse=True)
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("VPBENCH_WEIGHTS", raising=False)
    monkeypatch.setenv("VPBENCH_PATH", "")


def test_counts_come_from_the_card() -> None:
    raw = CountedData.of_card(dataset_card("cub"))
    assert (len(raw.class_names), {part: len(split) for part, split in raw.splits.items()}) == (
        200, {"train": 5394, "val": 600, "test": 5794},
    )  # fmt: skip
    both = with_all_for_training(raw)
    assert raw.remarks == ""
    assert (len(both.splits["train"]), len(both.splits["val"]), both.digest) == (5994, 0, "")
    assert len(with_few_shots(raw, 2).splits["train"]) == 400
    with pytest.raises(MissingDataError, match="image 3 of CUB-200-2011 train is not here, only counted"):
        raw.splits["train"].content(3)


def test_a_plan_of_a_suite(tmp_path: Path) -> None:
    request = Request(methods=["linear", "vpt"], suite="vtab1k", backbone="vit-nano", datasets=["vtab.dtd", "vtab.kitti"])
    plan = make_plan(request, Store(tmp_path / "runs"), without_data=True)
    assert plan.absent == ["vtab.dtd", "vtab.kitti"]
    assert len(plan.missing) == len(plan.runs) == 4
    assert len({run.spec.run_id for run in plan.runs}) == 4
    assert [len(plan.data["vtab.dtd"].splits[part]) for part in ("train", "val", "test")] == [1000, 0, 1880]
    with pytest.raises(MissingDataError, match=r"vtab\.dtd, vtab\.kitti of vtab1k are not in .*--suite vtab1k' writes them"):
        make_plan(request, Store(tmp_path / "runs"))


def test_a_plan_of_a_search() -> None:
    request = Request(methods=["linear"], suite="vtab1k", backbone="vit-nano", datasets=["vtab.dtd"])
    plan = plan_search(request, Budget(space="vpt-grid"), without_data=True)
    assert plan.trials.absent == ["vtab.dtd"]
    assert [len(plan.trials.data["vtab.dtd"].splits[part]) for part in ("train", "val")] == [800, 200]


def test_what_is_missing_names_the_commands(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError) as caught:
        resolve(Request(suite="fgvc"))
    message = str(caught.value)
    assert message.startswith(f"cub, nabirds, flowers, dogs, cars of fgvc are not in {tmp_path / 'data'}. ")
    assert "'vpbench data get --suite fgvc' fetches cub, flowers, dogs." in message
    assert "By hand: nabirds, cars; 'vpbench data doctor nabirds cars' says how." in message
    assert "--dry-run shows the plan without them" in message
    with pytest.raises(MissingDataError, match=r"^flowers: .*'vpbench data get flowers' fetches it\.$"):
        resolve(Request(suite="fgvc", datasets=["flowers"]))


def test_what_is_damaged_is_no_plan(tmp_path: Path) -> None:
    (tmp_path / "data" / "cub").mkdir(parents=True)
    with pytest.raises(DataError, match=r"^cub: "):
        resolve(Request(suite="fgvc", datasets=["cub"]), without_data=True)


def test_how_to_get() -> None:
    assert how_to_get(["cub"]) == "'vpbench data get cub' fetches it."
    assert how_to_get(["vtab.resisc45"]) == "'vpbench data convert vtab.resisc45' writes it."


@pytest.mark.parametrize("lacking", ["TensorFlow Datasets is not installed: pip install 'vpbench[tfds]'.", ""])
def test_how_to_get_by_conversion(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it needs, takes, and leaves to be done by hand."""
    monkeypatch.setattr(tfds, "lacking", lambda: lacking)
    first = f" {lacking}" if lacking else ""
    assert how_to_get(["vtab.dtd", "cub"], "s") == (
        f"'vpbench data get --suite s' fetches cub. 'vpbench data convert --suite s' writes vtab.dtd.{first} "
        "The conversion downloads the whole data set, through TensorFlow Datasets."
    )
    message = how_to_get(["vtab.dtd", "vtab.retinopathy"], "s")
    assert "The conversion downloads whole data sets, some of them tens of gigabytes, through TensorFlow Datasets." in message
    assert message.endswith(
        " vtab.retinopathy by hand first: the images, with a Kaggle login, into TFDS's folder downloads/manual."
    )


def test_what_several_share_is_said_once() -> None:
    advice = {name: dataset_card(name).how_to_get for name in suite_card("vtab1k").datasets}
    left, shared = shared_sentences({**advice, "cub": "vpbench data get cub"})
    (everyone, names), (few, four) = shared.items()
    assert "'vpbench data convert NAME --from tfds' from TensorFlow Datasets, www.tensorflow.org/datasets (pip" in everyone
    assert len(names) == 19 and few.startswith("Or from the original files") and len(four) == 4
    assert left["vtab.dtd"] == "" and left["cub"] == "vpbench data get cub"
    assert left["vtab.retinopathy"].startswith("TFDS cannot fetch the images: they need a Kaggle login")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": "parquet"}, "says source = 'parquet' and not what it reads: add folders"),
        ({"source": "folder"}, "says source = 'folder' and not what it reads: add folders"),
        ({"source": "cub"}, "says source = 'cub' and not what it reads: add folders"),
        ({"options": {"size": 3}}, "unknown option of the data source digits 'size'"),
        ({"source": "sprites"}, "add options.task"),
        ({"source": "parquets"}, "Did you mean 'parquet'?"),
    ],
)
def test_doctor_and_run_agree_on_a_card(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    card = dataset_card("digits").model_copy(update=changes)
    found = examine("mine", card, tmp_path)
    assert (found.status, found.ready) == ("wrong card", False)
    assert words in found.detail
    with pytest.raises(UsageError) as caught:
        open_dataset(card, tmp_path)
    assert str(caught.value) == found.detail


@pytest.mark.parametrize("source", ["folder", "parquet"])
def test_sources_of_own_data_below_the_data_root(source: str, tmp_path: Path) -> None:
    """Both are opened by doctor as by a run; what is not there is missing."""
    card = dataset_card("digits").model_copy(update={"source": source, "folders": ("mine",)})
    assert examine("mine", card, tmp_path).status == "missing"
    (tmp_path / "mine").mkdir()
    found = examine("mine", card, tmp_path)
    assert found.status == "incomplete"
    with pytest.raises(DataError) as caught:
        open_dataset(card, tmp_path)
    assert str(caught.value) == found.detail
