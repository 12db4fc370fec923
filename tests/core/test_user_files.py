"""The user's folders of cards and code: where they are named, what is in them, and everything that can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpbench.core.cards import card_names, line_of, read_card
from vpbench.core.errors import UsageError
from vpbench.core.user_files import add_file, add_places, make_known, places, user_files
from vpbench.data.catalog import DatasetCard, dataset_card, dataset_names
from vpbench.models.registry import expand_labels, method_class, method_registry, resolve_method
from vpbench.planning.suites import recipe_card, suite_card, suite_names
from vpbench.reporting.definition import load_definition
from vpbench.search.space import read_space, space_names

METHOD = """
from vpbench.interface import Method, MethodConfig

class Mine(Method[MethodConfig]):
    title, summary, paper, fidelity = "Mine", "a head", "none", "paper"
"""
DATASET = """
title = "Birds"
description = "Photographs of birds."
group = "own"
path = "../photos"
classes = 2
n_train = 4
n_val = 1
n_test = 2
image_size = "varies"
licence = "CC0"
origin = "me"
"""
SUITE = 'base = "custom"\ntitle = "Mine"\ndescription = "My photos."\n'


pytestmark = pytest.mark.usefixtures("work")


@pytest.fixture
def own(work: Path) -> Path:
    """A folder of the user's that ``vpbench.toml`` names."""
    (work / "vpbench.toml").write_text('cards = "mine"\n')
    for kind in ("datasets", "suites", "recipes", "searches", "tables", "backbones", "methods"):
        (work / "mine" / kind).mkdir(parents=True)
    return work / "mine"


def one_line(error: pytest.ExceptionInfo[UsageError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_nothing_is_there_unless_it_is_named(work: Path) -> None:
    (work / "methods").mkdir()
    (work / "methods" / "mine.py").write_text(METHOD)
    assert places() == []
    assert user_files("methods") == {}


def test_three_ways_to_name_a_folder(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("VPBENCH_PATH", f"{tmp_path / 'a'}:{tmp_path / 'a'}")
    assert places() == [tmp_path / "a", own]
    add_places([tmp_path / "b"])  # as --cards does
    assert places() == [tmp_path / "b", tmp_path / "a", own]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('cards = "gone"', 'cards = "gone": there is no such folder'),
        ("card = 3", "unknown field 'card'. Did you mean 'cards'?"),
        ("cards = 3", "cards must be a folder or a list of folders; it is 3"),
        ("cards = ", "is not valid TOML"),
    ],
)
def test_a_wrong_vpbench_toml(text: str, words: str, work: Path) -> None:
    (work / "vpbench.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        places()
    assert words in one_line(caught)
    assert "vpbench.toml" in str(caught.value)


def test_a_setting_that_names_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPBENCH_PATH", "/nowhere/at/all")
    with pytest.raises(UsageError, match="VPBENCH_PATH=/nowhere/at/all: there is no such folder"):
        method_registry().names()


def test_a_new_folder_is_named_once(work: Path) -> None:
    (work / "mine").mkdir()
    assert make_known(work / "mine") == work / "vpbench.toml"
    assert places() == [work / "mine"]
    assert make_known(work / "mine") is None
    (work / "other").mkdir()
    with pytest.raises(UsageError, match=r"names other folders; add '.*other' to its cards"):
        make_known(work / "other")


def test_cards_of_every_kind_are_found(own: Path) -> None:
    (own / "datasets" / "birds.toml").write_text(DATASET)
    (own / "suites" / "mine.toml").write_text(f'{SUITE}datasets = ["birds"]\n[data]\nowls = "../owls.parquet"\n')
    (own / "recipes" / "vpt.toml").write_text('[[recipe]]\nsuite = "mine"\nsource = "me"\ntraining = { lr = 0.5 }\n')
    (own / "searches" / "rates.toml").write_text(
        'title = "r"\ndescription = "r"\nsource = "me"\n[parameters]\n"recipe.lr" = [1]\n'
    )
    (own / "tables" / "mine.toml").write_text('title = "Mine"\npaper = "own"\nnumber = "mine"\n')
    (own / "methods" / "mine_too.py").write_text(METHOD)
    assert dataset_card("birds").path == str(own / "datasets" / ".." / "photos")
    card = suite_card("mine")
    assert card.datasets == ("birds", "owls")
    assert card.data == {"owls": str(own / "suites" / ".." / "owls.parquet")}
    assert recipe_card("vpt").recipe[-1].training == {"lr": 0.5}  # behind vpbench's own
    assert len(recipe_card("vpt").recipe) > 1
    assert read_space("rates").parameters("vpt") == {"recipe.lr": (1,)}
    assert load_definition("insvp", "mine").title == "Mine"
    assert method_class("mine_too").title == "Mine"
    assert method_class("mine_too") is method_class("mine_too")  # imported once
    for names, name in ((dataset_names(), "birds"), (suite_names(), "mine"), (space_names(), "rates")):
        assert name in names
    assert "vpt" in method_registry().names()


def test_a_suite_that_starts_from_one_with_paths(own: Path) -> None:
    (own / "suites" / "mine.toml").write_text(f'{SUITE}datasets = ["digits"]\n[data]\nowls = "owls"\nbirds = "birds"\n')
    (own / "suites" / "half.toml").write_text('part_of = "mine"\ntitle = "h"\ndescription = "h"\ndatasets = ["owls"]\n')
    (own / "suites" / "more.toml").write_text('base = "mine"\ntitle = "m"\ndescription = "m"\n')
    assert suite_card("half").datasets == ("owls",)
    assert suite_card("more").data == suite_card("mine").data
    (own / "suites" / "half.toml").write_text('part_of = "mine"\ntitle = "h"\ndescription = "h"\ndatasets = ["dogs"]\n')
    with pytest.raises(UsageError, match=r"half\.toml is a part of 'mine', which has no dogs"):
        suite_card("half")


def test_a_path_with_the_name_of_a_data_set(own: Path) -> None:
    (own / "suites" / "mine.toml").write_text(f'{SUITE}[data]\ndigits = "digits"\n')
    with pytest.raises(UsageError, match=r"mine\.toml: line 5: data\.digits has the name of a data set"):
        suite_card("mine")


def test_all_problems_of_a_card_at_once(own: Path) -> None:
    """With file, line and field."""
    text = (
        DATASET.replace("classes = 2", "classes = 1")
        .replace('licence = "CC0"', "license = 3")
        .replace("n_val = 1", "n_val = true")
    )
    (own / "datasets" / "birds.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        dataset_card("birds")
    message = one_line(caught)
    assert message.startswith(f"{own / 'datasets' / 'birds.toml'}: it lacks licence; line 6: classes: ")
    assert "line 11: license: there is no such field (given: 3). Did you mean 'licence'?" in message
    assert message.count("; ") == 2


def test_all_problems_of_a_suite_at_once(own: Path) -> None:
    """Also those that only other cards can tell."""
    (own / "suites" / "mine.toml").write_text(
        f'{SUITE}seeds = [-1, "a"]\nsedes = [1]\n[data]\ndigits = "d"\n[preprocess]\nbackground = "white"\n'
    )
    with pytest.raises(UsageError) as caught:
        suite_card("mine")
    message = one_line(caught)
    for part in (
        "line 4: seeds.1: must be a whole number", "line 5: sedes: there is no such field",
        "line 7: data.digits has the name of a data set", "line 9: preprocess.background belongs on the cards of its data sets",
    ):  # fmt: skip
        assert part in message


def test_a_typo_within_a_table(own: Path) -> None:
    (own / "suites" / "mine.toml").write_text(f'{SUITE}datasets = ["digits"]\n[preprocess]\nresise = "crop"\n')
    with pytest.raises(UsageError) as caught:
        suite_card("mine")
    message = one_line(caught)
    assert "preprocess.resise: there is no such field (given: 'crop'). Did you mean 'resize'?" in message
    (own / "recipes" / "vpt.toml").write_text('[[recipe]]\nsource = "a"\ntrainig = {}\n')
    with pytest.raises(UsageError) as caught:
        recipe_card("vpt")
    assert "line 3: recipe.0.trainig: there is no such field. Did you mean 'training'?" in one_line(caught)


def test_a_card_needs_images_from_one_place(own: Path) -> None:
    for change in ('source = "digits"\n', 'folders = ["birds"]\n'):
        (own / "datasets" / "birds.toml").write_text(DATASET + change)
        with pytest.raises(UsageError, match=r"birds\.toml: it: "):
            dataset_card("birds")


NESTED = """
title = "t"  # a comment = "no field"
[training]
lr = 1

[[recipe]]
source = "a"
[[recipe]]
note = "b"
[recipe.training]
epochs = 3
"""


@pytest.mark.parametrize(
    ("field", "line"),
    [
        (("title",), 2), (("training",), 3), (("training", "lr"), 4), (("training", "weight_decay"), 3),
        (("recipe", 0, "source"), 7),
        (("recipe", 1, "source"), 8), (("recipe", 1, "training", "epochs"), 11), (("absent",), None), ((), None),
    ],
)  # fmt: skip
def test_lines_of_fields(field: tuple[str | int, ...], line: int | None) -> None:
    assert line_of(NESTED, field) == line


def test_a_name_that_two_cards_have(own: Path) -> None:
    (own / "datasets" / "digits.toml").write_text(DATASET)
    with pytest.raises(UsageError) as caught:
        dataset_card("digits")
    assert one_line(caught) == (
        f"dataset 'digits' has two cards, benchmarks/datasets/digits.toml and {own / 'datasets' / 'digits.toml'}; rename yours."
    )
    assert dataset_names().count("digits") == 1
    assert read_card("datasets", "cub", DatasetCard, "dataset").classes == 200  # the others go on


def test_a_name_that_two_methods_have(own: Path) -> None:
    (own / "methods" / "vpt.py").write_text(METHOD)
    with pytest.raises(UsageError, match=r"method 'vpt' is both .*vpt\.py and vpbench's own; rename yours"):
        method_class("vpt")
    assert method_class("linear").title


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def f(:", ":1: SyntaxError"),
        ("x = 1\n1 / 0\n", ":2: ZeroDivisionError: division by zero"),
        ("def f():\n    raise KeyError('a')\nf()\n", ":2: KeyError"),
        ("import vpbench_has_no_such_module", ":1: ModuleNotFoundError"),
        ("import sys\nsys.exit(3)", ":2: SystemExit: 3"),
        ("", "must define one subclass of Method, not 0"),
    ],
)
def test_a_method_that_cannot_be_imported(source: str, words: str, own: Path) -> None:
    """One line with file and line; everything else works."""
    (own / "methods" / "broken.py").write_text(source)
    with pytest.raises(UsageError) as caught:
        method_class("broken")
    assert f"{own / 'methods' / 'broken.py'}" in one_line(caught)
    assert words in str(caught.value)
    assert "broken" in method_registry().names()
    assert method_class("linear").title
    (own / "methods" / "broken.py").write_text(METHOD)
    assert method_class("broken").title == "Mine"  # mended in the same process


def test_methods_and_suites_by_path(work: Path) -> None:
    (work / "lone_prompts.py").write_text(METHOD)
    (work / "lone.toml").write_text(f'{SUITE}[data]\nowls = "owls"\n')
    assert expand_labels(["linear", "./lone_prompts.py"]) == ["linear", "lone_prompts"]
    assert resolve_method("lone_prompts").name == "lone_prompts"
    assert suite_card("lone.toml").data == {"owls": str(work / "owls")}
    assert suite_card("lone").title == "Mine"
    for call, words in (
        (lambda: expand_labels(["./gone.py"]), "--methods ./gone.py: there is no such file"),
        (lambda: suite_card("gone.toml"), "--suite gone.toml: there is no such file"),
    ):
        with pytest.raises(UsageError, match=words):
            call()
    assert add_file("lone.toml", "suites", "--suite") == "lone"


def test_hidden_and_shared_files_are_no_entries(own: Path) -> None:
    for name in ("_shared.py", ".hidden.py", "notes.txt"):
        (own / "methods" / name).write_text("")
    assert user_files("methods") == {}
    (own / "datasets" / "_draft.toml").write_text("")
    assert "_draft" not in card_names("datasets")
