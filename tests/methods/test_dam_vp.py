"""DAM-VP: clusters, routing and prompts as in the released code; and its meta prompt."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_contract import CLASSES, IMAGES, SIZE, build
from torch import Tensor, nn
from torch.nn import functional as F

from golden_fill import (
    check_gradient,
    check_logits,
    fill_head,
    filled,
    filled_vit,
    golden_cases,
    images,
    labels,
    load_golden,
)
from vpbench.backbones.vit import ViTAdapter
from vpbench.core.errors import UsageError
from vpbench.interface import OtherData
from vpbench.measure.size import parameter_counts
from vpbench.methods.dam_vp import DAMVP, SIDES
from vpbench.models.prompted import ImagesWithFeatures, PromptedModel
from vpbench.models.registry import resolve_method

FILE = "baselines/dam_vp"


def golden_dam_vp(config: dict[str, Any], case: dict[str, Any], **options: Any) -> PromptedModel:
    """Filled, the case's prompts and prototypes included; behind a representation layer where the case has one."""
    vit = filled_vit(config)
    if "pre_logits.fc.weight" in case["fills"]:
        width = config["dim"]
        vit.fc_norm = nn.Sequential(OrderedDict(fc=nn.Linear(width, width), act=nn.Tanh()))
        with torch.no_grad():
            for name, tensor in vit.fc_norm.fc.named_parameters():
                rule = case["fills"][f"pre_logits.fc.{name}"]
                tensor.copy_(filled(f"pre_logits.fc.{name}", tensor.shape, rule["scale"], rule["offset"], config))
    adapter = ViTAdapter(vit)
    settings = {"pad": config["pad"], "scale_pad": False, "max_clusters": 8, **options}
    method = DAMVP(DAMVP.Config(**settings), adapter.shape, config["classes"])
    model = PromptedModel(adapter, method, config["classes"]).eval()
    fill_head(model.head, config)
    with torch.no_grad():
        plain = adapter(images(config))
        rule = case["fills"]["dam_vp.prototype"]
        prototypes = filled("dam_vp.prototype", rule["shape"], rule["scale"], rule["offset"], config)
        method._use(prototypes + plain[config["prototype_rows"]])
        for name, rule in case["fills"].items():
            _, *part = name.split(".")
            if name.startswith("dam_vp.") and len(part) == 2:
                values = filled(name, rule["shape"], rule["scale"], rule["offset"], config)
                getattr(model.own, part[1])[int(part[0])] = values
    return model


@pytest.mark.parametrize("name", golden_cases(FILE))
def test_golden(name: str) -> None:
    golden = load_golden(FILE)
    config, case = golden["config"], golden["cases"][name]
    model = golden_dam_vp(config, case)
    with torch.no_grad():
        features = model.plain_features(images(config))
    assert model.method.clusters_of(features).tolist() == case["routing"]  # type: ignore[attr-defined]
    distances = torch.cdist(features, model.own.prototypes[: config["n_prototypes"]])  # type: ignore[index]
    torch.testing.assert_close(distances, torch.tensor(case["distances"]), rtol=1e-4, atol=1e-4)
    logits = model(images(config))
    check_logits(logits, case)
    loss = F.cross_entropy(logits, labels(config))
    assert loss.item() == pytest.approx(case["loss"], rel=1e-4)
    loss.backward()
    largest = max(each["grad_l2"] for each in case["params"].values())
    for key, expected in case["params"].items():
        if key.startswith("head."):
            gradient = dict(model.head.named_parameters())[key.removeprefix("head.")].grad
        else:
            _, cluster, side = key.split(".")
            gradient = getattr(model.own, side).grad[int(cluster)][None]
        check_gradient(gradient, expected, tolerance=1e-3, floor=1e-3 * largest)


@pytest.mark.parametrize("name", golden_cases(FILE))
def test_golden_of_the_clustering(name: str) -> None:
    golden = load_golden(FILE)
    config, case = golden["config"], golden["cases"][name]
    expected = case["clustering"]
    model = golden_dam_vp(config, case, distance_threshold=expected["distance_threshold"])
    method: Any = model.method
    calibration = filled("calibration", (config["calibration_images"], 3, config["img"], config["img"]), 1.0, 0.0, config)
    with torch.no_grad():
        features = model.plain_features(calibration)
        plain = model.plain_features(images(config))
    found = method._clustered(features.numpy())
    pairs = {(ours, theirs) for ours, theirs in zip(found.tolist(), expected["labels"])}
    assert len(pairs) == len({ours for ours, _ in pairs}) == len({theirs for _, theirs in pairs})  # the same partition
    method._use(method.prototypes_of(features))
    prototypes = model.own.prototypes[: len(pairs)]  # type: ignore[index]
    assert sorted(prototypes.norm(dim=1).tolist()) == pytest.approx(sorted(expected["prototypes_l2"]), rel=1e-4)
    rows = torch.tensor(expected["prototypes_first"])
    found_rows = torch.stack([features[torch.tensor(expected["labels"]) == label].mean(0) for label in range(len(rows))])
    torch.testing.assert_close(found_rows[:, :4], rows, rtol=1e-4, atol=1e-4)
    routed = [int((prototypes[cluster] - found_rows).norm(dim=1).argmin()) for cluster in method.clusters_of(plain)]
    assert routed == expected["routing_of_images"]
    each = 4 * 3 * config["pad"] * (config["img"] - config["pad"])
    assert method.active_parameters() == len(pairs) * each


def test_counts_on_vit_b16(vit_b16: ViTAdapter) -> None:
    with torch.device("meta"):
        model = PromptedModel(vit_b16, DAMVP(DAMVP.Config(), vit_b16.shape, 100), 100)
        counts = parameter_counts(model)
    assert counts["params_active"] == 69_840
    assert counts["params_method"] == 64 * 69_840


def test_without_prompts_it_is_linear_probing() -> None:
    model = build("dam_vp")
    torch.testing.assert_close(model(IMAGES), model.head(model.plain_features(IMAGES)), rtol=1e-5, atol=1e-5)


def test_features_that_are_known_are_not_computed_again() -> None:
    model = build("dam_vp:nometa").eval()
    method: Any = model.method
    features = torch.randn(len(IMAGES), model.backbone.feature_width)
    method._use(features[:2])
    with torch.no_grad():
        model.own.up[1] += 3  # type: ignore[index]
        prompted = method.pixels(IMAGES, model.context(ImagesWithFeatures(IMAGES, features)))
    cluster = method.clusters_of(features)
    assert cluster[:2].tolist() == [0, 1]
    expected = torch.stack([model.own.up[index] for index in cluster])
    torch.testing.assert_close((prompted - IMAGES)[:, :, : method.pad], expected)
    inside = slice(method.pad, SIZE - method.pad)
    assert torch.equal(prompted[:, :, inside, inside], IMAGES[:, :, inside, inside])


def test_at_most_so_many_clusters() -> None:
    method: Any = build("dam_vp").method
    spread = torch.randn(40, 192, generator=torch.Generator().manual_seed(0))
    limited = DAMVP(DAMVP.Config(max_clusters=3, threshold_share=1e-3), method.shape, CLASSES)
    assert set(limited._clustered(spread.numpy())) == {0, 1, 2}
    apart = torch.cat([spread[:20] * 0.01, spread[:20] * 0.01 + 5])
    assert len(method.prototypes_of(apart)) == 2
    assert len(method.prototypes_of(spread[:1])) == 1 and len(method.prototypes_of(spread[:1].repeat(5, 1))) == 1


def write_prompt(path: Path, prefix: str, channels: int = 3, pad: int = 4) -> dict[str, Tensor]:
    down = SIZE - 2 * pad
    sizes = {
        "up": (channels, pad, SIZE),
        "down": (channels, pad, SIZE),
        "left": (channels, down, pad),
        "right": (channels, down, pad),
    }
    prompt = {side: torch.randn(size) for side, size in sizes.items()}
    content = {prefix + side: tensor[None] if "pad_" in prefix else tensor for side, tensor in prompt.items()}
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save({"state_dict": content, "epoch": 3}, path)
    return prompt


@pytest.mark.parametrize(("file", "prefix"), [("a.safetensors", ""), ("a.pth", "pad_"), ("run.safetensors", "own.meta_")])
def test_every_cluster_starts_from_the_meta_prompt_of_a_file(file: str, prefix: str, tmp_path: Path) -> None:
    prompt = write_prompt(tmp_path / file, prefix)
    spec = resolve_method("dam_vp", {"meta_prompt": str(tmp_path / file)})
    assert spec.config["meta_prompt"].startswith(f"{tmp_path / file}#sha256=")
    assert resolve_method("dam_vp", spec.config).config == spec.config
    method = DAMVP(DAMVP.Config(**spec.config), build("dam_vp").method.shape, CLASSES)
    method.build()
    assert all(torch.equal(tensor, prompt[side].expand(64, -1, -1, -1)) for side, tensor in method.own.named_parameters())
    with (tmp_path / file).open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(UsageError, match="SHA-256 differs"):
        method.build()


def test_a_meta_prompt_that_does_not_fit(tmp_path: Path) -> None:
    write_prompt(tmp_path / "a.safetensors", "", pad=3)
    config = DAMVP.Config(**resolve_method("dam_vp", {"meta_prompt": str(tmp_path / "a.safetensors")}).config)
    with pytest.raises(UsageError, match=r"up is \(3, 3, 32\) in the file, and this backbone needs \(3, 4, 32\)"):
        DAMVP(config, build("dam_vp").method.shape, CLASSES).build()
    with pytest.raises(UsageError, match="there is no such file"):
        resolve_method("dam_vp", {"meta_prompt": str(tmp_path / "b.safetensors")})


class OneModel:
    """As much of a session as meta-training asks for."""

    def __init__(self, model: PromptedModel, batches: int = 2) -> None:
        self.model = model
        generator = torch.Generator().manual_seed(5)
        self.images = [torch.randn(6, 3, SIZE, SIZE, generator=generator) for _ in range(batches)]

    def logits(self, images: Tensor) -> Tensor:
        return self.model.eval()(images)

    def features(self, split: str) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return self.model.plain_features(IMAGES), torch.zeros(len(IMAGES))

    def other_data(self, name: str) -> OtherData:
        def batches(size: int) -> Iterator[tuple[Tensor, Tensor]]:
            return ((each, torch.arange(6) % 3) for each in self.images)

        return OtherData(3, batches)


def reptile_model(**options: Any) -> PromptedModel:
    torch.manual_seed(0)
    adapter = build("dam_vp").backbone
    settings = {"meta_datasets": ("a", "b"), "meta_epochs": 1, "max_clusters": 4, "init": "normal", **options}
    return PromptedModel(adapter, DAMVP(DAMVP.Config(**settings), adapter.shape, CLASSES), CLASSES)


def test_one_step_of_reptile_moves_the_meta_prompt_towards_the_mean_of_the_clusters() -> None:
    """Written out: one data set, one batch, two inner steps with plain SGD on copies of the prompt; in the second and last step
    the rate is 0."""
    model = reptile_model(meta_datasets=("a",), meta_inner_steps=2, meta_step_size=0.25, meta_lr=3.0, meta_weight_decay=0.1)
    method: Any = model.method
    session: Any = OneModel(model)
    start = {side: tensor[0].clone() for side, tensor in model.own.named_parameters()}
    torch.manual_seed(7)
    task = method._meta_task(session, session.other_data("a"))
    head = nn.Linear(192, 3)
    head.load_state_dict(task.head.state_dict())
    torch.manual_seed(7)
    found = method._meta_trained(session)

    count, chosen = len(task.prototypes), session.images[0]
    with torch.no_grad():
        nearest = torch.cdist(model.plain_features(chosen), task.prototypes).argmin(1)
    prompts = [{side: tensor.clone().requires_grad_() for side, tensor in start.items()} for _ in range(count)]
    rate = 1.5  # the cosine of the first of two steps
    for _ in range(2):
        bordered = []
        for image, cluster in zip(chosen, nearest):
            own = prompts[cluster]
            inside = torch.zeros(3, SIZE - 2 * method.pad, SIZE - 2 * method.pad)
            bordered.append(image + torch.cat([own["up"], torch.cat([own["left"], inside, own["right"]], 2), own["down"]], 1))
        loss = F.cross_entropy(head(model.backbone(torch.stack(bordered))), torch.arange(6) % 3)
        tensors = [*head.parameters(), *(tensor for own in prompts for tensor in own.values())]
        gradients = torch.autograd.grad(loss, tensors, allow_unused=True)
        with torch.no_grad():
            for tensor, gradient in zip(tensors, gradients):
                is_prompt = tensor.ndim == 3
                gradient = torch.zeros_like(tensor) if gradient is None else gradient
                tensor -= (rate * (gradient + 0.1 * tensor)) if is_prompt else 0.1 * gradient
    for side in SIDES:
        mean = torch.stack([own[side].detach() for own in prompts]).mean(0)
        torch.testing.assert_close(found[side], start[side] + 0.25 * (mean - start[side]), rtol=1e-4, atol=1e-5)


@pytest.mark.sweep
def test_meta_training_lowers_the_loss_and_is_kept_in_the_runs_weights() -> None:
    model = reptile_model(meta_epochs=8, meta_lr=2.0, meta_step_size=1.0)
    method: Any = model.method
    session: Any = OneModel(model)
    before = {side: tensor[0].clone() for side, tensor in model.own.named_parameters()}
    frozen = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    method.prepare(session)
    for side in SIDES:
        own = getattr(model.own, side)
        assert torch.equal(own, own[:1].expand_as(own)) and not torch.equal(own[0], before[side])
        assert torch.equal(model.snapshot()[f"own.meta_{side}"], own[0])
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in model.backbone.state_dict().items())
    assert model.own.prototypes[:, 0].isfinite().sum() >= 1  # type: ignore[index, union-attr]
    assert all(tensor.grad is None for tensor in model.parameters())
    assert all(isinstance(tensor, nn.Parameter) for tensor in (getattr(model.own, side) for side in SIDES))
