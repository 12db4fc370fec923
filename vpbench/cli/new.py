"""``vpbench new``: files to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vpbench.cli.strict import StrictTyper

app = StrictTyper(help="Write the files that a new plug-in starts from.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def method(
    name: Annotated[str, typer.Argument(help="a Python name in lower case, e.g. my_prompts")],
    kind: Annotated[
        str, typer.Option(help="What to start from: prompts, low-rank, adapter, scale-shift, bias or pixels.")
    ] = "prompts",
    folder: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Root of a checkout of vpbench, or of your own package.")
    ] = Path(),
) -> None:
    """Write methods/NAME.py, a working method, and tests/methods/test_NAME.py, its test.

    In a checkout of vpbench that is all: the method is found by its file. In a package of your own, name the class as an
    entry point of the group `vpbench.methods`.

    Examples:

    \b
      vpbench new method my_prompts
      vpbench new method my_lora --kind low-rank    a template that edits linear layers, and merges
    """
    import keyword
    import re
    from importlib.resources import files

    from vpbench.core.errors import UsageError
    from vpbench.core.names import unknown
    from vpbench.models.registry import method_registry

    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UsageError(f"'{name}' is no name for a method: take small letters, digits and underscores, e.g. my_prompts.")
    if name in method_registry().names():
        raise UsageError(f"there is a method '{name}' already; choose another name.")
    templates = files("vpbench.cli") / "templates"
    kinds = [entry.name.removesuffix(".py.txt") for entry in templates.iterdir() if entry.name != "test.py.txt"]
    if kind not in kinds:
        raise unknown("value of --kind", kind, kinds)
    title = "".join(part.capitalize() for part in name.split("_"))
    targets = {
        folder / "methods" / f"{name}.py": f"{kind}.py.txt",
        folder / "tests" / "methods" / f"test_{name}.py": "test.py.txt",
    }
    for path in targets:
        if path.exists():
            raise UsageError(f"{path} exists already and is left as it is; choose another name or folder.")
    for path, template in targets.items():
        text = (templates / template).read_text(encoding="utf-8")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace("NAME", name).replace("TITLE", title), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror or error}. Choose another --folder.") from error
        typer.echo(path)
