"""Selectors of a model's decisions, and another keep rate, schedule or progress for a model that is built already."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from tokenprune.engine.legality_windows import refuse_counts
from tokenprune.engine.rates import exact
from tokenprune.engine.schedule import Budget, Layout, Schedule
from tokenprune.engine.selector import Context, Selector
from tokenprune.errors import InvalidSchedule
from tokenprune.registry import build, names, options_of
from tokenprune.utils.modes import evaluating

if TYPE_CHECKING:
    from tokenprune.engine.model import PrunedViT

_WITHOUT_EFFECT = {
    "blocks": "takes the blocks of the schedule and keeps its own number of tokens; the keep rate changes nothing",
    "target": "keeps the tokens above a threshold that training fitted to one keep rate; use its top-k mode (selector.eval_mode=topk)"
    " where it has one, or train a model for each rate",
}


@dataclass(frozen=True)
class Build:
    """What the selectors of a model are built with.

    Args:
        options: Name and options of the selector; None for a dense model.
        positions: N of the images to come, or of the model's own grid.
        classes: What auxiliary heads of selectors learn to tell.
    """

    options: Any
    positions: int
    classes: int

    def selector(self, model: "PrunedViT", number: int, budget: Budget) -> Selector:
        """Return a new selector for a block with its budget."""
        blocks = model.family.blocks
        shape = (model.embed_dim, blocks[number].heads, number, budget, model.depth, model.prefix_tokens)
        keys = blocks[number - 1].max_keys
        return build("selector", self.options, context=Context(*shape, classes=self.classes, positions=self.positions, max_keys=keys))


class RateTools:
    """Gives a pruned model another keep rate after it was built, and another share of training that is done."""

    schedule: Schedule
    in_force: str = ""  # the schedule at this progress where that is another one; programs of torch.compile hold for one such text
    _progress: float = 1.0

    @property
    def progress(self) -> float:
        """Return the share of training that is done, in [0,1], for schedules and selectors that change; 1 at test."""
        return self._progress

    @progress.setter
    def progress(self, share: float) -> None:
        self._progress, now = share, self.schedule.at(share)
        self.in_force = "" if now is self.schedule else repr(now)

    @property
    def keep_rate(self) -> float | None:
        """Return the keep rate of the schedule; None for a dense model and for a schedule without one."""
        rate = getattr(self.schedule, "keep_rate", None)
        return None if rate is None else float(rate)

    def set_keep_rate(self: "PrunedViT", keep_rate: float) -> None:  # type: ignore[misc]  # a part of that class
        """Keep another share of the tokens from now on; weights stay as they are, and the same objects.

        The model then gives what one that was built with this rate gives with the same weights. It is meant for weights that were trained
        for many rates (`+recipe=elastic`); with others accuracy falls the more, the further the rate is from theirs.

        Args:
            keep_rate: The kept share, in (0, 1]; what it counts (each stage, each block) is the schedule's.

        Raises:
            InvalidSchedule: The model is dense, its schedule has no keep rate, the rate is none, the selector does not follow it, or it has
                no trained selector where the new rate decides. The model is unchanged.
        """
        schedule = _at(self, keep_rate)
        before, self.schedule = self.schedule, schedule
        try:
            found = _selectors(self)
        except Exception:
            self.schedule = before
            raise
        for number, selector in found.items():
            self.selectors[str(number)] = selector.train(self.training)
        _install(self, {key: self.selectors[key] for key in sorted(self.selectors, key=int)})


@contextmanager
def scheduled(model: "PrunedViT", schedule: Schedule) -> Iterator[None]:
    """Let a model drop tokens by another schedule as long as the `with` block lasts, with the weights of its own selectors.

    `hearer` hears nothing of it.

    Args:
        model: A pruned model.
        schedule: The other schedule.

    Raises:
        InvalidSchedule: See `PrunedViT.set_keep_rate`.
    """
    before = model.schedule, model.selectors, model.hooks, model.hearer
    model.schedule, model.hearer = schedule, None
    try:
        built = {str(number): selector.train(model.training) for number, selector in _selectors(model).items()}
        _install(model, built)
        yield
    finally:
        model.schedule, model.selectors, model.hooks, model.hearer = before


def _install(model: "PrunedViT", selectors: Mapping[str, Any]) -> None:
    """Give a model selectors by block, and the hooks that go with them."""
    model.selectors = type(model.selectors)(selectors)
    if model._kind is not None and selectors:
        model.hooks = model._kind.hooks(list(selectors.values()))


def _at(model: "PrunedViT", keep_rate: float) -> Schedule:
    """Return the schedule of a model with another keep rate."""
    kind, schedule = model._kind, model.schedule
    if kind is None:
        raise InvalidSchedule("set_keep_rate: the model is dense and drops no token; prune it with a selector and a schedule of keep rate")
    name = getattr(schedule, "name", type(schedule).__name__)
    options = [f.name for f in fields(schedule)] if is_dataclass(schedule) else []
    if "keep_rate" not in options:
        rated = [other for other in names("schedule") if "keep_rate" in options_of("schedule", other)]
        raise InvalidSchedule(
            f"set_keep_rate: schedule {name!r} has no keep rate (its options: {', '.join(options) or 'none'}); allowed: schedules with one"
            f" ({', '.join(rated)}), or build another model with prune(..., schedule=...)"
        )
    rate = getattr(schedule, "rate", None)
    if rate is not None:
        raise InvalidSchedule(
            f"set_keep_rate: schedule {name!r} has rate={rate}, which counts in place of keep_rate; build it with rate=None"
        )
    exact(keep_rate, "keep_rate")
    for selector in list(model.selectors.values())[:1]:
        with evaluating(selector):
            own_count = selector.counts_vary
        if selector.count_role in _WITHOUT_EFFECT and own_count:
            raise InvalidSchedule(f"set_keep_rate: selector {kind.name!r} {_WITHOUT_EFFECT[selector.count_role]}")
    changed: Schedule = replace(cast(Any, schedule), keep_rate=keep_rate)  # a dataclass, as was just seen
    windows = getattr(model.backbone, "windows", None)
    refuse_counts(windows, kind, model.treatment, changed, Layout(model.depth, model.made.positions))
    return changed


def _selectors(model: "PrunedViT") -> dict[int, Selector]:
    """Return the selectors for the blocks that decide under the model's present schedule, made for its budgets, with the old weights."""
    found, before = {}, dict(model.selectors.items())
    for number, budget in model.decisions(model.made.positions):
        new = model.made.selector(model, number, budget).to(next(model.parameters()).device)
        old = before.get(str(number))
        if old is None and any(True for _ in new.parameters()):
            raise InvalidSchedule(
                f"set_keep_rate: at keep rate {model.keep_rate} block {number} decides, where the model has no trained selector; build the"
                " model with its lowest keep rate, which decides at every block of the schedule"
            )
        if old is not None:
            _hand_over(old, new, number)
        found[number] = new
    return found


def _hand_over(old: Selector, new: Selector, number: int) -> None:
    """Give a new selector the parameters and buffers of an old one, the same objects, so that an optimizer goes on with them."""
    state = old.state_dict(keep_vars=True)
    wrong = [k for k, v in new.state_dict().items() if k not in state or state[k].shape != v.shape]
    if wrong:
        raise InvalidSchedule(
            f"set_keep_rate: weights of the selector at block {number} are made for a number of tokens, or parts of them were shed by"
            f" deploy() ({', '.join(wrong)}); set the rate before deploy(), or train a model for each keep rate"
        )
    new.load_state_dict(state, assign=True)
    if old.draws:
        new.__dict__.update({k: v for k, v in old.__dict__.items() if k not in ("context", "_parameters", "_buffers", "_modules")})
