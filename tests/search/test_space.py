"""Search spaces: those that ship, what concerns which method, and mistakes in a user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpbench.core.errors import UsageError
from vpbench.search.space import Range, read_space, space_names, split

HEAD = 'title = "t"\ndescription = "d"\nsource = "s"\n'


def write(folder: Path, text: str, head: str = HEAD) -> str:
    path = folder / "mine.toml"
    path.write_text(head + text)
    return str(path)


def test_the_papers_grids() -> None:
    space = read_space("vpt-grid")
    assert space.parameters("linear") == {
        "recipe.lr": (50.0, 25.0, 10.0, 5.0, 2.5, 1.0, 0.5, 0.25, 0.1, 0.05),
        "recipe.weight_decay": (0.01, 0.001, 0.0001, 0.0),
    }
    assert space.settings("vpt") == {"recipe.optimizer": "sgd", "recipe.lr_reference_batch": 256}
    assert (space.size("vpt"), read_space("vpt-grid-fgvc").size("vpt")) == (40, 36)
    assert read_space("prompt-length").parameters("vpt") == {"prompt_length": (1, 5, 10, 50, 100, 200)}


def test_all_that_ship_are_sound() -> None:
    for name in space_names():
        assert read_space(name).card.source


def test_what_concerns_a_method(tmp_path: Path) -> None:
    """A name with the method says more than one without, wherever it stands."""
    space = read_space(
        write(
            tmp_path,
            '[parameters]\n"vpt.recipe.lr" = [3]\n"recipe.lr" = [1, 2]\n"insvp.prompt_length" = [7]\n"dropout" = [0.0, 0.5]\n',
        )
    )
    assert space.parameters("vpt") == {"recipe.lr": (3,), "dropout": (0.0, 0.5)}
    assert space.parameters("linear") == {"recipe.lr": (1, 2), "dropout": (0.0, 0.5)}
    assert space.grid("linear") == [
        {"recipe.lr": lr, "dropout": dropout} for lr, dropout in [(1, 0.0), (1, 0.5), (2, 0.0), (2, 0.5)]
    ]
    assert split(space.grid("vpt")[1]) == ({"dropout": 0.5}, {"lr": 3})
    assert space.digest("vpt") != space.digest("linear")


def test_ranges(tmp_path: Path) -> None:
    space = read_space(
        write(tmp_path, '[parameters]\n"recipe.lr" = { low = 1e-3, high = 1, log = true }\nn = { low = 1, high = 9 }\nk = [4, 5]')
    )
    assert space.parameters("vpt")["recipe.lr"] == Range(low=1e-3, high=1, log=True)
    assert [parameter.whole for parameter in space.parameters("vpt").values() if isinstance(parameter, Range)] == [False, True]
    seen = [set(map(str, (point[name] for point in space.probes("vpt")))) for name in ("recipe.lr", "n", "k")]
    assert seen == [{"0.001", "1"}, {"1", "9"}, {"4", "5"}]
    with pytest.raises(UsageError, match=r"recipe\.lr is a range, and a grid needs values"):
        space.grid("vpt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[parameter]\nlr = [1]", "line 4: parameter: there is no such field. Did you mean 'parameters'?"),
        ("[parameters]", "parameters: needs at least 1 value"),
        ("", "it lacks parameters"),
        ('sampler = "random"\n[parameters]\nn = [1]', "sampler: must be 'grid' or 'tpe' (given: 'random')"),
        ("trials = 0\n[parameters]\nn = [1]", "trials: must be at least 1 (given: 0)"),
        ("[parameters]\nn = []", "line 5: parameters.n: must be a list of values"),
        ("[parameters]\nn = 3", "parameters.n: must be a list of values, or a table with low and high (given: 3)"),
        ("[parameters]\nn = [1, 2, 1]", "parameters.n: has 1 twice"),
        (
            "[parameters]\nn = { low = 1, hihg = 2 }",
            "line 5: parameters.n: unknown field of a range 'hihg'. Did you mean 'high'?",
        ),
        ("[parameters]\nm = [1]\nn = { low = 2, high = 1 }", "line 6: parameters.n: low 2 must be below high 1"),
        ("[parameters]\nn = { low = 'a', high = 1 }", "parameters.n: low"),
        ("[parameters]\nn = { low = 0, high = 1, log = true }", "low 0 must be above 0 on a log scale"),
        ('[parameters]\n"recipee.lr" = [1]', "unknown method 'recipee'. Did you mean 'recipe'?"),
        ('[parameters]\n"vpt.recip.lr" = [1]', "line 5: parameters.vpt.recip.lr: write recipe.FIELD"),
        ("[parameters]\nn = [1]\n[settings]\nn = 1", "n is both a setting and a parameter"),
        ("[parameters", "is not valid TOML"),
        ("[parameters]\nn = " + "[" * 100_000, "nested too deeply"),
        ("[parameters]\nn = [" + "[" * 300 + "]" * 300 + "]", "nested too deeply"),
        ("[parameters]\nn = [" + "9" * 5000 + "]", "is not valid TOML"),
        (f"[parameters]\nn = {list(range(1001))}", "n: has 1001 values; take 1000 at most"),
    ],
)
def test_mistakes(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_space(write(tmp_path, text))
    assert message in str(caught.value)
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('title = "x"\nsampler = "random"\n')
    with pytest.raises(UsageError) as caught:
        read_space(str(path))
    assert "it lacks description, source, parameters; line 2: sampler: must be 'grid' or 'tpe'" in str(caught.value)
    text = """\
[parameters]
"recipe.lrr" = [1]
"recipe.lr" = { low = 1, high = 0.1 }
"vpt.prompt_lengthh" = [5]
"vptt.dropout" = [0]
[settings]
"vpt.recipe.wieght_decay" = 0
"""
    with pytest.raises(UsageError) as caught:
        read_space(write(tmp_path, text))
    assert str(caught.value).partition("mine.toml: ")[2].split("; ") == [
        "line 5: parameters.recipe.lrr: unknown recipe field 'lrr'. Did you mean 'lr'?",
        "line 6: parameters.recipe.lr: low 1 must be below high 0.1",
        "line 7: parameters.vpt.prompt_lengthh: unknown option of vpt 'prompt_lengthh'. Did you mean 'prompt_length'?",
        "line 8: parameters.vptt.dropout: unknown method 'vptt'. Did you mean 'vpt'?",
        "line 10: settings.vpt.recipe.wieght_decay: unknown recipe field 'wieght_decay'. Did you mean 'weight_decay'?",
    ]


def test_names_and_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown search space 'vpt-gird'\. Did you mean 'vpt-grid'"):
        read_space("vpt-gird")
    with pytest.raises(UsageError, match="No such file"):
        read_space(str(tmp_path / "none.toml"))


def test_a_grid_of_76_million_points(tmp_path: Path) -> None:
    """It is refused before it is a list."""
    space = read_space(write(tmp_path, "[parameters]\n" + "\n".join(f"n{number} = {list(range(10))}" for number in range(8))))
    with pytest.raises(UsageError, match=r"mine: its grid has 100,000,000 points for vpt, and a grid may have"):
        space.size("vpt")
    assert len(space.probes("vpt")) == 73
