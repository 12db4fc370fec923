"""The suites that ship: members, preprocessing, training, and cards that start from other cards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vpbench.core import cards
from vpbench.core.errors import UsageError
from vpbench.data.catalog import dataset_card, dataset_names
from vpbench.execution.job import Job
from vpbench.execution.opened_data import OpenedData
from vpbench.planning.plan import Request, make_plan, resolve
from vpbench.planning.suites import SuiteCard, recipe_entries, resolve_recipe, suite_card, suite_names
from vpbench.spec.run_options import JobOptions
from vpbench.store.store import Store

FGVC = ("cub", "nabirds", "flowers", "dogs", "cars")
NATURAL = tuple(f"vtab.{name}" for name in ("cifar100", "caltech101", "dtd", "flowers", "pets", "svhn", "sun397"))
SPECIALIZED = tuple(f"vtab.{name}" for name in ("camelyon", "eurosat", "resisc45", "retinopathy"))
STRUCTURED = tuple(
    f"vtab.{name}"
    for name in (
        "clevr-count", "clevr-distance", "dmlab", "kitti", "dsprites-location", "dsprites-orientation",
        "smallnorb-azimuth", "smallnorb-elevation",
    )
)  # fmt: skip
VTAB = NATURAL + SPECIALIZED + STRUCTURED
PARTS = {"vtab1k-natural": NATURAL, "vtab1k-specialized": SPECIALIZED, "vtab1k-structured": STRUCTURED}
NOAH = tuple(f"noah-fewshot-{shots}" for shots in (1, 2, 4, 8, 16))
COOP = tuple(name.replace("fewshot", "fewshot-coop") for name in NOAH)
OWN = ("mini", "open-mini", "photos-mini", "custom", "ci", "imagenet-16shot", *NOAH, *COOP)
PUBLISHED = [name for name in suite_names() if name not in OWN and suite_card(name).task == "classification"]


def test_members() -> None:
    assert suite_card("fgvc").datasets == suite_card("fgvc-vpt").datasets == FGVC
    assert set(suite_card("hta").datasets) == {
        "dtd", "cub", "nabirds", "dogs", "flowers", "food101", "cifar100", "cifar10", "gtsrb", "svhn"
    }  # fmt: skip
    assert suite_card("vtab1k").datasets == suite_card("vtab1k-vpt").datasets == suite_card("vtab1k-noah").datasets == VTAB
    assert len(VTAB) == 19
    for part, members in PARTS.items():
        assert suite_card(part).datasets == members
    assert len({name for suite in PUBLISHED for name in suite_card(suite).datasets}) == 5 + 6 + 19 + 3


def test_every_member_has_a_card_of_the_right_group() -> None:
    assert {name for suite in suite_names() for name in suite_card(suite).datasets} <= set(dataset_names())
    assert {dataset_card(name).group for name in FGVC} == {"fgvc"}
    assert {dataset_card(name).group for name in set(suite_card("hta").datasets) - set(FGVC)} == {"hta"}
    for part, members in PARTS.items():
        assert {dataset_card(name).group for name in members} == {part.removeprefix("vtab1k-")}


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_all_published_suites_share(name: str) -> None:
    suite = suite_card(name)
    assert suite.backbone == "vit_base_patch16_224.orig_in21k"
    assert suite.seeds == (42, 44, 82, 100, 800)
    assert (suite.selection, suite.precision) == ("last", "auto")
    recipe, source = resolve_recipe(suite, [], {})
    assert (recipe.epochs, recipe.batch_size, recipe.warmup_fraction, recipe.schedule) == (100, 64, 0.1, "cosine")
    assert (recipe.schedule_step, recipe.momentum) == ("epoch", 0.9)
    assert source == suite.source
    assert ("assumption" in source) == (name != "vtab1k-noah")


def test_preprocessing() -> None:
    def values(name: str) -> tuple[object, ...]:
        given = suite_card(name).preprocess
        return given.resize, given.interpolation, given.antialias, given.normalisation, given.random_crop, given.random_flip

    assert values("fgvc") == values("hta") == values("fewshot-4") == ("crop", "bilinear", True, "weights", True, True)
    assert 224 / suite_card("fgvc").preprocess.crop_ratio == 256
    assert values("fgvc-vpt") == ("crop", "bilinear", True, "imagenet", True, True)
    assert values("vtab1k") == ("stretch", "bicubic", True, "weights", False, False)
    assert values("vtab1k-vpt") == ("stretch", "bilinear", False, "imagenet", False, False)
    assert values("vtab1k-noah") == ("stretch", "bicubic", True, "imagenet", False, False)


def test_a_suite_fixes_the_image_size() -> None:
    """DINOv2's configuration says 518 px and DINOv3's 256; what the user says counts before the suite."""

    def size(suite: str, backbone: str, dataset: str, image_size: int | None = None) -> int:
        request = Request(
            methods=["linear"], suite=suite, backbone=backbone, weights="random", datasets=[dataset], image_size=image_size
        )
        return resolve(request, without_data=True).backbone.image_size

    assert all(suite_card(name).image_size == 224 for name in PUBLISHED)
    assert size("vtab1k", "vit-s14-dinov2", "vtab.dtd") == size("fewshot-4", "vit_small_patch14_dinov2", "cub") == 224
    assert size("hta", "vit-s16-dinov3", "dtd") == 224
    assert size("vtab1k-natural", "vit-s14-dinov2", "vtab.dtd", 518) == 518
    assert size("mini", "vit-nano", "digits") == 40


def test_images_and_means() -> None:
    for name in PUBLISHED:
        suite, is_vtab = suite_card(name), name.startswith("vtab1k")
        assert suite.fit == ("train+val" if is_vtab else "train")
        assert suite.means == (("datasets", "groups") if is_vtab else ())
        assert suite.shots == (int(name.removeprefix("fewshot-")) if name.startswith("fewshot-") else None)
    assert sorted(name for name in PUBLISHED if name.startswith("fewshot-")) == [
        f"fewshot-{shots}" for shots in ("1", "16", "2", "4", "8")
    ]


def test_training() -> None:
    def values(name: str) -> tuple[object, ...]:
        recipe, _ = resolve_recipe(suite_card(name), [], {})
        return recipe.optimizer, recipe.peak_lr, recipe.weight_decay, recipe.decay, recipe.warmup_from_zero

    papers = ("sgd", 0.25, 1e-3, "not_head_bias", False)
    assert values("vtab1k") == values("fgvc") == values("hta") == values("fewshot-1") == papers
    assert values("vtab1k-vpt") == values("fgvc-vpt") == ("sgd", 0.25, 1e-3, "not_head_bias", True)
    assert values("vtab1k-noah") == ("adamw", 1e-3, 1e-4, "all", False)


def test_a_part_differs_from_its_suite_in_its_members_alone() -> None:
    whole = suite_card("vtab1k")
    for name in PARTS:
        part = suite_card(name)
        assert part.part_of == "vtab1k"
        own = {"part_of", "title", "description", "datasets"}
        assert part.model_dump(exclude=own) == whole.model_dump(exclude=own)


@pytest.mark.parametrize("name", NOAH)
def test_noah_few_shot(name: str) -> None:
    suite, shots = suite_card(name), int(name.removeprefix("noah-fewshot-"))
    assert suite.datasets == ("aircraft", "food101", "pets", "cars", "flowers")
    assert (suite.shots, suite.draws, suite.seeds, suite.fit, suite.image_size) == (shots, "per_seed", (0, 1, 2), "train", 224)
    assert (suite.preprocess.interpolation, suite.preprocess.normalisation) == ("bicubic", "imagenet")
    assert f"with {'one' if shots == 1 else shots} training image" in suite.description and "NOAH" in suite.source
    recipe, _ = resolve_recipe(suite, [], {})
    assert (recipe.optimizer, recipe.peak_lr, recipe.weight_decay, recipe.batch_size) == ("adamw", 5e-3, 1e-4, 64)
    assert (recipe.epochs, recipe.warmup_fraction, recipe.label_smoothing) == (100, 0.1, 0.1)
    assert (recipe.mixup, recipe.cutmix, recipe.decay, recipe.warmup_from_zero) == (0.8, 1.0, "all", False)


@pytest.mark.parametrize("name", COOP)
def test_noah_few_shot_on_coops_splits(name: str) -> None:
    """Differs from NOAH's few-shot suites in its data sets alone."""
    suite, own = suite_card(name), suite_card(name.replace("-coop", ""))
    assert suite.datasets == ("aircraft", *(f"{each}-coop" for each in own.datasets[1:]))
    description = {"title", "description", "datasets", "base"}
    assert suite.model_dump(exclude=description) == own.model_dump(exclude=description)
    assert suite.title == own.title.replace(", ", ", CoOp's splits, ")


DRAWS = 'base = "mini"\ntitle = "few"\ndescription = "Few."\ndatasets = ["digits"]\nseeds = [0, 1, 2]\nshots = 3\n'


def test_every_seed_draws_its_own_images(own_cards: Path, tmp_path: Path) -> None:
    """Runs differ in their images, and are one group; without draws, ids are those of before the field."""
    (own_cards / "few.toml").write_text(DRAWS + 'draws = "per_seed"\n')
    (own_cards / "same.toml").write_text(DRAWS)
    few, same = (
        [run.spec for run in make_plan(Request(methods=["linear"], suite=name, seeds=3, precision="fp32"), Store(tmp_path)).runs]
        for name in ("few", "same")
    )
    assert len({spec.data.digest for spec in few}) == len({spec.run_id for spec in few}) == 3
    assert len({spec.group_id for spec in few}) == len({spec.data.common_digest for spec in few}) == 1
    assert few[0].data.digest == same[0].data.digest  # of seed 0, which is the one of all draws without the field
    assert len({spec.data.digest for spec in same}) == 1 and "drawn_from" not in same[0].identity()["data"]
    opened = OpenedData()
    plan = make_plan(Request(methods=["linear"], suite="few", seeds=3, precision="fp32"), Store(tmp_path))
    raws = [opened.get(Job.of(run, plan, JobOptions())) for run in plan.runs]
    assert [raw.digest for raw in raws] == [spec.data.digest for spec in few]
    assert all(raw.splits["test"].digest == raws[0].splits["test"].digest for raw in raws)


def test_draws_need_shots(own_cards: Path) -> None:
    (own_cards / "odd.toml").write_text(DRAWS.replace("shots = 3", 'draws = "per_seed"'))
    with pytest.raises(UsageError, match="needs shots, the number of images per class"):
        suite_card("odd")


@pytest.fixture
def own_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cards that ship, in a folder that a test may write to; the folder of its suites."""
    folder = tmp_path / "benchmarks"
    shutil.copytree(Path(__file__).parents[2] / "benchmarks", folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    monkeypatch.setattr(cards, "_folder", lambda name: folder / name)
    return folder / "suites"


def test_runs_of_a_part_are_runs_of_the_suite(own_cards: Path, tmp_path: Path) -> None:
    (own_cards / "mini-digits.toml").write_text(
        'part_of = "mini"\ntitle = "digits"\ndescription = "One of three."\ndatasets = ["digits"]\n'
    )

    def runs(suite: str) -> list[tuple[str, str, str]]:
        request = Request(methods=["linear", "insvp"], suite=suite, datasets=["digits"], precision="fp32")
        return [
            (run.spec.run_id, run.spec.data.suite, run.recipe_source) for run in make_plan(request, Store(tmp_path / "runs")).runs
        ]

    assert runs("mini-digits") == runs("mini")
    assert {suite for _, suite, _ in runs("mini-digits")} == {"mini"}


def test_runs_of_a_suite_with_a_base_are_its_own(own_cards: Path, tmp_path: Path) -> None:
    (own_cards / "mini-flipped.toml").write_text(
        'base = "mini"\ntitle = "flipped"\ndescription = "Mirrored."\n[preprocess]\nrandom_flip = true\n[training]\nlr = 0.5\n'
    )
    flipped, mini = suite_card("mini-flipped"), suite_card("mini")
    assert flipped.preprocess == mini.preprocess.model_copy(update={"random_flip": True})
    assert flipped.training == {**mini.training, "lr": 0.5}
    assert flipped.source == mini.source
    request = Request(methods=["linear"], suite="mini-flipped", datasets=["digits"], precision="fp32")
    assert [run.spec.data.suite for run in make_plan(request, Store(tmp_path / "runs")).runs] == ["mini-flipped"]
    # A recipe names the suites that it is for: mini's values stay mini's.
    assert recipe_entries("e2vpt", "mini", "digits", None) != recipe_entries("e2vpt", "mini-flipped", "digits", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('base = "minni"', "starts from 'minni', which is no other suite"),
        ('base = "odd"', "starts from 'odd', which is no other suite"),
        ('base = "vtab1k-natural"', "itself a part; name 'vtab1k'"),
        ('part_of = "mini"\nbase = "mini"', "both base and part_of"),
        ('part_of = "mini"\ntitle = "t"\ndatasets = ["digits"]\nselection = "last"', "cannot set selection; say base"),
        ('part_of = "mini"\ntitle = "t"\ndatasets = ["cub"]', "part of 'mini', which has no cub"),
        ('base = "mini"\npreprocess = 3', "odd.toml: line 2: preprocess"),
        ('base = "mini"\ntraining = 3', "odd.toml: line 2: training"),
        ('base = "mini"\nmeans = ["median"]', "odd.toml: line 2: means"),
        ('base = "mini"\n[preprocess]\norientation = "exif"', "odd.toml: line 3: preprocess.orientation belongs on the cards"),
    ],
)
def test_cards_that_cannot_work(own_cards: Path, text: str, message: str) -> None:
    (own_cards / "odd.toml").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        suite_card("odd")
    assert "odd.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_suites_get_a_suggestion() -> None:
    with pytest.raises(UsageError, match="Did you mean 'vtab1k'"):
        suite_card("vtab1")


def test_cards_are_frozen_and_strict() -> None:
    with pytest.raises(ValueError, match="frozen"):
        suite_card("fgvc").shots = 3  # type: ignore[misc]
    assert SuiteCard.model_config["extra"] == "forbid"
