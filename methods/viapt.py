"""ViaPT: prompts shared by a data set and prompts sampled for each image, carried from block to block through a PCA."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from vpbench.core.errors import UnsupportedError, UsageError
from vpbench.interface import (
    ALL_FAMILIES,
    NO_PARTS,
    Context,
    F,
    Method,
    MethodConfig,
    Part,
    Preset,
    Session,
    Tokens,
    full_precision,
    nn,
    option,
    torch,
    uniform_prompts,
)
from vpbench.methods._connections import BasisMode, BasisOptions, Connections, by_stage
from vpbench.methods._pca import Basis, seeded_normal

if TYPE_CHECKING:
    from torch import Tensor

SCAFFOLD = "first author's scaffold (6cec801e)"
FIGURE = "ViaPT paper's method figure"


class ViaPTConfig(MethodConfig):
    """Options of ViaPT. The paper leaves much open: an assumption is marked as one."""

    n_dataset: int = option(5, "prompts n_D that all images share", f"assumption; {SCAFFOLD}: 4", ge=0)
    n_instance: int = option(5, "prompts lambda that are sampled for each image", f"assumption; {SCAFFOLD}: 4", ge=0)
    pca_dim: int | None = option(
        None,
        "retained coordinates m of a prompt's output: 0 keeps nothing, the width everything; null: a sixth of the width",
        "ViaPT paper: 128 is best at width 768; the same share of other widths: assumption",
        ge=0,
    )
    pca_mode: BasisMode = option(
        "running",
        "rows of the PCA: training so far, the batch, the image, a calibration set; or a random or a learned projection instead",
        f"assumption: the paper names no rows, and m=128 rules the image out; {SCAFFOLD}: batch; random: the paper's control",
    )
    eval_basis: Literal["running", "batch"] = option(
        "running", "mode batch in evaluation; with batch a prediction depends on its neighbours", f"assumption; {SCAFFOLD}: batch"
    )
    pca_center: bool = option(True, "subtract the mean before projecting", f"definition of a PCA; {SCAFFOLD}")
    detach_basis: bool = option(
        True, "no gradient through mean and basis", f"assumption: it is unbounded at equal variances; {SCAFFOLD}: false"
    )
    pca_freeze_epoch: int | None = option(
        None,
        "epochs after which mode running keeps its basis; null: a tenth of the run, 10 of 100",
        "assumption: the end of the warm-up; a basis that still turns at the end undoes what was learned",
        ge=0,
    )
    below_rank: Literal["zeros", "error"] = option("zeros", "what to do where the rows span fewer than m coordinates", SCAFFOLD)
    calibration_images: int = option(256, "training images that define the basis of mode fixed", "assumption", ge=1, le=10**9)
    fusion: Literal["concat", "subspace"] = option(
        "concat", "retained coordinates beside the learned values, or left where they live", f"{FIGURE}; subspace: assumption"
    )
    first_fusion: Literal["none", "pca"] = option("none", "whether PCA and learned values come before block 0 too", FIGURE)
    partials: Literal["per_layer", "shared"] = option(
        "per_layer", "learned values for each block or one set for all", f"ViaPT paper: m=0 is VPT-deep; {SCAFFOLD}: shared"
    )
    order: Literal["retained_first", "learned_first"] = option(
        "retained_first", "which features the retained coordinates take", f"{SCAFFOLD}; the figure draws the learned ones on top"
    )
    gen_hidden: int = option(32, "channels of the generator", f"assumption: below VPT-deep's parameters; {SCAFFOLD}: 256", ge=1)
    gen_kernel2: int = option(3, "kernel size of its second convolution, odd", SCAFFOLD, ge=1, le=99)
    gen_per_prompt: bool = option(False, "one Gaussian for each prompt instead of one for all prompts of an image", SCAFFOLD)
    gen_input: Literal["tokens", "pixels"] = option(
        "tokens", "patch tokens with position embedding, or the pixels of each patch", f"{SCAFFOLD}; the figure draws the image"
    )
    gen_init: Literal["vpt", "torch"] = option(
        "vpt", "first deviation of the sampled prompts: that of VPT's prompts, or about 1", f"assumption; {SCAFFOLD}: torch"
    )
    prompt_init: Literal["vpt", "normal"] = option(
        "vpt", "prompts and learned values: VPT's U(-v, v), or truncated normal, 0.02", f"assumption; {SCAFFOLD}: normal"
    )
    dropout: float = option(0.0, "on what is inserted: first prompts and learned values", "KMnP/vpt's default", ge=0, lt=1)
    kl_weight: float = option(0.0, "of the Gaussian's divergence from N(0, 1) in the loss", "assumption: no source has it", ge=0)
    fresh_instance_per_layer: bool = option(
        False, "new samples in place of the image's prompts before every block", f"{FIGURE}: no"
    )
    eval_mode: Literal["fixed", "multi", "mean"] = option(
        "fixed",
        "noise in evaluation: one draw for all images, several averaged, none",
        f"{SCAFFOLD}: fixed; the paper also has rounds",
    )
    rounds: int = option(5, "draws of eval_mode multi", "ViaPT paper: R=5", ge=1)
    eval_seed: int = option(0, "seed of fixed draw and random projections; draw r has eval_seed + r", SCAFFOLD, ge=0, le=2**62)
    round_average: Literal["prob", "logit"] = option("prob", "what eval_mode multi averages", "assumption")

    @model_validator(mode="after")
    def _consistent(self) -> ViaPTConfig:
        if self.n_dataset + self.n_instance == 0:
            raise ValueError("n_dataset and n_instance are both 0: there is no prompt")
        if self.gen_kernel2 % 2 == 0:
            raise ValueError(f"gen_kernel2={self.gen_kernel2} has no centre: take an odd kernel")
        if not self.detach_basis and self.pca_mode not in ("batch", "sample"):
            raise ValueError(f"detach_basis=false needs pca_mode batch or sample: the basis of {self.pca_mode} has no gradient")
        if self.fusion == "subspace" and self.pca_mode == "learned":
            raise ValueError("fusion=subspace needs an orthonormal basis, which pca_mode=learned does not keep")
        if self.fresh_instance_per_layer and (self.n_dataset == 0 or self.first_fusion == "pca"):
            raise ValueError("fresh_instance_per_layer needs n_dataset of at least 1 and first_fusion=none")
        return self


class ViaPT(Method[ViaPTConfig]):
    """Dataset prompts P_D and sampled prompts P_I enter block 0; their outputs are carried on, reduced and refilled.

    With Y_l the prompt outputs of a block, V_l (D, m) the leading principal axes of such outputs and A_l (n, D - m)
    learned: X_1 = [P_D; P_I], X_(l+1) = [(Y_l - mean_l) V_l, A_l]. An encoder of the patch tokens gives mean and
    deviation of P_I. With m = D, X_(l+1) = Y_l; with m = 0, X_(l+1) = A_l.

    Where the token width changes on the way, prompt outputs go through the merging of patches, and Y_l is what comes out.

    Parameters: n_D D + (L-1) n (D - m) + G, n = n_D + lambda; G = (D h + h) + (9 h^2 + h) + (2 D h + 2 D) for a
    generator of h channels. A learned projection has (L-1) D m more. Of several widths, n_D D and G have the first, the other
    terms that of each block.
    """

    title = "ViaPT"
    summary = "dataset-level and sampled instance prompts, carried from block to block through a PCA"
    paper = "Xiao et al., Visual Instance-aware Prompt Tuning, ACM MM 2025"
    year = 2025
    fidelity = "paper"
    families = ALL_FAMILIES
    # It projects on the principal axes of few rows: which sign an axis has, and which way it points at equal variances, depends
    # on the last digit. Between AVX-512 and AVX2 kernels its losses differ by 0.5 % at the first step and by 26 % at the fifth;
    # images changed in their last digit move them by 19 %.
    sensitive_to_rounding = True
    requires = ("pass over training images before training (pca_mode = fixed)",)
    notes = (
        "Only parts of the paper were at hand, and no final code is released: what is open is an option marked as assumption."
        " On two sets of photos no reading of its PCA has an inner m that beats both ends: docs/viapt-basis.md.",
        "m=0 is VPT-deep and m=D is VPT-shallow exactly only without instance prompts. With them block 0 differs; m=0 with"
        " first_fusion=pca ignores the generator and is VPT-deep.",
        "Until the first training batch, and in training from a loaded state, the basis is the first m coordinates, with mean 0.",
        "Where the token width changes on the way (assumption: the paper has no such backbone), prompt outputs are carried on as"
        " the merging of patches leaves them, partials=shared means by the blocks of a stage, m is a sixth of the smallest width,"
        " or at most that, and fresh_instance_per_layer is not offered: samples have the first width.",
        "A PCA along the tokens, and a generator input without position embedding, are not offered.",
    )
    Config = ViaPTConfig
    fits_every_task = True
    presets = {
        "scaffold": Preset(
            "the values of the first author's scaffold, which calls itself no final recipe",
            {
                "n_dataset": 4, "n_instance": 4, "pca_dim": 384, "pca_mode": "batch",
                "detach_basis": False, "partials": "shared", "gen_hidden": 256, "gen_init": "torch", "prompt_init": "normal",
            },
            (
                ("prompts", "5 + 5", "4 + 4"),
                ("retained coordinates", "a sixth of the width: 128 of 768", "384 (needs a width of at least 384)"),
                ("rows of the PCA", "training so far", "the batch; in evaluation training so far, since with the batch there"
                 " (eval_basis=batch, as the scaffold) a prediction depends on its neighbours"),
                ("gradient of the basis", "none", "through a singular value decomposition in float64"),
                ("learned values", "for each block", "shared by all blocks"),
                ("generator", "32 channels, starts at VPT's prompt scale", "256 channels, starts at deviation 1"),
                ("initial prompts", "U(-v, v)", "truncated normal, deviation 0.02"),
                ("recipe", "the suite's", "learning rate 5e-4, weight decay 0.05, 50 epochs, batch 32 (optimizer not named)"),
            ),
        ),
    }  # fmt: skip

    def build(self) -> None:
        """Creates ``dataset`` (n_D, D), ``generator``, ``partials`` (connections or 1, n, D - m) and the bases.

        A connection is a place between blocks, or before block 0 with ``first_fusion=pca``, where prompts are carried on.
        Where there are several stages, each has partials and bases of its own, in ``stages``.

        Raises:
            UsageError: when ``pca_dim`` is larger than the backbone's width.
            UnsupportedError: for ``fresh_instance_per_layer`` on a backbone whose token width changes on the way.
        """
        config, width = self.config, min(stage.width for stage in self.shape.stages)
        if config.fresh_instance_per_layer and len(self.shape.stages) > 1:
            raise UnsupportedError(
                "viapt.fresh_instance_per_layer samples prompts of one width for all blocks, and this backbone has several."
            )
        self.retained = round(width / 6) if config.pca_dim is None else config.pca_dim
        if self.retained > width:
            raise UsageError(
                f"viapt.pca_dim={self.retained} is more than the backbone's width {width}; lower it to at most {width}."
            )
        if config.n_dataset:
            self.own.dataset = self._initial(config.n_dataset, self.shape.width)
        if config.n_instance:
            self._build_generator()
        self._build_connections()
        # What training changes beside tensors: plain attributes of the method, since these are what a checkpoint saves.
        self.observing = self._observes_at_first
        self.unfitted: set[int] = set(self.projecting) if config.pca_mode == "running" else set()
        self.calibrating: int | None = None

    @property
    def _observes_at_first(self) -> bool:
        if self.config.pca_mode == "running":
            return self.config.pca_freeze_epoch != 0
        return self.config.pca_mode == "batch" and self.config.eval_basis == "running"

    @property
    def needs_whole_batches(self) -> bool:
        return bool(self.projecting)  # the bases are made of the prompt outputs of a batch

    def _initial(self, *size: int) -> nn.Parameter:
        if self.config.prompt_init == "vpt":
            return uniform_prompts(self.shape, *size)
        return nn.Parameter(nn.init.trunc_normal_(torch.empty(*size), std=0.02))

    def _build_generator(self) -> None:
        config, shape, width = self.config, self.shape, self.shape.width
        inputs = width if config.gen_input == "tokens" else shape.channels * shape.patch_size**2
        gaussians = config.n_instance if config.gen_per_prompt else 1
        last = nn.Linear(config.gen_hidden, 2 * gaussians * width)
        if config.gen_init == "vpt":
            nn.init.normal_(last.weight, std=0.02)
            nn.init.zeros_(last.bias)
            nn.init.constant_(last.bias[gaussians * width :], math.log(shape.prompt_bound / math.sqrt(3)))
        self.own.generator = nn.Sequential(
            nn.Conv2d(inputs, config.gen_hidden, 1),
            nn.GELU(),
            nn.Conv2d(config.gen_hidden, config.gen_hidden, config.gen_kernel2, padding=config.gen_kernel2 // 2),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            last,
        )
        # Drawn on the CPU once, so that a prediction depends neither on the device nor on the order of images.
        rounds = config.rounds if config.eval_mode == "multi" else 1
        layers = shape.depth if config.fresh_instance_per_layer else 1
        draws = [seeded_normal(config.eval_seed + r, layers, config.n_instance, width) for r in range(rounds)]
        self.own.register_buffer("noise", torch.stack(draws))

    def _build_connections(self) -> None:
        """Where prompts are carried on, with the learned values and the bases that are needed there."""
        config = self.config
        self.first_connection = 0 if config.first_fusion == "pca" else 1
        self.carried = config.n_dataset + (0 if config.fresh_instance_per_layer else config.n_instance)
        self.connections = by_stage(self.own, self.shape.stages, self.first_connection, self._basis_options)
        for each in self.connections:
            if self.retained < each.width and (each.indices or len(self.connections) == 1):
                sets = 1 if config.partials == "shared" else len(each.indices)
                each.module.partials = self._initial(sets, self.carried, each.width - self.retained)
            each.build_bases()
        self.projecting = [index for each in self.connections if each.projects for index in each.indices]

    @property
    def _basis_options(self) -> BasisOptions:
        return BasisOptions(
            m=self.retained,
            mode=self.config.pca_mode,
            batch_in_evaluation=self.config.eval_basis == "batch",
            detached=self.config.detach_basis,
            with_complement=self.config.fusion == "subspace",
            needs_rank=self.config.below_rank == "error",
            seed=self.config.eval_seed + 1000,  # apart from the seeds of the evaluation noise
        )

    def _connections_of(self, index: int) -> Connections:
        return next(each for each in self.connections if index in each.indices)

    def prepare(self, session: Session) -> None:
        """Mode fixed: defines the bases from prompt outputs on training images, one connection after the other."""
        if self.config.pca_mode != "fixed":
            return
        for index in self.projecting:
            self.calibrating, seen = index, 0
            for images, _ in session.training_batches():
                with torch.no_grad():
                    session.logits(images[: self.config.calibration_images - seen])
                seen += len(images)
                if seen >= self.config.calibration_images:
                    break
            self._connections_of(index).refresh(index)
        self.calibrating = None

    def epoch_ended(self, epoch: int, epochs: int) -> None:
        """Makes the epoch's statistics the new bases; mode running keeps these from ``pca_freeze_epoch`` on."""
        if not self.projecting or not self.observing:
            return
        for index in self.projecting:
            self._connections_of(index).refresh(index)
        freeze = math.ceil(epochs / 10) if self.config.pca_freeze_epoch is None else self.config.pca_freeze_epoch
        self.observing = self.config.pca_mode == "batch" or epoch + 1 < freeze

    def before_block(self, block: int, tokens: Tokens, context: Context) -> Tokens:
        """Block 0: inserts [P_D; P_I]. Later: replaces the prompt outputs by what is carried on of them."""
        if block == 0:
            tokens = tokens.with_prompts(self._dropped(self._first_prompts(tokens, context), context))
        fresh = self.config.fresh_instance_per_layer and self.config.n_instance > 0
        if block < self.first_connection or (self.retained == self.shape.width_of(block) and not fresh):
            return tokens
        prompts = self._carried_on(block - self.first_connection, tokens.prompt_tokens[:, : self.carried], context)
        return tokens.with_prompts(torch.cat([prompts, self._sampled(block, context)], dim=1) if fresh else prompts)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """Prompts, where some of them is carried on to the next block."""
        return frozenset({"prompts"}) if self.retained > 0 and block < self.shape.depth - 1 else NO_PARTS

    def predict(self, once: Callable[..., Tensor], images: Tensor) -> Tensor:
        """One forward pass; in evaluation with ``eval_mode=multi`` the average over rounds, as logarithms of probabilities."""
        config = self.config
        if config.eval_mode != "multi" or config.rounds == 1 or config.n_instance == 0 or self.own.training:
            return once(images)
        logits = torch.stack([_at_least_float32(once(images, round=r)) for r in range(config.rounds)])
        if config.round_average == "logit":
            return logits.mean(0)
        return logits.log_softmax(2).logsumexp(0) - math.log(config.rounds)

    def loss(self, logits: Tensor, targets: Tensor, context: Context) -> Tensor:
        """Cross-entropy, plus ``kl_weight`` times the divergence from N(0, 1): summed over features, mean over Gaussians."""
        value = super().loss(logits, targets, context)
        if self.config.kl_weight == 0 or "gaussian" not in context.stash:
            return value
        mean, log_sigma = context.stash["gaussian"]
        divergence: Tensor = 0.5 * (mean.square() + (2 * log_sigma).exp() - 1 - 2 * log_sigma).sum(-1).mean()
        return value + self.config.kl_weight * divergence

    def gaussian(self, tokens: Tokens, context: Context) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the deviation of the image's prompts, each (B, 1 or lambda, D), float32 or wider."""
        shape = self.shape
        if self.config.gen_input == "tokens":
            maps = tokens.patch_tokens.transpose(1, 2).reshape(-1, shape.width, shape.grid, shape.grid)
        else:
            side = shape.grid * shape.patch_size
            maps = F.pixel_unshuffle(context.images[..., :side, :side], shape.patch_size)
        mean, log_sigma = _at_least_float32(self.own.generator(maps)).reshape(maps.shape[0], 2, -1, shape.width).unbind(1)
        return mean, log_sigma.clamp(-5, 2)

    def _first_prompts(self, tokens: Tokens, context: Context) -> Tensor:
        """[P_D; P_I], (B, n, D); a test may put its own P_I into the stash as ``instance_prompts``."""
        parts = [self.own.dataset.expand(tokens.batch_size, -1, -1)] if self.config.n_dataset else []
        if "instance_prompts" in context.stash:
            parts.append(context.stash["instance_prompts"])
        elif self.config.n_instance:
            context.stash["gaussian"] = self.gaussian(tokens, context)
            parts.append(self._sampled(0, context))
        return torch.cat(parts, dim=1)

    def _sampled(self, block: int, context: Context) -> Tensor:
        """P_I = mean + deviation * noise, (B, lambda, D): new noise for every image in training, fixed noise otherwise."""
        mean: Tensor
        log_sigma: Tensor
        mean, log_sigma = context.stash["gaussian"]
        if context.training:
            noise = torch.randn(len(mean), self.config.n_instance, self.shape.width, device=mean.device, dtype=mean.dtype)
        else:
            noise = self.own.noise[context.stash.get("round", 0), block]
        if self.config.eval_mode == "mean" and not context.training:
            noise = torch.zeros_like(noise)
        return mean + log_sigma.exp() * noise

    def _carried_on(self, index: int, outputs: Tensor, context: Context) -> Tensor:
        """What the next block gets of prompt outputs (B, n, D): their m coordinates and the learned values, (B, n, D)."""
        config, connections = self.config, self._connections_of(index)
        if self.retained == connections.width:
            return outputs
        learned = self._dropped(connections.learned(index).expand(outputs.shape[0], -1, -1), context)
        if self.retained == 0:
            return learned
        with full_precision(outputs):
            outputs = _at_least_float32(outputs)
            learned = learned.to(outputs.dtype)
            basis = self._basis(index, outputs, context)
            if basis.rest is not None:
                return outputs @ basis.axes @ basis.axes.mT + learned @ basis.rest.mT
            scores = (outputs - basis.mean if config.pca_center else outputs) @ basis.axes
        return torch.cat([scores, learned] if config.order == "retained_first" else [learned, scores], dim=-1)

    def _dropped(self, x: Tensor, context: Context) -> Tensor:
        return F.dropout(x, self.config.dropout) if context.training and self.config.dropout else x

    def _basis(self, index: int, outputs: Tensor, context: Context) -> Basis:
        """The basis for these outputs (B, n, D); in training, modes running and batch also add them to their statistics."""
        connections = self._connections_of(index)
        if (context.training and self.observing) or self.calibrating == index:
            connections.observe(index, outputs)
        is_first = context.training and index in self.unfitted
        if is_first:
            self.unfitted.remove(index)
        return connections.basis(index, outputs, context.training, is_first)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
