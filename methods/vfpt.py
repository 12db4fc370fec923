"""VFPT: deep prompts, some of which are Fourier transforms of what is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vpbench.interface import ALL_FAMILIES, Preset, Scope, option, torch
from vpbench.methods._token_prompts import TokenPrompts, TokenPromptsConfig

if TYPE_CHECKING:
    from torch import Tensor

_CODE = "runtsang/VFPT src/models/vit_prompt/vit_fourier.py"


class VFPTConfig(TokenPromptsConfig):
    """Options of VFPT."""

    fraction: float = option(
        0.5,
        "share of a block's prompts that are transformed: the first floor(fraction N)",
        f"{_CODE}: 0.5 where none is given; per task in a table that is not part of the repository",
        ge=0,
        le=1,
    )
    dimension: Literal["all", "sequence", "hidden"] = option(
        "all",
        "of the transform: over the channels and over the transformed prompts, over these prompts alone, or over channels alone",
        f"VFPT paper, section 3.2; {_CODE}",
    )


class VFPT(TokenPrompts[VFPTConfig]):
    """VPT in which the first m = floor(fraction N) prompts of a block are Re(FFT(p)), unnormalised, of learned p (m, D).

    Dropout acts in front of the transform. The transform is linear: for inference it is computed once, which leaves VPT.

    Parameters: L N D, as VPT-deep; 92,160 on ViT-B/16 at N = 10.
    """

    title = "VFPT"
    summary = "deep prompts, some of them Fourier-transformed"
    paper = "Zeng et al., Visual Fourier Prompt Tuning, NeurIPS 2024"
    year = 2024
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "Half of every Fourier prompt has no effect: the real part of the transform of a real m x D matrix is symmetric, so that"
        " the map has rank (m D + f) / 2, f = 2 or 4 (121 of 240 measured). Parameters count the inert half, as in the paper.",
        "The method is VPT-deep under a fixed linear map, which also makes Fourier prompts about sqrt(m D / 2) times as large at"
        " the start: 63 times at m = 10 on ViT-B/16.",
        "With dimension=all and a single transformed prompt, the transform over prompts is the identity.",
        "The released option for the place of the Fourier prompts among the others (prepend, append) never changes the output; it"
        " is left out, as are its ablations with switches that are fixed at layer 6, and one that draws new Fourier prompts in"
        " every forward pass, evaluation too.",
        "The released shallow form transforms only with FOURIER_FIRST_LAYER; here always.",
        "N and fraction per task are in a spreadsheet outside the repository; the paper's 0.57 % on VTAB-1k means N = 49.",
        "The options start and dropout are VPT's; the released projection of prompts from another width is left out.",
        "The released runs choose learning rate and weight decay on 200 validation images and report the last epoch.",
    )
    Config = VFPTConfig
    presets = {
        "shallow": Preset(
            "prompts before the first block only, no dropout",
            {"deep": False, "dropout": 0.0},
            (
                ("prompts", "new ones before every block", "before block 0, their outputs travel on"),
                ("prompt dropout", "0.1", "0"),
            ),
        ),
        "released": Preset(
            "the released head",
            {"head_init": "vpt"},
            (("head", "PyTorch's initial values", "Kaiming-normal (fan-out), bias -4.595"),),
        ),
    }

    def transformed(self, prompts: Tensor) -> Tensor:
        """Prompts (..., N, D), the first m of them through the transform."""
        count = int(self.config.fraction * prompts.shape[-2])
        if count == 0:
            return prompts
        dims = {"all": (-2, -1), "sequence": (-2,), "hidden": (-1,)}[self.config.dimension]
        spectrum = torch.fft.fftn(prompts[..., :count, :], dim=dims).real
        return torch.cat([spectrum, prompts[..., count:, :]], dim=-2)

    def merge(self, scope: Scope) -> None:
        """Transforms the prompts once."""
        self.merge_prompts()
