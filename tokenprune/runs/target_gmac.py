"""`schedule.target_gmac`: how much a schedule must keep for an encoder to spend a given number of GMACs an image.

Where tokens set their own number (ALGM), an option of the selector is found instead, its `dial`. Counts that the schedule fixes, and the
expected counts of gates, are planned (`measure.macs`), so the answer needs no image; a sampler, whose count is each image's own matter, is
measured on training images. Either way the cost rises with what is kept: it is bisected.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from tokenprune.backbones.build import build_backbone
from tokenprune.engine.arguments import explicit
from tokenprune.engine.model import PrunedViT
from tokenprune.engine.prune import prune
from tokenprune.engine.schedule import TARGET, answered
from tokenprune.errors import InvalidSchedule
from tokenprune.measure.macs import Macs, encoder_macs, planned_macs
from tokenprune.runs.run import Run
from tokenprune.tasks.encoder import positions

IMAGES = 64  # training images on which a sampler is measured
STEP = 10_000  # keep rates are found to a ten-thousandth
DIAL_STEPS = 2_000  # of a selector's dial
_GIGA = 1e9
Choice = Mapping[str, Mapping[str, Any]]  # {"schedule": options} or {"selector": options}, in the place of the run's own
Cost = Callable[[Choice], float]  # in GMAC


def solved(config: Mapping[str, Any], task: Any, load: Callable[[Any], Any]) -> tuple[Run, list[str]]:
    """Return a run's configuration with the schedule that meets its `schedule.target_gmac`, and a note on it; as it is without one.

    Args:
        config: resolved and valid. task: the run's task, for the images. load: puts the start weights into a model of the task.

    Raises:
        InvalidSchedule: see `meet`; also for a sampler whose task has no encoder that takes whole images.
    """
    config = Run.of(config)
    if config.target_gmac is None:
        return config, []
    target, sampler = asked(config), samples(config)
    cost = _measured(config, task, load) if sampler else _planned(config)
    found, gmac = meet(choices(config), target, cost)
    how = f"expected on {IMAGES} training images" if sampler else "planned"
    name = setting(config)
    value = next(iter(found.values()))[name]
    note = f"{TARGET} {target:.4g}: {name} {value:g} found, {gmac:.4g} GMAC {how}"
    schedule = {**found.get("schedule", config.schedule), TARGET: config.target_gmac}
    return config.replace(**{**found, "schedule": schedule}), [note]


def asked(config: Mapping[str, Any]) -> float:
    """Return a run's target in GMAC: `schedule.target_gmac` itself, or a share of what its dense encoder spends ("65%").

    Raises:
        InvalidSchedule: it is neither.
    """
    config = Run.of(config)
    given = config.target_gmac
    try:
        share = float(given[:-1]) / 100 if isinstance(given, str) and given.endswith("%") else None
        target = float(given) if share is None else share * _planner(config)({"name": "none"}).total / _GIGA
    except (TypeError, ValueError):
        target = math.nan
    if isinstance(given, bool) or not 0 < target < math.inf:
        raise InvalidSchedule(f"schedule.{TARGET} is {given!r}; allowed: GMAC an image above 0, e.g. 3.0, or a share of the dense one: 65%")
    return target


def meet(options: Sequence[Choice], target: float, cost: Cost) -> tuple[Choice, float]:
    """Return the choice whose cost is nearest to a target, and that cost.

    Args:
        options: what to choose from, see `choices`. target: GMAC. cost: rises along the options; InvalidSchedule where too little is kept.

    Raises:
        InvalidSchedule: a target beyond what can be reached, with the range.
    """
    known: dict[int, float] = {}

    def at(place: int) -> float:
        if place not in known:
            known[place] = _or_nothing(cost, options[place])
        return known[place]

    last = len(options) - 1
    above = _first_reaching(target, at, last)
    below = [above - 1] if above and at(above - 1) >= 0 else []
    if at(above) < target or (at(above) > target and not below):
        first = _first(lambda place: at(place) >= 0, 0, last)
        raise InvalidSchedule(
            f"schedule.{TARGET} is {target:.4g}; this schedule reaches {at(first):.4g} to {at(last):.4g} GMAC with this model: "
            "give a number between, or another schedule"
        )
    place = min((*below, above), key=lambda p: abs(at(p) - target))
    return options[place], at(place)


def samples(config: Mapping[str, Any]) -> bool:
    """Tell whether a run's count is each image's own matter, so that plans are upper bounds: the selector has no count or target."""
    config = Run.of(config)
    return config.selector_kind is not None and config.selector_kind.count_role not in ("count", "target")


def plan(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], Macs]:
    """Return a run's schedule, its target met by planned counts where it has one, and the MACs it is planned to spend.

    For a sampler the schedule stays as it is and the MACs are its upper bound.
    """
    config = Run.of(config)
    schedule = config.schedule
    if schedule.get(TARGET) is not None and samples(config):
        choices(config)  # refuses a schedule without anything to set
    elif schedule.get(TARGET) is not None:
        schedule = meet(choices(config), asked(config), _planned(config))[0]["schedule"]
    return answered(schedule), _planner(config)(answered(schedule))


def _planned(config: Run) -> Cost:
    macs = _planner(config)
    return lambda choice: macs(choice["schedule"]).total / _GIGA


def _planner(config: Run) -> Callable[[Mapping[str, Any]], Macs]:
    """What plans the MACs of a run's encoder under any schedule."""
    vit = _without_memory(json.dumps({**config.backbone, "pretrained": None}, sort_keys=True))

    def macs(schedule: Mapping[str, Any]) -> Macs:
        with torch.device("meta"):
            model = prune(vit, schedule=explicit("schedule", schedule), positions=positions(config), losses=config.losses, **_axes(config))
        for number, selector in model.selectors.items():
            model.selectors[number] = selector.deploy()  # Cropr's queries are one then
        return planned_macs(model, positions(config))

    return macs


@lru_cache(maxsize=32)  # whole tables have one encoder, and building it takes longer than all that is done with it here
def _without_memory(backbone: str) -> nn.Module:
    with torch.device("meta"):
        return build_backbone(json.loads(backbone)).eval()


def _axes(config: Run) -> dict[str, Any]:
    if config.is_dense:
        return {}
    return {**{axis: config[axis] for axis in ("selector", "cls", "execution")}, "treatment": explicit("treatment", config.treatment)}


def _measured(config: Run, task: Any, load: Callable[[Any], Any]) -> Cost:
    """Mean GMAC of the model as it starts, on training images, for any choice."""
    torch.manual_seed(config.seed)
    model = task.build_model(config.replace(schedule=answered(config.schedule)))
    load(model)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    if not isinstance(model, PrunedViT):
        raise InvalidSchedule(
            f"schedule.{TARGET} of selector {config.selector_name!r} is found on whole images, which task {config.task_name!r}"
            " has not; allowed: task=classification, or schedule.keep_rate instead"
        )
    _, batches = task.calibration(model, config, IMAGES)

    @torch.no_grad()
    def cost(choice: Choice) -> float:
        axes = {"schedule": answered(config.schedule), **_axes(config), **choice}
        trial = prune(model.backbone, positions=positions(config), **{**axes, "schedule": explicit("schedule", axes["schedule"])})
        trial.load_state_dict(model.state_dict(), strict=False)  # a class token of its own, if it has one
        total = [encoder_macs(trial, trial.eval().encode(images)).total * len(images) for images in batches]
        return sum(total) / sum(map(len, batches)) / _GIGA

    return cost


def setting(config: Run) -> str:
    """Return the name of what is found for a target: the dial of the selector, else `remove` or `keep_rate` of the schedule.

    Raises:
        InvalidSchedule: the schedule has neither, and the selector has no dial.
    """
    schedule = answered(config.schedule)
    if config.dial is not None:
        return config.dial[0]
    known = [name for name in ("remove", "keep_rate") if name in schedule]
    if not known:
        name = schedule.get("name")
        raise InvalidSchedule(f"schedule {name!r} has neither keep_rate nor remove to meet {TARGET} with: leave it out")
    return known[0]


def choices(config: Run) -> Sequence[Choice]:
    """Return what a run can choose from, what stays ascending: its schedule with other numbers, or its selector with another dial.

    Raises:
        InvalidSchedule: see `setting`.
    """
    if config.dial is not None:
        name, few, many = config.dial
        values = [round(few + (many - few) * number / DIAL_STEPS, 6) for number in range(DIAL_STEPS + 1)]
        return [{"selector": {**config.selector, name: value}} for value in values]
    name, schedule = setting(config), answered(config.schedule)
    if name == "remove":
        return [{"schedule": {**schedule, name: count}} for count in range(positions(config), -1, -1)]
    free = {"rate": None} if "rate" in schedule else {}
    return [{"schedule": {**schedule, **free, name: number / STEP}} for number in range(1, STEP + 1)]


def _or_nothing(cost: Cost, choice: Choice) -> float:
    try:
        return cost(choice)
    except InvalidSchedule:
        return -math.inf


def _first_reaching(target: float, at: Callable[[int], float], last: int) -> int:
    """Return the first place from 0 to `last` whose cost is at least `target`; `last` if no cost is.

    Costs rise about evenly with the place, so every second guess interpolates. Each evaluation plans or even runs a model.
    """
    low, high, under, over = 0, last, -math.inf, at(last)
    halve = True
    while low < high and over >= target:
        guess = (low + high) // 2
        if not halve and under > -math.inf:
            guess = min(low + int((target - under) / (over - under) * (high - low)), high - 1)
        halve = not halve
        if at(guess) >= target:
            high, over = guess, at(guess)
        else:
            low, under = guess + 1, at(guess)
    return high


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The first place from low to high at which something holds that goes on holding; high if it holds nowhere before."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
