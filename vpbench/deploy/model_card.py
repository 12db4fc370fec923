"""The model card of an exported model, README.md in the layout of the Hugging Face hub, and its config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpbench.backbones.named import backbone_card, backbone_names
from vpbench.core.escaping import for_markdown
from vpbench.core.hub import PREFIX, HubData
from vpbench.data.overlaps import seen_test_images
from vpbench.models.registry import method_class
from vpbench.models.saved import Description
from vpbench.spec.run_spec import Preprocess
from vpbench.tasks import task_class

_LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "CC-BY-NC-4.0": "cc-by-nc-4.0"}  # the hub's names


def write_card(description: Description, folder: Path, usage: str, row: Mapping[str, Any] | None) -> None:
    """Write ``README.md``.

    Args:
        usage: Python code that loads the model and computes logits.
        row: the run's; None where it is not known.
    """
    (folder / "README.md").write_text(model_card(description, usage, row), encoding="utf-8", newline="\n")


def write_config(description: Description, folder: Path, **more: Any) -> None:
    """Write ``config.json``: the description of the model, its class names by id, and ``more``."""
    facts = {name: json.loads(text) for name, text in description.metadata().items() if name != "format"}
    labels = {str(label): name for label, name in enumerate(description.class_names)}
    text = json.dumps({"library_name": "vpbench", **more, "id2label": labels, **facts}, indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8", newline="\n")


def model_card(description: Description, usage: str, row: Mapping[str, Any] | None = None) -> str:
    """The text of the card: method, data, protocol, measured numbers, classes, licence of the backbone."""
    method, backbone, data = description.method, description.backbone, description.data
    kind, licence = method_class(method.name), licence_of(backbone.name)
    names = description.class_names
    shown = ", ".join(map(for_markdown, names[:20])) + (f" and {len(names) - 20} more (config.json)" if len(names) > 20 else "")
    changed = {name: value for name, value in method.config.items() if value != kind.Config.model_fields[name].default}
    options = ", ".join(f"{name} = {value}" for name, value in changed.items()) or "defaults"
    lines = [
        *_front_matter(description, licence),
        f"# {for_markdown(method.label)} on {for_markdown(data.dataset)}",
        "",
        f"{kind.title} on the frozen backbone `{backbone.name}`, trained by vpbench {description.versions['vpbench']}.",
        "",
        "| | |",
        "|---|---|",
        f"| method | {for_markdown(kind.summary)} |",
        f"| source | {for_markdown(kind.paper)} |",
        f"| options | {for_markdown(options)} |",
        f"| backbone | {for_markdown(backbone.name)}, weights {for_markdown(backbone.weights)} |",
        f"| SHA-256 of its weights | {backbone.sha256 or 'none'} |",
        f"| licence of the backbone | {for_markdown(licence or 'see its source')} |",
        f"| data | {for_markdown(data.dataset)}, {len(names)} classes, digest {data.digest} |",
        *([f"| data set of the hub | {for_markdown(data.hub)} |"] if data.hub else []),
        f"| protocol | suite {for_markdown(data.suite)}, run {description.run_id} |",
        *_measured(row),
        f"| preprocessing | {for_markdown(in_words(description.preprocess, backbone.image_size))} |",
        f"| mean, std | {list(backbone.mean)}, {list(backbone.std)} |",
        f"| precision of the run | {description.precision} |",
        "",
        "```python",
        usage.strip(),
        "```",
        "",
        f"Classes, by id from 0: {shown}.",
    ]
    return "\n".join(lines) + "\n"


def licence_of(backbone: str) -> str:
    """The licence on a backbone's card; empty for timm's other models."""
    return backbone_card(backbone).licence if backbone in backbone_names() else ""


def in_words(preprocess: Preprocess, size: int) -> str:
    """The steps from an image to the network's input, before mean and std."""
    smooth = "antialiased" if preprocess.antialias else "not antialiased"
    how = f"{preprocess.interpolation}, {smooth}"
    if preprocess.resize == "original":
        steps = [f"in its own size, predicted in windows of {size} x {size} (the short side at least {size})"]
    elif preprocess.resize == "stretch":
        steps = [f"resized to {size} x {size} whatever the aspect ({how})"]
    else:
        steps = [f"short side resized to {round(size / preprocess.crop_ratio)} ({how})", f"centre {size} x {size} cropped"]
    decoded = ["RGB", *(["made upright by EXIF"] if preprocess.orientation == "exif" else [])]
    if preprocess.background != "ignored":
        decoded.append(f"transparency on {preprocess.background}")
    return ", ".join([*decoded, *steps])


def _front_matter(description: Description, licence: str) -> list[str]:
    """The metadata that the hub reads."""
    known = _LICENCES.get(licence)
    kind, _, place = description.backbone.weights.partition(":")
    base = place.rpartition("/")[0] if kind == "hub" else ""
    return [
        "---",
        "library_name: vpbench",
        f"pipeline_tag: {task_class(description.task.name).pipeline_tag}",
        *([f"license: {known}"] if known else []),
        *([f"base_model: {base}"] if base else []),
        *([f"datasets:\n- {HubData.parse(PREFIX + description.data.hub).repository}"] if description.data.hub else []),
        "tags:",
        *(f"- {tag}" for tag in ("vpbench", "parameter-efficient-fine-tuning", description.method.name)),
        "---",
        "",
    ]


def _measured(row: Mapping[str, Any] | None) -> list[str]:
    """What the run measured, as far as there is a row."""
    if row is None:
        return []
    found = {
        "test accuracy, top-1": None if row.get("acc1") is None else f"{row['acc1']:.2f} % of {row['total']} images",
        "test mIoU": None if row.get("miou") is None else f"{row['miou']:.2f} % on {row['total']} images",
        "of the test images": " ".join(seen_test_images(row.get("error") or "")) or None,
        "trained parameters": None if row.get("params_trainable") is None else f"{row['params_trainable']:,}",
        "seed": row.get("seed"),
        "recipe": f"{row['optimizer']}, lr {row['lr']:g}, {row['epochs']} epochs, batch {row['batch_size']}"
        if row.get("optimizer") and row.get("lr") is not None
        else None,
    }
    return [f"| {name} | {for_markdown(str(value))} |" for name, value in found.items() if value is not None]
