"""``vpbench new``: files to start from, in the user's folder of cards and code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vpbench.cli.strict import group_of_commands

if TYPE_CHECKING:
    from vpbench.data.raw import RawData

app = group_of_commands("Write a file of your own to start from, which works at once.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="its name, and that of its file")]
Folder = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Instead of your folder of cards: a checkout of vpbench, or a package.")
]
DEFAULT_BACKBONE = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


@app.command()
def method(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a Python name in lower case, e.g. my_prompts")],
    kind: Annotated[
        str, typer.Option(metavar="KIND", help="What to start from: prompts, low-rank, adapter, scale-shift, bias or pixels.")
    ] = "prompts",
    folder: Folder = None,
) -> None:
    """Write methods/NAME.py, a working method, and tests/methods/test_NAME.py, its test.

    The method is found by its file. Your folder is that of --cards, VPBENCH_PATH or vpbench.toml; without one it is
    vpbench_user, which vpbench.toml names from then on. In a checkout of vpbench say --folder . instead.

    Examples:

    \b
      vpbench new method my_prompts
      # a template that edits linear layers, and merges
      vpbench new method my_lora --kind low-rank
    """
    import keyword
    import re

    from vpbench.core.errors import UsageError
    from vpbench.core.names import unknown
    from vpbench.models.registry import method_registry

    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UsageError(f"'{name}' is no name for a method: take small letters, digits and underscores, e.g. my_prompts.")
    if method_registry().has(name):
        raise UsageError(f"there is a method '{name}' already; choose another name.")
    kinds = _templates(".py.txt") - {"test"}
    if kind not in kinds:
        raise unknown("value of --kind", kind, kinds)
    title = "".join(part.capitalize() for part in name.split("_"))
    words = {"NAME": name, "TITLE": title}
    _write(
        {f"methods/{name}.py": f"{kind}.py.txt", f"tests/methods/test_{name}.py": "test.py.txt"},
        words, folder, f"vpbench run --methods {name}",
    )  # fmt: skip


@app.command()
def dataset(
    name: Name,
    data: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Your images, a folder or a parquet file: they are counted for the card.")
    ] = None,
    folder: Folder = None,
) -> None:
    """Write datasets/NAME.toml, the card of a data set. Without --data it describes the built-in digits, to be replaced.

    Examples:

    \b
      vpbench new dataset birds --data photos/birds
    """
    from vpbench.core.hub import located
    from vpbench.data.catalog import dataset_names
    from vpbench.data.sources import counts, open_dataset, open_path

    _check_name(name, "data set", dataset_names())
    raw: RawData
    if data is None:
        from vpbench.data.catalog import dataset_card

        raw, reader = open_dataset(dataset_card("digits")), 'source = "digits"  # in its place: path = "FOLDER_OR_FILE.parquet"'
    else:
        raw, reader = open_path(data), f"path = {_text(located(data))}"
    numbers = {field.removeprefix("n_").upper(): str(value) for field, value in counts(raw).items()}
    words = {"NAME": name, "READER": reader, **numbers}
    _write({f"datasets/{name}.toml": "dataset.toml.txt"}, words, folder, f"vpbench data verify {name}")


@app.command()
def suite(
    name: Name,
    data: Annotated[str | None, typer.Option(metavar="PATHS", help="Your images: folders or parquet files, with commas.")] = None,
    datasets: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Names of data sets, with commas. Default: digits, without --data.")
    ] = None,
    folder: Folder = None,
) -> None:
    """Write suites/NAME.toml, the card of a suite: data sets, and the protocol that is the same for all methods.

    Examples:

    \b
      vpbench new suite birds --data photos/birds,photos/owls.parquet
    """
    from vpbench.core.user_folders import user_path
    from vpbench.data.catalog import dataset_card
    from vpbench.planning.check_names import own_name
    from vpbench.planning.suites import suite_names
    from vpbench.spec.parsing import words as separated

    _check_name(name, "suite", suite_names())
    paths = [user_path(path) for path in separated(data) or ()]
    names = separated(datasets) or ([] if paths else ["digits"])
    for one in names:
        dataset_card(one)
    _check_data(paths)
    lines = "".join(f"{_text(own_name(path))} = {_text(str(path.absolute()))}\n" for path in paths)
    words = {"NAME": name, "DATASETS": ", ".join(map(_text, names)), "DATA": lines or '# photos = "../photos"\n'}
    _write({f"suites/{name}.toml": "suite.toml.txt"}, words, folder, f"vpbench run --suite {name} --dry-run")


@app.command()
def table(name: Name, folder: Folder = None) -> None:
    """Write tables/NAME.toml, the definition of a table for `vpbench report --table NAME`.

    Examples:

    \b
      vpbench new table overview
    """
    from vpbench.core.user_files import user_files
    from vpbench.reporting.definition import table_numbers

    _check_name(name, "table", [*user_files("tables"), *table_numbers()])
    _write({f"tables/{name}.toml": "table.toml.txt"}, {"NAME": name}, folder, f"vpbench report --table {name}")


@app.command()
def backbone(
    name: Name,
    timm: Annotated[
        str, typer.Option(metavar="MODEL", help="timm's name of the architecture, with the weights' tag.")
    ] = DEFAULT_BACKBONE,
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="A weight file, in place of timm's weights.")] = None,
    folder: Folder = None,
) -> None:
    """Write backbones/NAME.toml, the card of a backbone: architecture, weights, normalisation.

    Examples:

    \b
      vpbench new backbone mine --timm vit_base_patch16_224 \\
          --weights mine.safetensors
      vpbench new backbone dinov2 --timm vit_small_patch14_dinov2.lvd142m
    """
    from vpbench.backbones.named import backbone_names, resolve_backbone, timm_facts
    from vpbench.core.errors import UsageError
    from vpbench.models.build import empty_backbone
    from vpbench.planning.check_weights import check_weights

    _check_name(name, "backbone", backbone_names())
    spec = resolve_backbone(timm, "random")
    model = empty_backbone(spec, "meta")
    architecture, tag, feature = timm_facts(timm)
    if weights:
        found = resolve_backbone(timm, str(weights))
        for note in check_weights([found])[0]:
            typer.echo(note, err=True)
        where = f"file = {_text(str(Path(found.path or weights).absolute()))}\nsha256 = {_text(found.sha256 or '')}"
    elif tag:
        where = f"tag = {_text(tag)}  # of timm's weights, on the hub; or file and sha256 of your own"
    else:
        raise UsageError(f"timm has no pretrained weights for {timm}: give --weights FILE.")
    words = {
        "NAME": name, "ARCHITECTURE": architecture, "WEIGHTS": where, "FEATURE": feature,
        "MEAN": str(list(spec.mean)), "STD": str(list(spec.std)),
        "PARAMETERS": str(sum(parameter.numel() for parameter in model.parameters())),
    }  # fmt: skip
    _write({f"backbones/{name}.toml": "backbone.toml.txt"}, words, folder, f"vpbench measure --backbone {name} --no-timing")


@app.command()
def search(name: Name, folder: Folder = None) -> None:
    """Write searches/NAME.toml, a search space for `vpbench tune --space NAME`.

    Examples:

    \b
      vpbench new search rates
    """
    from vpbench.search.space import space_names

    _check_name(name, "search space", space_names())
    _write({f"searches/{name}.toml": "search.toml.txt"}, {"NAME": name}, folder, f"vpbench tune --space {name} --dry-run")


@app.command()
def recipe(name: Annotated[str, typer.Argument(metavar="METHOD", help="name of a method")], folder: Folder = None) -> None:
    """Write recipes/METHOD.toml: your training values for a method, which come after vpbench's own.

    Examples:

    \b
      vpbench new recipe vpt
    """
    from vpbench.models.registry import method_class

    method_class(name)
    _write({f"recipes/{name}.toml": "recipe.toml.txt"}, {"NAME": name}, folder, f"vpbench run --methods {name} --dry-run")


def _templates(ending: str) -> set[str]:
    from importlib.resources import files

    return {
        file.name.removesuffix(ending) for file in (files("vpbench.cli") / "templates").iterdir() if file.name.endswith(ending)
    }


def _write(targets: Mapping[str, str], words: Mapping[str, str], folder: Path | None, following: str) -> None:
    """Write files from templates, and say which, and what to do next.

    Args:
        targets: template by path below the folder.
        words: what stands for the words in capitals.
        folder: the chosen one, or None for the user's own, which is made if there is none.
    """
    import re
    from functools import partial
    from importlib.resources import files

    from vpbench.core.errors import UsageError
    from vpbench.core.files import write_atomically
    from vpbench.core.user_files import folder_for_new_files, make_known

    place = folder_for_new_files(folder)
    pattern = "|".join(sorted(words, key=len, reverse=True))
    texts = {}
    for target, template in targets.items():
        if (path := place / target).exists():
            raise UsageError(f"{path} exists already and is left as it is; choose another name or folder.")
        text = (files("vpbench.cli") / "templates" / template).read_text(encoding="utf-8")
        texts[path] = re.sub(pattern, lambda found: words[found[0]], text)
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, partial(Path.write_text, data=text, encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror or error}. Choose another --folder.") from error
        typer.echo(path)
    if folder is None and (written := make_known(place)):
        typer.echo(written)
    typer.echo(f"Next: {following}", err=True)


def _check_name(name: str, word: str, known: list[str]) -> None:
    import re

    from vpbench.core.errors import UsageError

    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,79}", name) or name.endswith((".", ".toml")):
        raise UsageError(f"'{name}' is no name for a {word}: take letters, digits, '-', '_' and '.', e.g. my-birds.")
    if name in known:
        raise UsageError(f"there is a {word} '{name}' already; choose another name.")


def _check_data(paths: list[Path]) -> None:
    """That each can be opened, and has a name of its own."""
    from collections import Counter

    from vpbench.core.errors import UsageError
    from vpbench.data.catalog import dataset_names
    from vpbench.data.sources import open_path
    from vpbench.planning.check_names import own_name

    for path in paths:
        open_path(path)
    names = Counter(map(own_name, paths))
    for name, count in names.items():
        if count > 1 or name in dataset_names():
            other = "another of them" if count > 1 else "a data set of 'vpbench list datasets'"
            raise UsageError(f"--data: {name} is called as {other}; rename the folder or file, or edit the card's [data].")


def _text(value: str) -> str:
    """As TOML writes a text; JSON's escapes are among TOML's."""
    import json

    return json.dumps(value, ensure_ascii=False)
