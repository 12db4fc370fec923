"""Pretrain ``vit-nano``, the backbone that ships with vpbench, by distilling a larger public vision transformer.

    cd benchmarks/backbones
    python pretrain_vit_nano.py views --images tiny_imagenet.parquet --teacher vit_tiny.safetensors --out views/
    python pretrain_vit_nano.py train --views views/ --teacher vit_tiny.safetensors --out vit-nano.safetensors
    python pretrain_vit_nano.py evaluate --weights vit-nano.safetensors --data flowers.parquet cifar10.parquet

``views`` cuts a fixed number of augmented views from every image of Tiny-ImageNet (a parquet file with encoded images,
as in the hub's exports; labels are not read) and stores what the teacher, timm's ViT-Tiny/16, makes of each: the class
token and the patch tokens after the final norm. ``train`` starts from half of the teacher's blocks, with patch and position
embeddings resampled to smaller patches, and fits what is left to these targets. The rate is low on purpose: at 1e-3 and 4,000
steps the features are no better, and prompts lose their grip, because a small student gives up what its class token does not
need. The same seed on the same machine gives the same weights.

The student's class token is compared with the teacher's in three ways: cosine distance, smooth L1 on standardised
features, and the Kullback-Leibler divergence of the class probabilities that the teacher's own frozen classifier gives
both. The patch tokens are compared with the teacher's, averaged over the student's grid. Views are mirrored at random (the
targets with them), and half of the batches are mixed pairwise together with their targets.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from timm.models import VisionTransformer
from torch import Tensor

SOURCE_SIZE = 64  # pixels; Tiny-ImageNet's own size, and the size in which views are kept
TEACHER_SIZE = 128  # pixels; position embeddings resampled, 8 x 8 patches
TEACHER_GRID = 8
WIDTH, HEADS = 192, 3  # of the teacher; the student has the same, so that blocks fit and features need no projection


def load_teacher(path: Path) -> VisionTransformer:
    """timm's ViT-Tiny/16 with its 1,000-class head, frozen, at ``TEACHER_SIZE``."""
    teacher = timm.create_model("vit_tiny_patch16_224", img_size=TEACHER_SIZE)
    state = {key: value.float() for key, value in load_file(path).items()}
    state["pos_embed"] = timm.layers.resample_abs_pos_embed(state["pos_embed"], (TEACHER_GRID, TEACHER_GRID))
    teacher.load_state_dict(state, strict=True)
    return teacher.eval().requires_grad_(False)


def read_images(path: Path) -> Tensor:
    """All images of a parquet file as uint8, shape (images, 3, 64, 64)."""
    decoded = []
    for cell in pq.read_table(path, columns=["image"])["image"].to_pylist():
        image = Image.open(io.BytesIO(cell["bytes"])).convert("RGB").resize((SOURCE_SIZE, SOURCE_SIZE))
        decoded.append(np.asarray(image))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous()


def random_view(image: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """One random crop (30 to 100 % of the area) with color jitter, at the teacher's size and at ``SOURCE_SIZE``."""
    side = SOURCE_SIZE * math.sqrt(random.uniform(0.3, 1.0))
    ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)) / 2)
    height, width = (min(SOURCE_SIZE, max(16, round(length))) for length in (side / ratio, side * ratio))
    top, left = random.integers(SOURCE_SIZE - height + 1), random.integers(SOURCE_SIZE - width + 1)
    crop = image[None, :, top : top + height, left : left + width].float() / 255
    grey = crop.mean(1, keepdim=True)
    crop = grey + (crop - grey) * random.uniform(0.4, 1.4)  # saturation
    crop = (crop - crop.mean()) * random.uniform(0.6, 1.4) + crop.mean()  # contrast
    crop = (crop * random.uniform(0.7, 1.3)).clamp(0, 1)  # brightness
    large = F.interpolate(crop, size=TEACHER_SIZE, mode="bicubic", antialias=True).clamp(0, 1)
    small = F.interpolate(crop, size=SOURCE_SIZE, mode="bicubic", antialias=True).clamp(0, 1)
    return large[0], (small[0] * 255).round().to(torch.uint8)


def write_views(arguments: argparse.Namespace) -> None:
    """Store views and targets: ``pixels`` (V, 3, 64, 64) uint8, ``tokens`` (V, 1 + 64, 192) float16, class token first."""
    random = np.random.default_rng(arguments.seed)
    teacher, images = load_teacher(arguments.teacher), read_images(arguments.images)
    arguments.out.mkdir(parents=True, exist_ok=True)
    count = len(images) * arguments.count
    pixels = np.lib.format.open_memmap(arguments.out / "pixels.npy", "w+", np.uint8, (count, 3, SOURCE_SIZE, SOURCE_SIZE))
    tokens = np.lib.format.open_memmap(arguments.out / "tokens.npy", "w+", np.float16, (count, 1 + TEACHER_GRID**2, WIDTH))
    start, batch = time.time(), 100
    for first in range(0, count, batch):
        views = [random_view(images[index % len(images)], random) for index in range(first, min(first + batch, count))]
        large = (torch.stack([view for view, _ in views]) - 0.5) / 0.5
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            features = teacher.forward_features(large)
        pixels[first : first + len(views)] = torch.stack([view for _, view in views]).numpy()
        tokens[first : first + len(views)] = features.float().numpy()
        if first % 5000 == 0:
            print(f"{first}/{count} views, {time.time() - start:.0f} s", flush=True)


def student_views(path: Path, size: int) -> Tensor:
    """All stored views at the student's size, uint8, shape (views, 3, size, size)."""
    pixels = np.load(path, mmap_mode="r")
    resized = np.empty((len(pixels), 3, size, size), np.uint8)
    for first in range(0, len(pixels), 1000):
        images = F.interpolate(
            torch.from_numpy(pixels[first : first + 1000].copy()).float(), size=size, mode="bicubic", antialias=True
        )
        resized[first : first + 1000] = images.clamp(0, 255).round().to(torch.uint8).numpy()
    return torch.from_numpy(resized)


def distillation_loss(student: Tensor, target: Tensor, scale: Tensor, teacher: VisionTransformer) -> Tensor:
    """``student`` (B, 1 + g*g, 192) against ``target`` (B, 1 + 64, 192), the teacher's features."""
    grid = math.isqrt(student.shape[1] - 1)
    patches = target[:, 1:].transpose(1, 2).unflatten(2, (TEACHER_GRID, TEACHER_GRID))
    patches = F.adaptive_avg_pool2d(patches, grid).flatten(2).transpose(1, 2)
    cls_token, goal = student[:, 0], target[:, 0]
    logits, goal_logits = teacher.head(cls_token), teacher.head(goal)
    return (
        2 * (1 - F.cosine_similarity(cls_token, goal)).mean()
        + F.smooth_l1_loss(cls_token / scale, goal / scale)
        + F.kl_div(logits.log_softmax(-1), goal_logits.log_softmax(-1), reduction="batchmean", log_target=True)
        + 0.5 * F.smooth_l1_loss(student[:, 1:] / scale, patches / scale)
    )


def start_from_teacher(student: VisionTransformer, teacher: VisionTransformer, blocks: list[int]) -> None:
    """Copy some of the teacher's blocks and all that surrounds them; patch and position embeddings are resampled."""
    state = {name: tensor for name, tensor in teacher.state_dict().items() if not name.startswith(("blocks.", "head."))}
    patch, grid = student.patch_embed.patch_size, student.patch_embed.grid_size
    state["patch_embed.proj.weight"] = timm.layers.resample_patch_embed(state["patch_embed.proj.weight"], list(patch))
    state["pos_embed"] = timm.layers.resample_abs_pos_embed(state["pos_embed"], list(grid))
    student.load_state_dict(state, strict=False)
    for block, source in zip(student.blocks, blocks, strict=True):
        block.load_state_dict(teacher.blocks[source].state_dict())


def train(arguments: argparse.Namespace) -> None:
    """Fit the student to stored views and write its weights in float16."""
    torch.manual_seed(arguments.seed)
    random = np.random.default_rng(arguments.seed)
    device = torch.device(arguments.device)
    teacher = load_teacher(arguments.teacher).to(device)
    pixels = student_views(arguments.views / "pixels.npy", arguments.size)
    tokens = np.load(arguments.views / "tokens.npy", mmap_mode="r")
    scale = torch.from_numpy(tokens[:20000, 0].astype(np.float32).std(0)).to(device)
    student = VisionTransformer(
        img_size=arguments.size, patch_size=arguments.patch, embed_dim=WIDTH, depth=len(arguments.blocks),
        num_heads=HEADS, num_classes=0,
    ).to(device)  # fmt: skip
    start_from_teacher(student, teacher, arguments.blocks)
    for block in student.blocks:
        block.attn.fused_attn = False  # short sequences: explicit attention is the faster one on a CPU
    decayed = [p for p in student.parameters() if p.ndim > 1 and p is not student.pos_embed]
    decayed_ids = {id(p) for p in decayed}
    plain = [p for p in student.parameters() if id(p) not in decayed_ids]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], lr=arguments.lr, betas=(0.9, 0.98)
    )
    batches = len(pixels) // arguments.batch
    steps = arguments.steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, arguments.lr, total_steps=steps, pct_start=0.05)
    start, order = time.time(), np.empty(0, np.int64)
    for step in range(steps):
        if step % batches == 0:
            order = random.permutation(len(pixels))
        picked = np.sort(order[(step % batches) * arguments.batch :][: arguments.batch])
        images = (pixels[picked].to(device).float() / 255 - 0.5) / 0.5
        target = torch.from_numpy(tokens[picked]).to(device).float()
        if random.random() < 0.5:
            images = images.flip(-1)
            mirrored = target[:, 1:].unflatten(1, (TEACHER_GRID, TEACHER_GRID)).flip(2).flatten(1, 2)
            target = torch.cat([target[:, :1], mirrored], 1)
        if random.random() < 0.5:
            share = random.beta(1.0, 1.0)
            partner = torch.from_numpy(random.permutation(len(picked))).to(device)
            images = share * images + (1 - share) * images[partner]
            target = share * target + (1 - share) * target[partner]
        with torch.autocast(device.type, torch.bfloat16):
            features = student.forward_features(images)
        loss = distillation_loss(features.float(), target, scale, teacher)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 500 == 0 or step == steps - 1:
            print(f"step {step}/{steps}, loss {loss.item():.4f}, {time.time() - start:.0f} s", flush=True)
            save_student(student, arguments)
    save_student(student, arguments)


def save_student(student: VisionTransformer, arguments: argparse.Namespace) -> None:
    """Write the weights so far: a long run that is interrupted leaves its last state."""
    facts = {key: value for key, value in vars(arguments).items() if key not in ("handler", "out", "views", "teacher")}
    state = {key: value.detach().half().cpu().contiguous() for key, value in student.state_dict().items()}
    save_file(state, arguments.out, metadata={"pretraining": json.dumps(facts)})


def evaluate(arguments: argparse.Namespace) -> None:
    """Print top-1 of 5-nearest-neighbours and of a linear probe on frozen features, trained and random, per parquet file."""
    facts = json.loads(safe_open(arguments.weights, "pt").metadata()["pretraining"])
    sizes = {"img_size": facts["size"], "patch_size": facts["patch"]}
    torch.manual_seed(arguments.seed)
    models = []
    for state in (load_file(arguments.weights), None):
        model = VisionTransformer(**sizes, embed_dim=WIDTH, depth=len(facts["blocks"]), num_heads=HEADS, num_classes=0)
        if state:
            model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
        models.append(model.eval())
    print("data set | kNN | kNN, random weights | linear | linear, random weights")
    for path in arguments.data:
        scores = [score for model in models for score in probe(model, path, sizes["img_size"])]
        print(f"{path.stem} | {scores[0]:.1f} | {scores[2]:.1f} | {scores[1]:.1f} | {scores[3]:.1f}", flush=True)


def probe(model: VisionTransformer, path: Path, size: int) -> tuple[float, float]:
    """Top-1 in percent on the test split: 5 nearest neighbours (cosine), logistic regression (C = 0.05) on scaled features."""
    table = pq.read_table(path)
    splits = np.array(table["split"].to_pylist())
    labels = np.array(table["label"].to_pylist())
    features = []
    for cells in (table["image"][first : first + 256].to_pylist() for first in range(0, len(table), 256)):
        images = [
            Image.open(io.BytesIO(cell["bytes"])).convert("RGB").resize((size, size), Image.Resampling.BICUBIC) for cell in cells
        ]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float()
        with torch.no_grad():
            features.append(model((pixels / 255 - 0.5) / 0.5).numpy())
    inputs = np.concatenate(features)
    train, test = splits == "train", splits == "test"
    neighbours = KNeighborsClassifier(5, metric="cosine")
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=500))
    knn, regression = (
        100 * one.fit(inputs[train], labels[train]).score(inputs[test], labels[test]) for one in (neighbours, linear)
    )
    return float(knn), float(regression)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    views = verbs.add_parser("views", help="cut views and store the teacher's features")
    views.add_argument("--images", type=Path, required=True, help="parquet file with an `image` column")
    views.add_argument("--count", type=int, default=8, help="views per image")
    views.set_defaults(handler=write_views)
    fit = verbs.add_parser("train", help="fit the student")
    fit.add_argument("--views", type=Path, required=True, help="folder written by `views`")
    fit.add_argument(
        "--blocks", type=int, nargs="+", default=[0, 2, 4, 7, 9, 11], help="the teacher's blocks to start from, counted from 0"
    )
    fit.add_argument("--steps", type=int, default=1500)
    fit.add_argument("--batch", type=int, default=128)
    fit.add_argument("--lr", type=float, default=2e-4)
    fit.add_argument("--size", type=int, default=40, help="pixels")
    fit.add_argument("--patch", type=int, default=8)
    fit.add_argument("--device", default="cpu")
    fit.set_defaults(handler=train)
    check = verbs.add_parser("evaluate", help="kNN and linear probe on real images, against random weights")
    check.add_argument("--weights", type=Path, required=True, help="file written by `train`")
    check.add_argument("--data", type=Path, nargs="+", required=True, help="parquet files with image, label and split")
    check.add_argument("--seed", type=int, default=0)
    check.set_defaults(handler=evaluate)
    for verb in (views, fit):
        verb.add_argument("--teacher", type=Path, required=True, help="safetensors file of timm's vit_tiny_patch16_224")
        verb.add_argument("--out", type=Path, required=True)
        verb.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.handler(arguments)


if __name__ == "__main__":
    main()
