"""The block loop; `tokenprune.prune` builds the model that runs it."""

import copy
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from tokenprune.engine.arguments import check_images
from tokenprune.engine.as_timm import TimmTools
from tokenprune.engine.at_rate import Build, RateTools
from tokenprune.engine.blocks import adapt
from tokenprune.engine.blocks.base import ProjectionView
from tokenprune.engine.blocks.class_token import class_token
from tokenprune.engine.blocks.compiled import CompiledBlock
from tokenprune.engine.blocks.family import Family
from tokenprune.engine.blocks.module_hooks import HookCall
from tokenprune.engine.blocks.switched import switched
from tokenprune.engine.execution import BlockUsage, run_block
from tokenprune.engine.hooks import DecisionListener, MethodHooks
from tokenprune.engine.legality import layout_for
from tokenprune.engine.loss import LossInputs, weighted
from tokenprune.engine.observation import Observation
from tokenprune.engine.outputs import Outputs
from tokenprune.engine.plan import described
from tokenprune.engine.policy import DeadSlotRule, Decider, Site, blended, settle
from tokenprune.engine.schedule import Budget, Layout, Schedule
from tokenprune.engine.selector import Selector, SelectorDict
from tokenprune.engine.state import TokenState
from tokenprune.engine.steps import peeked, rule_of, run_blocks, shown
from tokenprune.engine.treatment import Treatment
from tokenprune.errors import IncompatiblePairing, InvalidSchedule, UnsupportedBackbone
from tokenprune.registry import build, get

Spec = str | Mapping[str, Any]
_MODELS: WeakValueDictionary[int, "PrunedViT"] = WeakValueDictionary()  # by id
_LARGER = (4, 16)  # times as many positions: images of twice and four times the side


class PrunedViT(RateTools, TimmTools, nn.Module):
    """A timm ViT run block by block with tokens dropped on the way; build it with `prune`.

    `backbone` is the model that was given, its checkpoint keys unchanged; `selectors` holds one module a deciding block. `hooks` is what
    the method does beside its decisions. The module tree is what runs: parts may be exchanged after pruning.
    `watch`, if set, is called with (block, state) as the tokens enter each block's attention (`measure.usage` records them so); `probe`
    with the Observation of that attention, q, k and v included (`measure.attention`). `listener`, if set, hears the decisions of one block
    (`training.calibration`), `hearer` the outputs of each pass. `capacities` {block: rows of the whole batch}, if set, are the sizes of
    packed passes (`engine.capped`).
    """

    watch: Callable[[int, TokenState], None] | None = None
    probe: Callable[[Observation], None] | None = None
    listener: DecisionListener | None = None
    hearer: Callable[[Outputs], None] | None = None
    compiled: Mapping[str, Any] | None = None  # options of torch.compile for parts of blocks
    capacities: Mapping[int, int] | None = None

    def __init__(
        self,
        backbone: nn.Module,
        selector: Spec | None,
        treatment: Treatment,
        schedule: Schedule,
        cls: str,
        execution: str,
        losses: Mapping[str, Mapping[str, Any]],
        positions: int | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.treatment, self.schedule, self.execution = backbone, treatment, schedule, execution
        self._family = self._adapted()
        self.loss_terms = {name: build("loss", {"name": name, **options}) for name, options in losses.items()}
        self.selectors = SelectorDict()
        options: Mapping[str, Any] = {"name": selector} if selector is None or isinstance(selector, str) else selector
        self._kind: type[Selector] | None = None if selector is None else get("selector", options["name"])
        reads_cls = self._kind is not None and self._kind.wants_cls(options)
        needs = class_token(cls, self.family.dim, self.family.has_cls, options["name"] if reads_cls else None)
        self.prefix_tokens = self.family.prefix + int(needs is not None and not self.family.has_cls)  # P
        own, self._resolved = positions or self.family.own_positions, {}
        self.made = Build(options, own, self.family.classes if classes is None else classes)
        for number, budget in self.decisions(own):
            self.selectors[str(number)] = self.made.selector(self, number, budget)
        built = list(self.selectors.values())
        self.hooks = self._kind.hooks(built) if self._kind is not None and built else MethodHooks()
        self.class_token, self.fusion = needs, self.treatment.module(self.family, own)
        self.train(backbone.training)
        _MODELS[id(self)] = self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take note of a copy, see `_resolve_untraced`."""
        super().__setstate__(state)
        _MODELS[id(self)] = self

    @property
    def family(self) -> Family:
        """The adapter of the backbone; a new one where the backbone or its parts were exchanged since the last look.

        Raises:
            UnsupportedBackbone: A new part has no adapter, or has another size than the selectors were built for.
        """
        if not torch.compiler.is_compiling() and not self._family.describes(self.backbone):
            self._family = self._adapted(self._family.facts)
        return self._family

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self._family.blocks)

    @property
    def adapters(self) -> list[Any]:
        """Adapters of the blocks."""
        return self._family.blocks

    @property
    def embed_dim(self) -> int:
        """C, the width of a token."""
        return self.family.dim

    def observed(self, precedes: bool) -> bool:
        """Tell whether anybody looks at a block, in the present mode; one that `precedes` a block with a decision."""
        return self.hooks.observes(precedes) or self._attention_is_shown

    @property
    def attention_is_read(self) -> bool:
        """Tell whether those who look at a block look at its queries, keys and values."""
        return self.hooks.reads_attention or self._attention_is_shown

    @property
    def _attention_is_shown(self) -> bool:
        return self.probe is not None or (self.training and any(term.observes for term in self.loss_terms.values()))

    @property
    def asks_host(self) -> bool:
        """Tell whether, in the present mode, the host has to wait for the number of tokens that a decision keeps."""
        return self.counts_vary and self.mode() != "masked"

    @property
    def steady(self) -> bool:
        """Tell whether the same blocks decide all through training, so that the same parameters get a gradient in every pass."""
        own = self.family.own_positions
        return self._budgets(own, 0.0).keys() == self._budgets(own, 1.0).keys()

    def budgets(self, positions: int) -> dict[int, Budget]:
        """Return {block: Budget} for a grid of N positions; fixed decisions that would drop nothing are left out."""
        if torch.compiler.is_compiling():
            found = _resolve_untraced(id(self), positions, self.in_force, id(self.schedule), id(self.treatment))
            return {facts[0]: Budget(*facts) for facts in found}
        return self._exact_budgets(positions)

    def describe(self, positions: int | None = None) -> str:
        """Return a table of the tokens that each block attends to, asks for and feeds, prefix tokens included, as the schedule plans it.

        `Outputs.describe` prints the same of one pass.

        Args:
            positions: N; None takes the model's own grid.
        """
        return described(self, positions or self.family.own_positions)

    def selector_at(self, number: int, positions: int) -> Selector:
        """Return the selector of a block that decides on N positions.

        Raises:
            IncompatiblePairing: The model was built without one there.
        """
        if str(number) not in self.selectors:
            raise IncompatiblePairing(
                f"the schedule decides at block {number} of images of {positions} positions, where the model has no selector: it was built"
                f" for {self._family.own_positions}; give prune(..., positions={positions})"
            )
        return self.selectors[str(number)]

    def forward(self, images: Tensor) -> Tensor:
        """Return the model's logits for images (B,3,h,w). Hooks of the backbone are called as timm's own forward would call them."""
        if torch.compiler.is_compiling() and self.asks_host:
            return self._untraced(self.forward, images)  # type: ignore[call-arg]  # torch types no method here
        call = HookCall.of(self.backbone)
        return self.classify(images) if call is None else call.leave(self.classify(call.enter(images)))

    def encode(self, images: Tensor, resize_codes: bool = False) -> Outputs:
        """Return the encoder's Outputs for images (B,3,h,w); `resize_codes` as in `start`."""
        return self.finish(*self.run(self.start(images, resize_codes), 0, self.depth))

    def classify(self, images: Tensor, resize_codes: bool = False) -> Tensor:
        """Return the logits for images (B,3,h,w); no map is made where the head reads prefix tokens alone. `resize_codes` as in `start`."""
        read = self._pass(images, resize_codes)  # first: it sees to it that `_family` is of the backbone as it is now
        return self._family.classify(*read)

    def _pass(self, images: Tensor, resize_codes: bool = False) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return what the head reads of images, see `read`."""
        state, usage = self.run(self.start(images, resize_codes), 0, self.depth)
        if self.fusion is not None or not self._family.answers_by_prefix:
            return self.read(self.finish(state, usage))
        state = self.hooks.conclude(state)
        return self._family.norm(state.prefix), state.tokens, None, None

    def start(self, images: Tensor, resize_codes: bool = False) -> TokenState:
        """Return the state before block 0.

        Args:
            images: (B,3,h,w), normalised as the model wants it.
            resize_codes: Whether position codes are fitted to images of another size than the model's own, see `Family.embedded`.
        """
        check_images(images)
        family = self.family  # looks once a pass for exchanged parts; what follows takes what it found
        x, rope = family.enter(images, resize_codes)
        P = family.prefix
        state = TokenState.start(x[:, :P], x[:, P:], family.positions(*images.shape[-2:]), family.covered(images)).replace(rope=rope)
        if self.class_token is not None:
            return state.replace(prefix=self.class_token(state.prefix, state.tokens))
        return state.with_sequence(x)

    def run(self, state: TokenState, start: int, stop: int) -> tuple[TokenState, tuple[BlockUsage, ...]]:
        """Run blocks start ... stop-1; the state can be read (`dense`) and changed (`with_dense`) between calls."""
        if torch.compiler.is_compiling() and self.asks_host:
            return self._untraced(self.run, state, start, stop)  # type: ignore[call-arg]
        return run_blocks(self, state, start, stop, rule_of(self))

    @torch.compiler.disable
    def _untraced(self, method: Callable[..., Any], *given: Any) -> Any:
        """Return what a method gives outside of a program of torch.compile: one break for all decisions whose counts only images know."""
        return method(*given)

    def finish(self, state: TokenState, usage: tuple[BlockUsage, ...]) -> Outputs:
        """Return Outputs of the state after the last block, final norm applied."""
        state = self.hooks.conclude(state)
        state = state if self.fusion is None else self.fusion(state)
        map_, present = self.view(state)
        map_ = self._family.norm(map_)
        map_ = map_ if self.treatment.remembers and not state.vanished else map_ * present.unsqueeze(-1)
        outputs = Outputs(state, usage, map_, present, self._family.norm(state.prefix))
        if self.hearer is not None and not torch.compiler.is_compiling():
            self.hearer(outputs)
        return outputs

    def view(self, state: TokenState) -> tuple[Tensor, Tensor]:
        """Return what a dense reader sees of a state: the map (B,N,C), zeros where nothing is held, and where something is (B,N)."""
        if self.treatment.remembers and not state.vanished:
            map_ = state.dense()
            return map_, torch.ones_like(map_[..., 0], dtype=torch.bool)
        present = state.present()
        return state.dense() * present.unsqueeze(-1), present

    def logits(self, outputs: Outputs) -> Tensor:
        """Return logits through the model's own pooling and head.

        A mean runs over every position if dropped tokens are remembered, else over live slots. It weighs a merged token by its mass, so
        that it is the mean of all tokens that went in.
        """
        return self._family.classify(*self.read(outputs))

    def read(self, outputs: Outputs) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return what `Family.classify` reads: prefix and tokens, both normed, which of them are live, and their masses."""
        state = outputs.state
        if self.treatment.remembers and self.treatment.fold != "merge":
            return outputs.prefix, outputs.map, None, None
        live = None if state.known.complete and state.tokens.shape[1] else state.live  # the mean of no token is no plain mean
        return outputs.prefix, self._family.norm(state.tokens), live, state.mass

    def losses(self, outputs: Outputs, **given: Any) -> dict[str, Tensor]:
        """Return the method's own weighted losses by name, {} when not training; `given` are fields of `losses.base.LossInputs`."""
        return weighted(self.loss_terms, LossInputs(outputs, self, **given)) if self.training else {}

    def compile_blocks(self, options: Mapping[str, Any]) -> None:
        """Make the parts of blocks programs of torch.compile with these `options`; see `tokenprune.compile`."""
        self.compiled = dict(options)
        self._family = self._adapted(self._family.facts)

    def deploy(self) -> "PrunedViT":
        """Return a copy for inference, whose selectors have shed what only training needs."""
        deployed = copy.deepcopy(self).eval()
        for number, selector in deployed.selectors.items():
            deployed.selectors[number] = selector.deploy()
        return deployed

    def step(self, state: TokenState, number: int, budgets: Mapping[int, Budget], policy: DeadSlotRule) -> tuple[TokenState, BlockUsage]:
        """Run block `number` with what is decided before or inside it."""
        adapter, budget = self._family.blocks[number], budgets.get(number)
        if self.capacities is not None and number in self.capacities:
            policy = replace(policy, capacity=(number, self.capacities[number]))
        state = self.treatment.before_block(state, number, self.depth)
        show = partial(shown, self, number, number + 1 in budgets)
        if budget is None:
            state, see = show(state)
            return run_block(adapter, state, policy, see=see)
        selector = self.selector_at(number, state.positions)
        if selector.site is not Site.BEFORE:
            state, see = show(state)
            decider = Decider(selector.site, partial(self._decide, number, selector, budget))
            return run_block(adapter, state, policy, decider, see=see)
        state = self.treatment.candidates_of(state)
        state = settle(self._decide(number, selector, budget, state, *peeked(adapter, selector, state, policy)), policy)
        adapter, state = switched(adapter, state.branch), state.replace(branch=None)
        state, see = show(state)
        if state.gate is None or policy.soft:
            return run_block(adapter, state, policy, see=see)
        after, used = run_block(adapter, state, replace(policy, free=True), see=see)
        return blended(state, after), used  # once a block: SViT's forward, and its gradient

    def _adapted(self, before: Mapping[str, Any] | None = None) -> Family:
        """Return the adapter of the backbone; `before` are the facts that its selectors were built for."""
        family = adapt(self.backbone)
        if before is not None and before != family.facts:
            differing = [f"{name} is {value}, was {before[name]}" for name, value in family.facts.items() if value != before[name]]
            raise UnsupportedBackbone(
                f"the backbone or a part of it was exchanged after pruning by one of another size ({'; '.join(differing)}); prune the new"
                " model: tokenprune.prune(model, ...)"
            )
        family.blocks[-1].drop_path &= self.treatment.revive != "last"  # Cropr 3.3: no DropPath in the fusing block
        if self.compiled is not None:
            family.blocks = [CompiledBlock(block, self.compiled) for block in family.blocks]  # type: ignore[assignment]  # delegates
        return family

    def _decide(
        self,
        number: int,
        selector: Selector,
        budget: Budget,
        state: TokenState,
        p: ProjectionView | None = None,
        bias: Tensor | None = None,
    ) -> TokenState:
        seen = Observation(state, number, p, bias, self.progress)
        decision = selector.score(seen, budget)
        if self.listener is not None and self.listener.block == number:
            self.listener.hear(seen, budget, decision)
        if decision.gate is not None:
            placed = state.index >= 0
            gate = decision.gate if state.gate is None or self.treatment.may_revive else decision.gate * state.gate
            state = state.note("usage", number, ((gate * placed).sum(1) / state.positions, float(budget.rate)))
            decision = decision.replace(gate=gate)
        for name, payload in decision.notes.items():
            state = state.note(name, number, payload)
        return self.treatment.at(number, self.depth).apply(state, decision)

    def _exact_budgets(self, positions: int) -> dict[int, Budget]:
        now = (self.schedule, self.treatment, self.progress)
        if self._resolved.get(positions, (None, None))[0] == now:
            return self._resolved[positions][1]
        found = self._budgets(positions, self.progress)
        self._resolved[positions] = (now, found)
        return found

    def _budgets(self, positions: int, progress: float, all_listed: bool = False) -> dict[int, Budget]:
        if self._kind is None:
            return {}
        layout = layout_for(self._kind, self.treatment, Layout(self.depth, positions, self.prefix_tokens))
        always = all_listed or self._kind.gated or self._kind.budget == "dynamic"
        return {b.block: b for b in self.schedule.at(progress).budgets(layout) if always or b.keep < b.live}

    def decisions(self, own: int) -> list[tuple[int, Budget]]:
        """Return the blocks that need a selector, with their budget at `own` positions; a larger size may drop where this one does not."""
        deciding = {**self._budgets(own, 0.0), **self._budgets(own, 1.0)}
        elsewhere: dict[int, Budget] = {}
        for positions in (own * factor for factor in _LARGER):
            with suppress(InvalidSchedule):  # a size that the schedule does not take
                elsewhere |= {**self._budgets(positions, 0.0), **self._budgets(positions, 1.0)}
        listed = {**self._budgets(own, 0.0, all_listed=True), **self._budgets(own, 1.0, all_listed=True)}
        return sorted({**{number: listed.get(number, budget) for number, budget in elsewhere.items()}, **deciding}.items())

    @property
    def counts_vary(self) -> bool:
        """Tell whether, in the present mode, images of a batch may keep different numbers of tokens."""
        return any(s.counts_vary for s in self.selectors.values())

    def mode(self) -> str:
        """Return the execution that is used in the present mode of training."""
        if self.training and any(s.gated for s in self.selectors.values()):
            return "masked"
        return self.execution if self.execution != "auto" else "packed" if self.counts_vary else "gathered"


@torch.compiler.assume_constant_result
def _resolve_untraced(model: int, positions: int, *depends: str | int) -> tuple[tuple[Any, ...], ...]:
    """Return the budgets of the model of that id for N positions as plain numbers.

    torch.compile cannot trace exact fractions, so it calls this while it compiles, again where one of the values it `depends` on differs.
    """
    found = _MODELS[model]._exact_budgets(positions).values()
    return tuple((b.block, b.keep, b.live, float(b.rate), b.between, b.stage) for b in found)


def pruned_of(model: nn.Module) -> PrunedViT | None:
    """Return the PrunedViT inside a model, or the model itself; None in a model of timm as it is."""
    return next((m for m in model.modules() if isinstance(m, PrunedViT)), None)
