"""The points of an elastic training: which keep rates, treatments and selectors it draws from, and the draw of each step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from tokenprune.engine.legality import check_pairing
from tokenprune.errors import IncompatiblePairing, InvalidConfig, InvalidSchedule, hint
from tokenprune.registry import get, names, options_of

_STEP = 100  # keep rates are drawn in hundredths


@dataclass(frozen=True)
class ElasticConfig:
    """Sets what an elastic training draws from.

    Each step trains the model without pruning, and at drawn points beside it (the sandwich rule of slimmable networks, Yu & Huang 2019,
    section 3.1, whose smallest network is the lowest keep rate here). Pairs of the lists that are illegal are left out.

    Args:
        keep_rates: Lowest and highest keep rate. Rates between are drawn evenly, in hundredths.
        lowest: Share of draws that take the lowest keep rate.
        selectors: Names of selectors without weights of their own.
        treatments: Names of treatments without weights of their own.
        schedules: {name: options} of schedules that have a keep rate, such as {stages: {blocks: [3, 6, 9]}}; null in the place of options
            leaves one out.
        draws: Points a step, beside the model without pruning.
        distill: Weight of the distance between kept tokens and those of the model without pruning; 0 for none.
        losses: {name: options} of further losses of the pass without pruning, such as `class_attention`.

    Raises:
        InvalidConfig: Values are out of range or names unknown, or no pair is legal. The message names each.
    """

    keep_rates: tuple[float, float] = (0.4, 0.9)
    lowest: float = 0.25
    selectors: tuple[str, ...] = ("random", "topk")
    treatments: tuple[str, ...] = ("remove", "preserve", "reactivate")
    schedules: Mapping[str, Any] = field(default_factory=lambda: {"stages": {}})
    draws: int = 1
    distill: float = 1.0
    losses: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("schedules", "losses"):
            object.__setattr__(self, name, {key: dict(part) for key, part in getattr(self, name).items() if part is not None})
        low, high = self.keep_rates
        bad = [
            (not 0 < low <= high < 1, f"keep_rates is {list(self.keep_rates)}, allowed are two rates 0 < lowest <= highest < 1"),
            (not 0 <= self.lowest <= 1, f"lowest is {self.lowest}, allowed is a share of the draws, 0 to 1"),
            (self.draws < 1, f"draws is {self.draws}, allowed are 1 and more"),
            (not self.distill >= 0, f"distill is {self.distill}, allowed are 0 and more"),
        ]
        problems = [text for wrong, text in bad if wrong]
        for kind in ("selector", "treatment", "schedule"):
            problems += _unusable(kind, list(getattr(self, f"{kind}s")))
        problems += _unknown("losses", "loss", list(self.losses))
        if problems:
            raise InvalidConfig([f"training.elastic.{problem}" for problem in problems])


class Point(NamedTuple):
    """One point to train at: names of selector, treatment and schedule, and the keep rate of the schedule."""

    selector: str
    treatment: str
    schedule: str
    keep_rate: float


def pairs(cfg: ElasticConfig, depth: int, positions: int, prefix: int) -> list[tuple[str, str, str]]:
    """Return the legal triples (selector, treatment, schedule) of an elastic training, in the order of its lists.

    Args:
        cfg: The lists.
        depth: Blocks of the model.
        positions: N, grid positions of its images.
        prefix: P, prefix tokens.

    Raises:
        InvalidConfig: A selector, a treatment or a schedule has no legal pair.
    """
    found, refused = [], {}
    for triple in ((s, t, p) for s in cfg.selectors for t in cfg.treatments for p in cfg.schedules):
        try:
            for rate in cfg.keep_rates:
                check_pairing(triple[0], triple[1], plan_of(cfg, triple[2], rate), depth=depth, positions=positions, prefix=prefix)
            found.append(triple)
        except (IncompatiblePairing, InvalidSchedule) as error:
            refused[triple] = str(error)
    used = {name for triple in found for name in triple}
    idle = [name for name in (*cfg.selectors, *cfg.treatments, *cfg.schedules) if name not in used]
    if idle:
        reasons = {name: next(text for triple, text in refused.items() if name in triple) for name in idle}
        raise InvalidConfig([f"training.elastic: {name!r} has no legal pair in the lists: {reason}" for name, reason in reasons.items()])
    return found


def plan_of(cfg: ElasticConfig, schedule: str, keep_rate: float) -> dict[str, Any]:
    """Return name and options of a schedule of the lists at a keep rate."""
    return {"name": schedule, **cfg.schedules[schedule], "keep_rate": keep_rate}


def drawn(cfg: ElasticConfig, legal: Sequence[tuple[str, str, str]], seed: int, iteration: int) -> list[Point]:
    """Return the points of a step. They depend on the arguments alone: every process draws the same, and so does a resumed run.

    Args:
        cfg: What is drawn from.
        legal: The legal triples, see `pairs`.
        seed: Seed of the training.
        iteration: 0-based step.
    """
    random, (low, high) = Random(f"elastic {seed} {iteration}"), cfg.keep_rates
    points = []
    for _ in range(cfg.draws):
        triple, at_lowest = random.choice(legal), random.random() < cfg.lowest
        rate = random.randint(round(low * _STEP), round(high * _STEP)) / _STEP
        points.append(Point(*triple, low if at_lowest else min(max(rate, low), high)))
    return points


def _unusable(kind: str, given: Sequence[str]) -> list[str]:
    """Return what is wrong with the names of selectors, treatments or schedules."""
    if not given:
        return [f"{kind}s is empty, allowed are one or more of {', '.join(names(kind))}"]
    problems = _unknown(f"{kind}s", kind, given)
    for name in (name for name in given if name in names(kind)):
        if kind == "schedule" and "keep_rate" not in options_of(kind, name):
            fitting = [other for other in names(kind) if "keep_rate" in options_of(kind, other)]
            problems.append(f"schedules has {name!r}, which has no keep rate to draw, allowed are {', '.join(fitting)}")
        if kind == "selector" and (get(kind, name).learns or get(kind, name).gated):
            problems.append(f"selectors has {name!r}, whose own weights no draw would train alike, allowed are selectors without any")
        if kind == "treatment" and name == "none":
            problems.append("treatments has 'none', which drops nothing: the model without pruning is trained in each step anyway")
    return problems


def _unknown(where: str, kind: str, given: Sequence[str]) -> list[str]:
    return [
        f"{where} has {name!r}.{hint(name, names(kind))} Available: {', '.join(names(kind))}" for name in given if name not in names(kind)
    ]
