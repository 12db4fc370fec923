"""What a method may change inside a frozen backbone: explicit, checked and undone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, get_args

from vpbench.core.errors import UnsupportedError
from vpbench.interface.attention_rows import ClassAttention, ReceivedAttention
from vpbench.interface.lazy import F, torch
from vpbench.interface.rewriting import Rewriting
from vpbench.interface.shape import BackboneShape
from vpbench.interface.site_edits import Affine as Affine
from vpbench.interface.site_edits import Edit as Edit

if TYPE_CHECKING:
    from torch import Tensor, nn

Site = Literal[
    "patch_embed", "norm1", "qkv", "proj", "attention", "attention_branch", "norm2", "fc1", "fc2", "mlp", "mlp_branch", "norm"
]
"""A place in a vision transformer, see :meth:`Scope.after`."""
SITES: tuple[str, ...] = get_args(Site)
OUTSIDE_BLOCKS = frozenset({"patch_embed", "norm"})
After = Callable[..., "Tensor"]  # (x, y) -> y
Before = Callable[..., "Tensor"]  # x -> x
T = TypeVar("T")


class Removable(Protocol):
    """What can be taken back, as torch's ``RemovableHandle``."""

    def remove(self) -> None: ...


class BackboneHooks(Protocol):
    """What the adapter of a backbone family implements; a method reaches it through :class:`Scope`."""

    shape: BackboneShape

    @property
    def timm_model(self) -> nn.Module: ...

    def add_edit(self, scope: Scope, site: Site, block: int | None, edit: Edit) -> Removable: ...

    def site_module(self, site: Site, block: int | None) -> nn.Module: ...

    def affine(self, site: Site, block: int | None) -> list[Affine]: ...

    def positions(self) -> tuple[Any, str]: ...

    def site_parameters(self, site: Site | None, block: int | None) -> Iterator[tuple[str, nn.Parameter]]: ...

    def prompt_keys_values(self, scope: Scope, block: int, provide: Callable[[], tuple[Tensor, Tensor]]) -> None: ...

    def edit_queries(self, scope: Scope, block: int, fn: Before) -> None: ...

    def watch_class_attention(self, scope: Scope) -> ClassAttention: ...

    def watch_received_attention(self, scope: Scope) -> ReceivedAttention: ...

    def prompts_at_next_stage(self, block: int, prompts: Tensor) -> Tensor: ...


class Scope:
    """What one method changes on one backbone. Everything goes through this object, and :meth:`undo` takes it back.

    ======================================= =================================== ==============================================
    site                                    x                                   y
    ======================================= =================================== ==============================================
    ``patch_embed``                         normalised images                   patch tokens without position embeddings
    ``norm1``, ``norm2``, ``norm``          tokens                              normed tokens (``norm``: the last one)
    ``qkv``, ``proj``, ``fc1``, ``fc2``     input of the linear layer           its output
    ``attention``, ``mlp``                  normed tokens                       output of the module
    ``attention_branch``, ``mlp_branch``    the residual stream                 what is added to it, after layer scale
    ======================================= =================================== ==============================================

    Blocks are counted from 0 to L-1; ``patch_embed`` and ``norm`` have none.
    """

    def __init__(self, hooks: BackboneHooks) -> None:
        self._hooks = hooks
        self._replaced: list[tuple[nn.Module, str, nn.Module]] = []
        self._handles: list[Removable] = []
        self._edits: dict[tuple[Site, int | None], list[Removable]] = {}
        self._trained: dict[str, nn.Parameter] = {}
        self._before_training: dict[str, Tensor] = {}
        self._folded: list[tuple[Any, str, Any]] = []
        self._rewritings: list[Rewriting] = []
        self._changed: dict[str, None] = {}
        self.enabled = True

    # Editing activations

    def after(self, site: Site, fn: After, block: int | None = None, *, tokenwise: bool = False) -> None:
        """Replace the output of a site: y becomes ``fn(x, y)``, with gradient.

        Args:
            site: see the table above.
            fn: gets what goes into the site and what comes out of it, each (B, T, width), all tokens in the order
                ``[prefix | prompts | patches]``; gives the new output, of the same shape.
            block: 0 to L-1; None for ``patch_embed`` and ``norm``.
            tokenwise: ``fn`` maps each token by itself, so that it may be called with some of the tokens: in the last block,
                say, with the class token alone, where the classifier reads no other.

        Raises:
            UnsupportedError: when the backbone has no such site.
        """
        self._edit(site, block, Edit(self._switched(fn, keep=1), before=False, tokenwise=tokenwise))

    def before(self, site: Site, fn: Before, block: int | None = None, *, tokenwise: bool = False) -> None:
        """Replace the input of a site: x becomes ``fn(x)``, with gradient. Arguments and errors as for :meth:`after`."""
        self._edit(site, block, Edit(self._switched(fn, keep=0), before=True, tokenwise=tokenwise))

    def _edit(self, site: Site, block: int | None, edit: Edit) -> None:
        handle = self._hooks.add_edit(self, site, block, edit)
        self._changed[site] = None
        self._edits.setdefault((site, block), []).append(handle)
        self._handles.append(handle)

    def _switched(self, fn: Callable[..., Any], keep: int) -> Callable[..., Any]:
        """``fn`` while the scope is enabled, else its argument number ``keep``."""
        return lambda *tensors: fn(*tensors) if self.enabled else tensors[keep]

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """In the block, edits of activations have no effect: the backbone is the plain one."""
        before, self.enabled = self.enabled, False
        self._swap_rewritings()
        try:
            yield
        finally:
            self.enabled = before
            self._swap_rewritings()

    def _swap_rewritings(self) -> None:
        for rewriting in self._rewritings[::-1]:
            rewriting.swap()
        self._rewritings.reverse()

    @property
    def changed(self) -> list[str]:
        """Sites whose activations are edited, and parts of attention, in order; what is trained is not among them."""
        return sorted(self._changed, key=lambda part: SITES.index(part) if part in SITES else len(SITES))

    # Frozen parts and parameters

    def module(self, site: Site, block: int | None = None) -> nn.Module:
        """The frozen module of a site, to call on a method's own tokens. Never change it; see :meth:`fold`.

        Raises:
            UnsupportedError: when no single module of the backbone stands for the site.
        """
        return self._hooks.site_module(site, block)

    def parameters(self, site: Site | None = None, block: int | None = None) -> dict[str, nn.Parameter]:
        """Parameters of the backbone by timm's names.

        Args:
            site: only those of a site; None for all.
            block: only those of a block; None for all blocks and what lies outside of them.
        """
        return dict(self._hooks.site_parameters(site, block))

    def train(self, parameters: dict[str, nn.Parameter]) -> None:
        """Let the method train parameters of the backbone itself, given by name as :meth:`parameters` returns them."""
        for name, parameter in parameters.items():
            if name not in self._trained:
                self._before_training[name] = parameter.detach().clone()
                parameter.requires_grad_(True)
                self._trained[name] = parameter

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """What :meth:`train` was given, by timm's names."""
        return dict(self._trained)

    def reset_trained(self) -> None:
        """Give trained parameters the values of pretraining."""
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(self._before_training[name])

    def rewrite(self, change: Callable[[nn.Module], T]) -> T:
        """Call a function of another library that replaces modules of timm's model, as peft's tuners do.

        See :class:`vpbench.interface.rewriting.Rewriting` for what it may do. Parameters of the backbone that it leaves trainable
        are trained, as by :meth:`train`.
        """
        model = self._hooks.timm_model
        frozen = {name: parameter for name, parameter in self.parameters().items() if not parameter.requires_grad}
        rewriting = Rewriting(model)
        try:
            found = change(model)
        except Exception:
            rewriting.finish()
            rewriting.swap()
            raise
        rewriting.finish()
        self._rewritings.append(rewriting)
        self._changed.update(dict.fromkeys(rewriting.replaced))
        self.train({name: parameter for name, parameter in frozen.items() if parameter.requires_grad})
        return found

    def take_back(self) -> None:
        """Undo :meth:`rewrite`, so that it can be called again."""
        self._swap_rewritings()
        self._rewritings = []

    def fold(
        self, site: Site, block: int | None = None, *, scale: Tensor | None = None, weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Merge an update into a frozen linear map or norm, in place of the edits that the method has at the site.

        The site's y = W x + b becomes scale * (W x + b) + weight x + bias.

        Args:
            site: ``qkv``, ``proj``, ``fc1``, ``fc2``, ``patch_embed`` or a norm; with ``scale`` alone, also a branch.
            scale: (out,), 1 if left out.
            weight: (out, in), 0 if left out; (out,) for norms, (out, in_channels p p) for ``patch_embed``, p the patch size.
            bias: (out,), 0 if left out.

        Raises:
            UnsupportedError: when the backbone has no such site.
        """
        with torch.no_grad():
            for affine in self._hooks.affine(site, block):
                self._fold_weight(affine.module, *(None if each is None else each[affine.rows] for each in (scale, weight)))
                for owner, name, rows in affine.biases:
                    self._fold_bias(owner, name, *(None if each is None else each[rows] for each in (scale, bias)))
        for handle in self._edits.pop((site, block), []):
            handle.remove()

    def fold_before(self, site: Site, block: int | None = None, *, weight: Tensor, bias: Tensor) -> None:
        """Merge an edit of what goes into a frozen linear layer, in place of the edits that the method has at the site.

        The site's y = W x + b becomes W (x + weight x + bias) + b.

        Args:
            site: ``qkv``, ``proj``, ``fc1`` or ``fc2``, with ``weight`` (in, in) and ``bias`` (in,).

        Raises:
            UnsupportedError: when the backbone has no such site.
        """
        frozen = torch.cat([affine.module.weight for affine in self._hooks.affine(site, block)])
        self.fold(site, block, weight=frozen @ weight, bias=frozen @ bias)

    def _fold_weight(self, module: Any, scale: Tensor | None, weight: Tensor | None) -> None:
        new = module.weight
        if scale is not None:
            new = new * scale.reshape(-1, *[1] * (new.ndim - 1))
        if weight is not None:
            new = new + weight.reshape(new.shape)
        if new is not module.weight:
            self._set(module, "weight", new)

    def _fold_bias(self, owner: Any, name: str, scale: Tensor | None, bias: Tensor | None) -> None:
        old = new = getattr(owner, name)
        if new is not None and scale is not None:
            new = new * scale
        if bias is not None:
            new = bias if new is None else new + bias
        if new is not old:
            self._set(owner, name, new)

    def fold_positions(self, delta: Tensor) -> None:
        """Add to the absolute position embeddings of the patches what all images get behind the patch embedding.

        Args:
            delta: (M, D), row by row of the patch grid.

        Raises:
            UnsupportedError: when the backbone has no absolute position embeddings.
        """
        owner, name = self._hooks.positions()
        with torch.no_grad():
            embeddings = getattr(owner, name)  # (1, M, D), or with prefix tokens in front
            self._set(owner, name, F.pad(delta, (0, 0, embeddings.shape[-2] - len(delta), 0)) + embeddings)

    def _set(self, module: Any, name: str, value: Tensor) -> None:
        """Another frozen value for a module's parameter or buffer; :meth:`undo` puts the present one back."""
        old = getattr(module, name)
        self._folded.append((module, name, old))
        value = value.detach().clone()
        new: Any = torch.nn.Parameter(value, requires_grad=False) if old is None or isinstance(old, torch.nn.Parameter) else value
        setattr(module, name, new)

    # Attention, prompts, stages

    def prompt_keys_values(self, block: int, provide: Callable[[], tuple[Tensor, Tensor]]) -> None:
        """Prepend prompts to the keys and values of a block's attention, after their projection.

        Args:
            block: 0 to L-1.
            provide: called in every forward pass; gives key and value prompts, each (heads, N, D / heads) with the
                block's own heads and width. Where attention has windows, they join every window.
        """
        self._hooks.prompt_keys_values(self, block, provide)
        self._changed["keys and values"] = None

    def edit_queries(self, block: int, fn: Before) -> None:
        """Replace the queries of a block's attention, behind the norm that some backbones take of them: q becomes ``fn(q)``.

        Attention logits are linear in the queries, so that ``fn = lambda q: q / T`` divides them by a temperature T.

        Args:
            block: 0 to L-1.
            fn: gets queries (B, heads, Q, D / heads) and gives as many, each from its own token alone: it may be called with
                some of the tokens.

        Raises:
            UnsupportedError: when the backbone's adapter does not offer it.
        """
        self._hooks.edit_queries(self, block, self._switched(fn, keep=0))
        self._changed["queries"] = None

    def add_to_prompts(self, block: int, site: Literal["norm1", "qkv", "attention"], values: nn.Parameter) -> None:
        """Add ``values`` to the prompt rows of a site's output.

        Args:
            block: 0 to L-1.
            site: ``"norm1"``, ``"qkv"`` (3 D wide) or ``"attention"``.
            values: (N, width of the site); N is the number of prompts in the sequence.
        """

        def added(_: Tensor, y: Tensor) -> Tensor:
            front = self._hooks.shape.prefix
            return F.pad(values.to(y.dtype), (0, 0, front, y.shape[1] - front - len(values))) + y

        self.after(site, added, block)

    def watch_class_attention(self) -> ClassAttention:
        """Make the class token's attention row of every block readable in ``after_block``, beside fused attention.

        One row costs T D multiply-adds per block and image; no full attention matrix is formed, no gradient flows.

        Raises:
            UnsupportedError: when the backbone has no class token.
        """
        return self._hooks.watch_class_attention(self)

    def watch_received_attention(self) -> ReceivedAttention:
        """Make the attention that each patch token receives readable in ``after_block``: for windows, a mean over heads
        and over the patch tokens of its window.

        The attention weights are computed a second time, without gradient.

        Raises:
            UnsupportedError: when the backbone's adapter does not offer it.
        """
        return self._hooks.watch_received_attention(self)

    def prompts_at_next_stage(self, block: int, prompts: Tensor) -> Tensor:
        """Prompts (..., D) as the backbone's merging of patches before ``block`` transforms them, at the width of ``block``.

        Args:
            block: the first of a stage, see :meth:`vpbench.interface.BackboneShape.starts_stage`.
            prompts: at the width of the block before.
        """
        return self._hooks.prompts_at_next_stage(block, prompts)

    # For adapters

    def replace(self, parent: nn.Module, child: str, replacement: nn.Module) -> None:
        """Put ``replacement`` where ``parent`` has its ``child``."""
        self._replaced.append((parent, child, getattr(parent, child)))
        setattr(parent, child, replacement)

    def record(self, handles: Iterable[Removable]) -> None:
        """Record handles of hooks that an adapter placed, to be removed by :meth:`undo`."""
        self._handles += handles

    def undo(self) -> None:
        """Take every change back, last one first."""
        for handle in self._handles:
            handle.remove()
        self.take_back()
        for parent, child, original in reversed(self._replaced):
            setattr(parent, child, original)
        for module, name, value in reversed(self._folded):
            setattr(module, name, value)
        self.reset_trained()
        for parameter in self._trained.values():
            parameter.requires_grad_(False)
            parameter.grad = None
        self._handles, self._replaced, self._folded, self._edits = [], [], [], {}
        self._trained, self._before_training = {}, {}


def check_block(site: Site, block: int | None, depth: int) -> None:
    """
    Raises:
        UnsupportedError: when a site inside blocks is named without a block of the backbone, or one outside with a block.
    """
    if site not in SITES:
        raise UnsupportedError(f"there is no site '{site}'; the sites are {', '.join(SITES)}.")
    if (block is None) != (site in OUTSIDE_BLOCKS) or (block is not None and not 0 <= block < depth):
        raise UnsupportedError(f"the site {site} has no block {block}: blocks are 0 to {depth - 1}, None outside of them.")
