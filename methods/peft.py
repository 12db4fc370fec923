"""Any tuner of the library peft as a method, by its adapter_config.json: LoRA, DoRA, AdaLoRA, IA3, VeRA, OFT and others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, JsonValue

from vpbench.core.errors import UsageError
from vpbench.core.user_folders import user_path
from vpbench.interface import (
    ALL_FAMILIES,
    NO_PARTS,
    Context,
    Method,
    MethodConfig,
    Part,
    PeftAdapter,
    Preset,
    Scope,
    nn,
    option,
    torch,
)

if TYPE_CHECKING:
    from torch import Tensor

FILE = "adapter_config.json"
# What a file says beside the configuration: of the model that it was saved with, and of the library.
BESIDE = ("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type")
SETS = ("target_modules", "exclude_modules", "feedforward_modules", "modules_to_save")  # peft saves them in any order
HEADS = ("head", "head.fc", "fc", "classifier")  # what timm calls a classifier; vpbench trains its own
QKV: dict[str, JsonValue] = {"target_modules": ["qkv"]}


def _content(value: Any) -> Any:
    """The content of a configuration, or of the file that has it, as far as it says what is computed."""
    if isinstance(value, str):
        path = user_path(value)
        path = path / FILE if path.is_dir() else path
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            raise ValueError(f"{path} is no JSON file: {error}") from error
    if not isinstance(value, dict) or not isinstance(value.get("peft_type"), str):
        raise ValueError(f"peft's {FILE} is a mapping with a 'peft_type', as \"LORA\"")
    content = {name: each for name, each in value.items() if name not in BESIDE}
    content["peft_type"] = content["peft_type"].upper()
    if isinstance(saved := content.get("modules_to_save"), list):
        content["modules_to_save"] = [name for name in saved if name not in HEADS] or None
    if content.get("modules_to_save") is None:
        content.pop("modules_to_save", None)
    for name in SETS:
        if isinstance(names := content.get(name), list) and all(isinstance(each, str) for each in names):
            content[name] = sorted(names)
    return content


class PeftOptions(MethodConfig):
    """Options of peft."""

    config: Annotated[dict[str, JsonValue], BeforeValidator(_content)] = option(
        {"peft_type": "LORA", "r": 8, "lora_alpha": 8, **QKV},
        "path of an adapter_config.json, or of the folder with it, or its content; the content is what counts",
        "peft's defaults for what it leaves out; left out itself: NOAH's LoRA",
    )


def _preset(title: str, kind: str, changes: str, **config: JsonValue) -> Preset:
    return Preset(title, {"config": {"peft_type": kind, **QKV, **config}}, (("config", "LoRA, r = alpha = 8, on qkv", changes),))


class Peft(Method[PeftOptions]):
    """timm's model with a tuner of peft's inside; target modules are matched with timm's names by peft's own rules.

    Parameters: as peft counts them, without the head, which vpbench adds; on ViT-B/16 294,912 with LoRA at r = 8 on qkv, 322,560
    with DoRA, 64,512 with IA3 on qkv and fc2, 30,720 with VeRA at r = 256, 36,864 with LN tuning.
    """

    title = "peft"
    summary = "any tuner of the library peft, by its adapter_config.json"
    paper = "Mangrulkar et al., PEFT: State-of-the-art Parameter-Efficient Fine-Tuning methods, github.com/huggingface/peft, 2022"
    year = 2022
    group = "extra"
    fidelity = "released-code"
    families = ALL_FAMILIES
    extra = "peft"
    requires = ("library peft",)
    notes = (
        "A classifier in modules_to_save is left out: vpbench trains its own head.",
        "AdaLoRA's total_step is the number of steps of the run where the configuration leaves it out.",
        "FourierFT and C3A start near the frozen model and not at it.",
        "Initial values that need training images (EVA, CorDA, LoRA-GA) are refused.",
    )
    Config = PeftOptions
    fits_every_task = True
    presets = {
        "dora": _preset("DoRA (2024)", "LORA", "and a trained magnitude per output", r=8, lora_alpha=8, use_dora=True),
        "adalora": _preset(
            "AdaLoRA (2023)", "ADALORA", "singular values and vectors, ranks of 12 cut to 8 on average", init_r=12, target_r=8
        ),
        "ia3": _preset(
            "IA3 (2022)", "IA3", "a factor per channel of qkv's output and of fc2's input",
            target_modules=["fc2", "qkv"], feedforward_modules=["fc2"],
        ),
        "vera": _preset("VeRA (2024)", "VERA", "frozen random factors of rank 256, two trained vectors", r=256),
        "loha": _preset("LoHa (2022)", "LOHA", "a Hadamard product of two updates", r=8),
        "lokr": _preset("LoKr (2023)", "LOKR", "a Kronecker product", r=8),
        "oft": _preset("OFT (2023)", "OFT", "orthogonal blocks of 32 channels", oft_block_size=32),
        "boft": _preset("BOFT (2024)", "BOFT", "orthogonal butterfly factors, blocks of 8", boft_block_size=8),
        "fourierft": _preset(
            "FourierFT (2024)", "FOURIERFT", "1,000 spectral coefficients, scaling 150", n_frequency=1000, scaling=150
        ),
        "hra": _preset("HRA (2024)", "HRA", "a chain of 8 Householder reflections", r=8),
        "ln_tuning": _preset("LN tuning (2023)", "LN_TUNING", "norm1 and norm2 alone", target_modules=["norm1", "norm2"]),
    }  # fmt: skip

    def build(self) -> None:
        """Nothing yet: peft creates its layers when it is applied to the model, see :meth:`attach`."""
        from vpbench.methods._peft_layers import Adapters

        self.own = Adapters()
        self.rank_pattern: dict[str, Any] | None = None

    def attach(self, scope: Scope) -> None:
        """Lets peft replace the target modules.

        Raises:
            UsageError: when peft cannot apply the configuration, with peft's reason.
            UnsupportedError: when the backbone never calls a target module.
        """
        from vpbench.methods._peft_layers import UNKNOWN_STEPS, RankBudget, adapted, adapted_on_meta, check_called

        config: dict[str, Any] = dict(self.config.config)
        if config["peft_type"] == "ADALORA" and config.get("total_step") is None:
            config["total_step"] = UNKNOWN_STEPS
        on_meta = all(each.is_meta for each in scope.parameters().values())
        try:
            self._peft = scope.rewrite(lambda model: adapted(config, self.own, model))
        except UsageError:
            if not on_meta:
                raise
            self._peft = scope.rewrite(lambda model: adapted_on_meta(config, self.own, model))
        if on_meta:
            images = torch.empty(1, self.shape.channels, self.shape.image_size, self.shape.image_size, device="meta")
            check_called(self._peft.get_base_model(), self.own, images)
        self._budget = RankBudget(self._peft, self.own) if config["peft_type"] == "ADALORA" else None

    def reinitialise(self, scope: Scope) -> None:
        """Takes peft's layers out and lets it create new ones."""
        scope.take_back()
        self.attach(scope)

    def outputs_used(self, block: int) -> frozenset[Part]:
        """None."""
        return NO_PARTS

    def loss(self, logits: Tensor, targets: Tensor, context: Context) -> Tensor:
        """Cross-entropy; with AdaLoRA, and its penalty of factors that are not orthogonal."""
        loss = super().loss(logits, targets, context)
        return loss if self._budget is None else loss + self._budget.penalty()

    def step_ended(self, step: int, steps: int) -> None:
        """AdaLoRA's allocation of ranks."""
        if self._budget is not None:
            self.rank_pattern = self._budget.step_ended(step, steps, self.rank_pattern)

    def merge(self, scope: Scope) -> None:
        """As peft merges, into copies of the frozen weights."""
        from vpbench.methods._peft_layers import give_own_memory

        def merged(model: nn.Module) -> None:
            give_own_memory(model)
            self._peft.merge_and_unload()

        scope.rewrite(merged)

    def to_peft(self, scope: Scope) -> PeftAdapter:
        """peft's own tensors and its complete configuration."""
        from vpbench.methods._peft_layers import saved

        return saved(self._peft)

    def load_peft(self, adapter: PeftAdapter, scope: Scope) -> None:
        """Through peft.

        Raises:
            UsageError: when tensors are missing, surplus, or of another shape.
        """
        from vpbench.methods._peft_layers import load_values

        load_values(self._peft, adapter)
