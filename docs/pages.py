"""Pages of the site that are made from what they describe: one per method, the fields of a recipe, and the commands.

A hook of MkDocs (``mkdocs.yml``): ``on_files`` is called before the site is built.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, whatever is installed

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

GROUPS = {"partial": "Partial tuning", "extra": "Extra modules", "prompts": "Prompts"}
BACKBONE, CLASSES = "vit-b16-in21k", 100  # of the table of costs
OVERVIEW = f"""Parameters and operations are counted on `{BACKBONE}` at 224 px with {CLASSES} classes and a method's defaults, its
classifier included; a dash stands where a method does not work there. Each page has the options with their sources, and how the
released code differs from the paper. `vpbench list methods` prints the list."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages, and those of methods to the navigation."""
    pages = {
        **method_pages(),
        "reference/datasets.md": datasets_page(),
        "reference/recipe.md": recipe_page(),
        "reference/commands.md": commands_page(),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    for section in config.nav or []:
        if "Methods" in section:
            section["Methods"] = navigation()
    return files


def navigation() -> list[Any]:
    """The section of methods: an overview, then each group."""
    from vpbench.reporting.describe import listing

    groups: dict[str, list[Any]] = {title: [] for title in GROUPS.values()}
    for entry in listing("methods"):
        groups[GROUPS[entry["group"]]].append({entry["name"]: f"methods/{entry['name']}.md"})
    return [{"All methods": "methods/index.md"}, *({title: pages} for title, pages in groups.items() if pages)]


def method_pages() -> dict[str, str]:
    """A page for each method, and one with all of them."""
    from vpbench.reporting.describe import describe_method, listing

    names = [entry["name"] for entry in listing("methods")]
    costs = {name: cost(name) for name in names}
    found = {f"methods/{name}.md": method_page(describe_method(name), costs[name]) for name in names}
    found["methods/index.md"] = overview(listing("methods"), costs)
    return found


def overview(entries: Iterable[Mapping[str, Any]], costs: Mapping[str, Mapping[str, str]]) -> str:
    entries, lines = list(entries), ["# Methods", "", OVERVIEW, ""]
    for group, title in GROUPS.items():
        rows = [
            {
                "method": f"[{entry['name']}]({entry['name']}.md)",
                "year": entry["year"],
                "what it does": entry["summary"],
                **costs[entry["name"]],
            }
            for entry in entries
            if entry["group"] == group
        ]
        lines += [f"## {title}", "", *table(rows)]
    return "\n".join(lines)


def method_page(facts: Mapping[str, Any], costs: Mapping[str, str]) -> str:
    """Everything that ``vpbench show method`` knows, and the docstring with equations."""
    from vpbench.models.registry import method_class
    from vpbench.reporting.describe import fidelity_words

    kind, name = method_class(facts["name"]), facts["name"]
    needs = facts["requires"] if isinstance(facts["requires"], str) else ", ".join(facts["requires"])
    options = [{**each, "option": f"`{each['option']}`", "value": f"`{each['value']}`"} for each in facts["options"]]
    lines = [
        f"# {facts['title']}",
        f"`{name}`: {escaped(facts['summary'])}.",
        f"- **Paper**: {escaped(facts['paper'])}\n- **Follows**: {fidelity_words(facts['fidelity'])}\n"
        f"- **Backbones**: {', '.join(facts['families'])}\n- **Needs beside images and labels**: {needs}\n"
        f"- **File**: `methods/{Path(inspect.getfile(kind)).name}`",
        "## What it computes",
        markdown(inspect.getdoc(kind) or ""),
        "## Cost",
        f"On `{BACKBONE}` at 224 px with {CLASSES} classes and the defaults:",
        "\n".join(table([costs])),
        f"`vpbench show method {name} --backbone NAME` counts on another backbone, tensor by tensor;\n"
        f"`vpbench measure --methods {name}` measures time and memory.",
        "## Training",
        f"`vpbench show recipe {name} --suite SUITE` prints every value under a suite's protocol, with its source.",
        "## Options",
        "\n".join(table(options)) or "None.",
    ]
    if facts["presets"]:
        lines.append("## Presets")
    for preset in facts["presets"]:
        settings = ", ".join(f"`{key} = {value}`" for key, value in preset["settings"].items()) or "none"
        lines += [f"### {preset['preset']}", f"{escaped(preset['summary'])}. Settings: {settings}."]
        lines.append("\n".join(table(preset["differences"])))
    if facts["notes"]:
        lines += ["## Notes", "\n".join(f"- {escaped(note)}" for note in facts["notes"])]
    return "\n\n".join(lines) + "\n"


def cost(name: str) -> dict[str, str]:
    """Trained parameters and operations of a method with its defaults."""
    from vpbench.backbones.named import resolve_backbone
    from vpbench.core.errors import VpbenchError
    from vpbench.measure.operations import count_by_dispatch
    from vpbench.measure.size import parameter_counts
    from vpbench.models.build import build_empty
    from vpbench.models.registry import resolve_method

    backbone = resolve_backbone(BACKBONE, "random")
    try:
        model = build_empty(resolve_method(name), backbone, CLASSES, "meta")
        parameters = parameter_counts(model)["params_trainable"]
        counted = count_by_dispatch(model)
    except VpbenchError:
        return dict.fromkeys(("trained parameters", "GFLOPs, forward", "of the plain backbone's", "GFLOPs, training step"), "-")
    return {
        "trained parameters": f"{parameters:,}",
        "GFLOPs, forward": f"{counted['flops_forward'] / 1e9:.2f}",
        "of the plain backbone's": f"{counted['flops_forward'] / plain_flops():.3f}",
        "GFLOPs, training step": f"{counted['flops_train_step'] / 1e9:.1f}",
    }


@cache
def plain_flops() -> int:
    """Operations of the backbone alone."""
    from vpbench.backbones.named import resolve_backbone
    from vpbench.measure.operations import count_plain

    return count_plain(resolve_backbone(BACKBONE, "random"))


def datasets_page() -> str:
    """What the cards of published data sets say."""
    from vpbench.data.catalog import dataset_card, dataset_names

    lines = ["# Published data sets", "", "`vpbench data list` and `vpbench show dataset NAME` print the same.", ""]
    for name in dataset_names():
        card = dataset_card(name)
        lines += [
            f"## {name}",
            "",
            f"**{escaped(card.title)}**. {escaped(card.description)}",
            "",
            f"- {card.classes} classes; images: {card.n_train} train, {card.n_val} validation, {card.n_test} test",
            f"- From: {escaped(card.origin)}",
            f"- Licence: {escaped(card.licence)}",
            f"- Folder below the data root: {', '.join(f'`{each}`' for each in card.folders) or 'none, it is built in'}",
        ]
        lines += [f"- {escaped(card.how_to_get)}", ""] if card.how_to_get else [""]
    return "\n".join(lines)


def recipe_page() -> str:
    """The fields of :class:`~vpbench.spec.recipe.Recipe`."""
    from vpbench.spec.recipe import ParameterGroup, Recipe

    lines = ["# Fields of a recipe", "", markdown(inspect.getdoc(Recipe) or ""), ""]
    lines += ["Set one with `--set recipe.FIELD=VALUE`, for one method with `--set METHOD.recipe.FIELD=VALUE`.", ""]
    lines += table(fields(Recipe))
    lines += ["## Entries of `groups`", "", *table(fields(ParameterGroup))]
    return "\n".join(lines)


def fields(model: Any) -> list[dict[str, str]]:
    return [
        {
            "field": f"`{name}`",
            "default": "required" if field.is_required() else f"`{field.default}`",
            "meaning": field.description or "",
        }
        for name, field in model.model_fields.items()
    ]


def commands_page() -> str:
    """Every command with its options."""
    import typer

    from vpbench.cli.app import app

    group: Any = typer.main.get_command(app)
    lines = ["# Commands", "", "`vpbench COMMAND --help` shows the same.", ""]
    for name, command in group.commands.items():
        lines += command_lines(f"vpbench {name}", command.built() if hasattr(command, "built") else command)
    return "\n".join(lines)


def command_lines(words: str, command: Any) -> list[str]:
    """Help and options of a command, and of what is below it."""
    lines = [f"## {words}", "", command_help(command.help or ""), ""]
    options = [parameter for parameter in command.params if parameter.name != "help"]
    if options:
        lines += table(
            {"option": f"`{', '.join(getattr(each, 'opts', None) or [each.name])}`", "what": getattr(each, "help", "") or ""}
            for each in options
        )
    for name, inner in getattr(command, "commands", {}).items():
        lines += command_lines(f"{words} {name}", inner)
    return lines


def command_help(text: str) -> str:
    """A command's docstring: paragraphs, and the block of examples behind a backspace as code."""
    paragraphs = inspect.cleandoc(text.replace("\f", "")).split("\n\n")
    found = []
    for paragraph in paragraphs:
        if paragraph.lstrip().startswith("\b"):
            code = inspect.cleandoc(paragraph.lstrip().removeprefix("\b").lstrip("\n"))
            found.append("```sh\n" + code + "\n```")
        else:
            found.append(escaped(paragraph))
    return "\n\n".join(found)


def table(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Markdown lines of a table; empty without rows."""
    rows = list(rows)
    if not rows:
        return []
    head = list(rows[0])
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(cell(row[column]) for column in head)} |" for row in rows]
    return [*lines, ""]


def cell(value: Any) -> str:
    text = " ".join(str(value).split())
    return re.sub(r"(?<!\\)\|", r"\\|", text if text.startswith(("`", "[")) else escaped(text))


def escaped(text: str) -> str:
    """Text in which nothing but code is markup."""
    parts = re.split(r"(``?[^`]+``?)", text)
    return "".join(part if place % 2 else re.sub(r"([*_<\[\]])", r"\\\1", part) for place, part in enumerate(parts))


def markdown(docstring: str) -> str:
    """A docstring in reStructuredText's small markup as Markdown: code, roles, indented equations."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", docstring).replace("``", "`")
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    return "\n\n".join(block if block.startswith("    ") else with_equations(block) for block in text.split("\n\n"))


def with_equations(block: str) -> str:
    """A paragraph, of which indented lines are code."""
    found: list[str] = []
    for line in block.splitlines():
        is_code = line.startswith("    ")
        if is_code and found and not found[-1].startswith("    "):
            found.append("")
        found.append(line if is_code else escaped(line))
    return "\n".join(found)
