"""What a selector is."""

from collections.abc import Callable, ItemsView, Mapping, Sequence, ValuesView
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from tokenprune.engine.context import Context
from tokenprune.engine.decision import Decision, mask_of
from tokenprune.engine.hooks import MethodHooks
from tokenprune.engine.indexing import sort_stably
from tokenprune.engine.observation import Observation
from tokenprune.engine.policy import Site
from tokenprune.engine.schedule import Budget
from tokenprune.errors import InvalidConfig

_OF_HOOKS = ("observe", "conclude")  # methods of `MethodHooks`


class Selector(nn.Module):
    """Decides which tokens stay. A selector holds parameters and nothing of a batch.

    The class facts below are declared by every selector. The engine decides from them, before weights are loaded, which treatments,
    schedules and execution modes are legal.

    Attributes:
        site: Where the decision is taken: `Site.BEFORE` a block, `Site.AHEAD` (after the attention map, which is then grouped as tokens are
            merged; values are made of what stays), `Site.ROWS` (after qkv, before attention) or `Site.INSIDE` (after attention, before the
            MLP). The names `before`, `ahead`, `rows` and `inside` do as well. An instance may set another by its options.
        peeks: A decision before the block reads the block's queries and keys, which are made for it alone.
        vanishing: The selector names a target for some dropped tokens only; the others vanish (`Decision.vanish`).
        budget: `fixed` keeps as many tokens as the schedule says; `dynamic` keeps its own number for each image, at test time.
        gated: The selector trains by a straight-through gate, hence in masked execution.
        visibility: What a dropped key is in training: `hard` (masked) or `soft` (DynamicViT's policy softmax).
        reads_cls: The selector reads the class token, its attention or its value.
        absorbing: A dropped token can never be wanted again.
        merging: The selector names a target for each dropped token.
        mixing: The selector makes new tokens of all tokens; they have no position.
        reads_previous_block: The score needs the attention of the block before, which costs multiplications there.
        saves_computation: False for a selector that only masks attention heads or layers: its MACs count, and no speed is claimed.
        learns: The choice means nothing before training (gates, learned queries), so the selector is left out of training-free tables.
        taught_by: Name of the loss that alone teaches the selector; empty if there is none.
        needs: Fields of `engine.loss.LossInputs` that a task must give.
        count_role: What the schedule's counts mean at test time: `count` exact, `target` a mean, `cap` an upper bound; `blocks`: ignores
            the counts and uses only the block positions.
        steady: In training the same parameters get a gradient in every pass.
        dial: Where schedules do not set how many tokens stay: the option of the class that does, the value with which fewest stay and the
            one with which most do. `schedule.target_gmac` sets it. None if there is none.
        cap: cap(live, prefix) returns how many slots one decision can drop at most; None for no limit.
        label: Name in tables and pictures; empty for the registered name. A class that is derived from another has its own.
        published: Treatment and schedule of the paper, the defaults of `tokenprune.prune`.
        evaluated: Options with which the authors' code evaluates, where it differs from the defaults at test time.
    """

    name: ClassVar[str]
    site: Site = Site.BEFORE
    budget: ClassVar[str] = "fixed"
    gated: bool = False
    visibility: str = "hard"
    reads_cls: ClassVar[bool] = False
    absorbing: ClassVar[bool] = False
    merging: ClassVar[bool] = False
    vanishing: ClassVar[bool] = False
    mixing: ClassVar[bool] = False
    reads_previous_block: ClassVar[bool] = False
    taught_by: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    saves_computation: ClassVar[bool] = True
    learns: ClassVar[bool] = False
    count_role: ClassVar[str] = "count"
    steady: ClassVar[bool] = True
    module: ClassVar[str] = "parameter-free"
    paper: ClassVar[str] = ""
    label: ClassVar[str] = ""
    dial: ClassVar[tuple[str, float, float] | None] = None
    cap: ClassVar[Callable[[int, int], int] | None] = None
    published: ClassVar[Mapping[str, Any]] = {"treatment": "remove", "schedule": {"name": "stages"}}

    evaluated: ClassVar[Mapping[str, Any]] = {}

    calibration_images: int = 0  # training images that `calibrate` wants to see, after training
    may_keep_none: bool = False  # whether an image may keep no patch token at all, beside its prefix tokens
    peeks: bool = False
    normed: int = 0  # elements of each slot that norms of a decision take

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        try:
            cls.site = Site(cls.site)
        except ValueError:
            allowed = ", ".join(Site)
            raise InvalidConfig([f"selector class {cls.__name__}: site is {cls.site!r}; allowed: {allowed}"]) from None
        if lost := [name for name in _OF_HOOKS if hasattr(cls, name) and not issubclass(cls, MethodHooks)]:
            methods = " and ".join(lost)
            raise InvalidConfig(
                [
                    f"selector class {cls.__name__} defines {methods}, which the engine does not call on a selector; move {methods} to a"
                    " subclass of tokenprune.engine.hooks.MethodHooks, and return an object of it from the class method hooks(selectors)"
                ]
            )

    @classmethod
    def facts(cls) -> dict[str, Any]:
        """Return the declared facts, as the list, the docs and SViT's Table 1 print them."""
        keys = (
            "site",
            "budget",
            "count_role",
            "gated",
            "visibility",
            "reads_cls",
            "absorbing",
            "merging",
            "vanishing",
            "mixing",
            "saves_computation",
            "module",
            "paper",
        )
        return {**{key: getattr(cls, key) for key in keys}, "site": cls.site.value}

    @classmethod
    def shown_label(cls) -> str:
        """Return what tables and pictures call the selector."""
        return vars(cls).get("label") or cls.name

    @classmethod
    def wants_cls(cls, options: Mapping[str, Any]) -> bool:
        """Tell whether a selector with these options reads the class token."""
        return cls.reads_cls

    @classmethod
    def hooks(cls, selectors: Sequence["Selector"]) -> MethodHooks:
        """Return what the method does beside its decisions, given the selectors of one model in the order of their blocks, at least one."""
        return MethodHooks()

    @property
    def caveat(self) -> str:
        """What a reader of a result of this selector must know, "" for nothing; every result row repeats it."""
        return ""

    @property
    def counts_vary(self) -> bool:
        """Tell whether, in the present mode, images of a batch may keep different numbers of tokens."""
        return self.budget == "dynamic" or (self.training and self.gated)

    def score(self, seen: Observation, budget: Budget) -> Decision:
        """Return the decision on the slots of `seen`."""
        raise TypeError(f"selector {type(self).__name__} must define score(seen, budget) -> Decision")

    @property
    def draws(self) -> bool:
        """Tell whether decisions at test time are drawn, so that `redraw` gives other ones."""
        return False

    def redraw(self, number: int) -> None:
        """Take draw `number` from now on; 0 is the one of the selector's own seed."""

    def calibrate(self, scores: Tensor, keep: float) -> None:
        """Fit what decides at test time to the scores (n,) of all candidates of the calibration images, of which `keep` should stay."""

    def macs(self, slots: float) -> float:
        """Return the MACs of one decision over `slots` tokens of one image."""
        return 0.0

    def observed_macs(self, slots: float) -> float:
        """Return the part of `macs` that the method's hooks take in the block before, given the `slots` of its attention.

        `macs` supposes that these are as many as the slots that are scored; under reactivation they are fewer.
        """
        return 0.0

    def deploy(self) -> "Selector":
        """Return the selector as it is used at inference, without parts that only training needs."""
        return self


class SelectorDict(nn.ModuleDict):
    """The selectors of a model by the number of their block, as text, in the order of blocks."""

    if TYPE_CHECKING:  # nn.ModuleDict says Module

        def __getitem__(self, key: str) -> Selector: ...
        def values(self) -> ValuesView[Selector]: ...  # noqa: D102
        def items(self) -> ItemsView[str, Selector]: ...  # noqa: D102


def keep_top(score: Tensor, live: Tensor | None, count: int, **fields: Any) -> Decision:
    """Keep the `count` best live slots of score (B,M); ties go to the earlier slot, so that every execution agrees.

    The kept slots themselves are part of the decision; they are of use where every slot is live, and the engine ignores them elsewhere.

    Args:
        score: (B,M).
        live: (B,M) which slots are live; None where all are known to be, as `Observation.mask` has it, which spares steps.
        count: How many to keep.
        fields: Further ones of the decision.
    """
    ranked = ranked_slots(score, live)
    return Decision.between(ranked[:, :count].sort(dim=1).values, ranked[:, count:], live, score=score, **fields)


def best_slots(score: Tensor, live: Tensor | None, count: int) -> Tensor:
    """Return the `count` best live slots of score (B,M), (B,count), ascending; `live` and ties as in `keep_top`."""
    return ranked_slots(score, live)[:, :count].sort(dim=1).values


def ranked_slots(score: Tensor, live: Tensor | None) -> Tensor:
    """Return all slots (B,M), the best of score (B,M) first and those that are not live last; `live` and ties as in `keep_top`."""
    score = score.detach().float()
    return sort_stably(score if live is None else score.masked_fill(~live, float("-inf")), descending=True)[1]


def at(slots: Tensor, live: Tensor) -> Tensor:
    """Return the mask (B,M) of the slots (B,K) that are live."""
    return mask_of(slots, live.shape[1]) & live
