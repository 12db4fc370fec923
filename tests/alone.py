"""Exported models in a process that cannot import vpbench, and a backbone that is exported quickly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

CARD = """
title = "ViT of two blocks"
url = "https://example.org/none.pth"
md5 = "000000"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
parameters = 934464
pretraining = "none: for random weights"
licence = "Apache-2.0"
source = "none"

[vit]
img_size = 40
patch_size = 8
embed_dim = 192
depth = 2
num_heads = 3
"""


def write_card(folder: Path) -> Path:
    """The card of the backbone ``two-blocks``, in a folder for ``VPBENCH_PATH``; its weights are ``random``."""
    (folder / "backbones").mkdir(parents=True)
    (folder / "backbones" / "two-blocks.toml").write_text(CARD)
    return folder


# Loads each export by torch, timm and ONNX Runtime, in a process that cannot import vpbench.
ALONE = """
import json, sys
from pathlib import Path

class Refused:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("vpbench", "methods"):
            raise ImportError(f"{name} is not to be imported")

sys.meta_path.insert(0, Refused())
import torch
from safetensors.torch import load_file, save_file

images, found = load_file(sys.argv[1])["images"], {}
for place in map(Path, sys.argv[3:]):
    with torch.no_grad():
        if (place / "model.onnx").exists():
            import onnxruntime
            session = onnxruntime.InferenceSession(place / "model.onnx")
            found[place.name] = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
        elif (place / "model.pt2").exists():
            found[place.name] = torch.export.load(place / "model.pt2").module()(images)
        else:
            import timm
            found[place.name] = timm.create_model(f"local-dir:{place}", pretrained=True).eval()(images)
save_file(found, sys.argv[2])
"""


def alone(images: torch.Tensor, folder: Path, *places: Path) -> dict[str, torch.Tensor]:
    """Logits of exported models in a process without vpbench."""
    save_file({"images": images}, folder / "images.safetensors")
    words = [sys.executable, "-c", ALONE, folder / "images.safetensors", folder / "logits.safetensors", *places]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "logits.safetensors")
