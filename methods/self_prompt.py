"""Self-prompt tuning: VPT whose prompts start as patch tokens of training images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vpbench.core.errors import UsageError
from vpbench.interface import ALL_FAMILIES, Preset, Scope, Session, option, torch
from vpbench.methods._token_prompts import TokenPrompts, TokenPromptsConfig, sampled_images

if TYPE_CHECKING:
    from torch import Tensor

_CODE = "WangYZ1608/Self-Prompt-Tuning"


class SelfPromptConfig(TokenPromptsConfig):
    """Options of self-prompt tuning."""

    prompt_length: int = option(20, "prompt tokens N per block", f"{_CODE} README.md: 20 deep, 100 shallow", ge=1)
    dropout: float = option(0.0, "on the prompts, element by element, sampled for every image", f"{_CODE}: none", ge=0, lt=1)
    sample: Literal["random", "mean_pooling", "max_pooling", "kmeans"] = option(
        "random",
        "prompts are tokens of the images; or of the tokens that N windows of every image were pooled to; or centres of clusters",
        f"{_CODE} train.py prompt_generator; kmeans: assumption, scikit-learn's, since the released files of centres are missing",
    )
    images: int = option(
        64,
        "training images whose tokens there are to choose from",
        f"assumption; {_CODE}: one in the script of MoCo v3, as many as there are training images in the others",
        ge=1,
        le=10**9,
    )


class SelfPrompt(TokenPrompts[SelfPromptConfig]):
    """VPT whose prompts before block l start as N patch tokens, out of those that enter block l of the frozen, unprompted model.

    Before block 0 they are outputs of the patch embedding, without position embeddings. The images are training images without
    augmentation; labels are not used. Each block draws by itself, without replacement. Then every prompt is trained as in VPT.

    Parameters: N D (shallow) or L N D (deep); 184,320 on ViT-B/16 at N = 20, shallow 76,800 at N = 100.
    """

    title = "Self-prompt tuning"
    summary = "VPT whose prompts start as patch tokens of training images"
    paper = "Wang et al., Revisiting the Power of Prompt for Visual Tuning, ICML 2024 (SPT there)"
    year = 2024
    fidelity = "released-code"
    families = ALL_FAMILIES
    notes = (
        "The paper calls it SPT, as another method here is called.",
        "The released code draws images with replacement, with the augmentation of training; here without either.",
        "How many images: its script for MoCo v3 takes one, those for MAE and supervised models all of them in one batch on the"
        " CPU (43 GB of tokens for 6,000 images). 64 is an assumption.",
        "The released shallow code ignores the choice between the ways to sample; here it counts.",
        "Pooled windows: where the patches are a multiple of the window w = floor(M / (N - 1)), as for N = 50 or 100 of 196, the"
        " released slice of the remainder is empty and takes all tokens; so it is here.",
        "On MAE the released code norms the mean over prompts and patches, as the backbone vit-b16-mae-released; its moving"
        " average of weights (0.9999) is never evaluated, and the best epoch is taken on the test images.",
        "Settings per task are in scripts that are not in the repository; two commands of its README are public.",
    )
    requires = ("pass over training images before training",)
    Config = SelfPromptConfig
    presets = {
        "shallow": Preset(
            "prompts before the first block only",
            {"deep": False, "prompt_length": 100},
            (("prompts", "20 before every block", "100 before block 0, their outputs travel on"),),
        ),
        "one-image": Preset(
            "tokens of a single training image, as the released script of MoCo v3",
            {"images": 1},
            (("images to choose from", "64", "1, with the augmentation of training in the released code"),),
        ),
    }

    def build(self) -> None:
        """Creates ``prompts`` (1 or L - start, N, D) as VPT does, until :meth:`prepare` chooses tokens.

        Raises:
            UsageError: when the backbone has no block ``start``, or fewer patches than windows.
        """
        self.check_start()
        length = self.config.prompt_length
        patches = min(self.shape.stage_of(block).patches for block in self.prompt_blocks)
        if self.config.sample.endswith("pooling") and not 2 <= length <= patches + 1:
            raise UsageError(
                f"self_prompt.prompt_length={length}: {patches} patches can be pooled to 2 to {patches + 1} tokens; set another,"
                " or sample=random."
            )
        super().build()

    def attach(self, scope: Scope) -> None:
        """Keeps the patch embedding, whose outputs have no position embeddings."""
        self._patch_embed = scope.module("patch_embed")

    def prepare(self, session: Session) -> None:
        """Chooses the initial prompts."""
        images = sampled_images(session, self.config.images)

        def choose(block: int, tokens: Tensor) -> None:
            if block in self.prompt_blocks:
                patches = self._patch_embed(images).flatten(1, -2) if block == 0 else tokens
                self.prompts_of(block).copy_(self._chosen(block, patches))

        with self.observing(choose):
            session.logits(images)

    def _chosen(self, block: int, patches: Tensor) -> Tensor:
        """N tokens (N, D) out of the patch tokens of all images (S, M, D).

        Raises:
            UsageError: when there are fewer.
        """
        length, pool = self.config.prompt_length, self._pool(patches)
        if len(pool) < length:
            raise UsageError(
                f"self_prompt.prompt_length={length}: {len(patches)} images have {len(pool)} tokens; raise self_prompt.images."
            )
        if self.config.sample == "kmeans":
            return _centres(pool, length)
        return pool[self._noise(block, len(pool)).argsort()[:length].to(pool.device)]

    def _noise(self, block: int, count: int) -> Tensor:
        """One value per token; those with the least are chosen, in ascending order."""
        return torch.rand(count)

    def _pool(self, patches: Tensor) -> Tensor:
        """Tokens to choose from: all of them, image by image; or pooled ones, window by window."""
        if not self.config.sample.endswith("pooling"):
            return patches.flatten(0, 1)
        windows, count = self.config.prompt_length - 1, patches.shape[1]
        size = count // windows
        parts = [patches[:, index * size : (index + 1) * size] for index in range(windows)]
        parts.append(patches[:, -(count % size) :])  # all tokens where nothing is left over, as released
        pooled = [part.mean(1) if self.config.sample == "mean_pooling" else part.amax(1) for part in parts]
        return torch.cat(pooled)


def _centres(pool: Tensor, count: int) -> Tensor:
    """Centres of clusters of tokens, (count, D)."""
    from sklearn.cluster import KMeans

    seed = int(torch.randint(2**31, ()))
    found = KMeans(count, n_init=10, random_state=seed).fit(pool.float().cpu().numpy())
    return torch.from_numpy(found.cluster_centers_).to(pool)
