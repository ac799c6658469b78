"""Cross-field checks of a composed run, all problems at once, before any weight or image is read."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import groupby
from typing import Any, TypeGuard

from tokenprune.backbones.build import depth
from tokenprune.data.source import data_source
from tokenprune.engine.blocks.class_token import SOURCES
from tokenprune.engine.legality import EXECUTIONS, check_pairing
from tokenprune.engine.schedule import Budget, answered
from tokenprune.errors import InvalidConfig, TokenPruneError
from tokenprune.measure.macs import Macs
from tokenprune.registry import get, names
from tokenprune.runs.config import pretrained_of
from tokenprune.runs.plugin_options import defaults
from tokenprune.runs.reports import build_reports
from tokenprune.runs.run import NONE, Run
from tokenprune.runs.run_key import MEASURES, MORE_MEASURES, STARTS
from tokenprune.runs.target_gmac import asked, plan, samples, setting
from tokenprune.runs.tracking import check_installed, tracking_problems
from tokenprune.tasks.encoder import positions
from tokenprune.training.settings import TrainingConfig
from tokenprune.utils import console
from tokenprune.utils.hf_folder import is_hf
from tokenprune.utils.paths import weights_path
from tokenprune.utils.settings import read_settings

_PLAIN = {"classification": "reads no maps", "segmentation": "has its head on the ViT itself"}  # tasks without an adapter
# How planned counts are called, by the selector's `count_role`.
_PLANS = {"count": "", "target": "expected ", "cap": "at most ", "blocks": "at most "}


def validate(run: Mapping[str, Any], files: bool = True) -> str:
    """Check a resolved configuration (see `config.resolve`) and return its schedule in words.

    Args:
        files: False for `validate_only`: data and weights may be missing.

    Raises:
        InvalidConfig: every problem found, each with what was got, what is allowed and how to fix it.
        IncompatiblePairing, InvalidSchedule: where that is the only problem.
    """
    config = Run.of(run)
    problems: list[TokenPruneError] = []
    with _noting(problems):
        task = config.task_kind
        refusals = [get("loss", name).refusal(task.name, task.gives) for name in config.losses]
        problems += [InvalidConfig(reason) for reason in refusals if reason]
        task.check(config)
    with _noting(problems):
        build_reports(config.reports)
    with _noting(problems):
        if config.task_name in names("task"):
            config.task_kind.check_data(config, files)
        data_source(config.data)
    for section in ("training", *(("dense.training",) if config.trains_dense else ())):
        with _noting(problems):
            read_settings(TrainingConfig, _at(config, section), section)
    with _noting(problems):
        _pretrained(config)
    problems += map(InvalidConfig, _fields(config))
    words = ""
    prunes = config.task_name not in names("task") or config.task_kind.prunes
    problems += map(InvalidConfig, _sizes(config) if prunes else ())
    with _noting(problems):
        words = _pairing(config) if prunes else config.task_kind.plan_in_words(config)
    if files:
        problems += map(InvalidConfig, _files(config))
        with _noting(problems):
            check_installed(config.tracking)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise InvalidConfig([str(p) for p in problems])
    return words


@contextmanager
def _noting(problems: list[TokenPruneError]) -> Iterator[None]:
    try:
        yield
    except InvalidConfig as error:
        problems += map(InvalidConfig, error.problems)
    except TokenPruneError as error:
        problems.append(error)


def _pretrained(config: Run) -> None:
    """Check the classification run that a row starts from, where it starts from one."""
    start = config.dense["init"] if config.trains_dense else config.init
    if start != "pretrained":
        return
    problems: list[TokenPruneError] = []
    run = pretrained_of(config)
    for check in (run.task_kind.check, lambda run: data_source(run.data), lambda run: run.recipe):
        with _noting(problems):
            check(run)
    if problems:
        raise InvalidConfig([f"pretrained: {problem}" for problem in problems])


def _fields(config: Run) -> list[str]:
    rate = _keep_rate(config)
    problems = []
    if isinstance(rate, bool) or not isinstance(rate, (int, float)):
        problems.append(f"schedule.keep_rate is {rate!r}, which is no number; allowed: 0 < keep_rate <= 1, e.g. schedule.keep_rate=0.7")
    elif not 0 < rate <= 1:
        problems.append(f"schedule.keep_rate is {rate}; allowed: 0 < keep_rate <= 1 (the kept fraction, 1 keeps every token)")
    for name, allowed in (("cls", SOURCES), ("execution", EXECUTIONS)):
        if config[name] not in allowed:
            problems.append(f"{name} is {config[name]!r}; allowed: {', '.join(allowed)}")
    return problems + tracking_problems(config.tracking) + _measures(config) + _dense_or_pruned(config) + _suits(config)


def _keep_rate(config: Run) -> Any:
    """Return the keep rate of a run; 1 where its schedule has none, or null by default because it then keeps to a plan of its own."""
    rate, name = config.schedule.get("keep_rate", 1.0), config.schedule_name
    planned = rate is None and name in names("schedule") and defaults("schedule", name).get("keep_rate", 1.0) is None
    return 1.0 if planned else rate


def _measures(config: Run) -> list[str]:
    measure, task, problems = config.measure, config.task_name, []
    if not measure or not set(measure) <= {*MEASURES, *MORE_MEASURES}:
        return [f"measure is {measure}; allowed: [{', '.join(MEASURES)}] or one of them, and {', '.join(MORE_MEASURES)}"]
    if "throughput" in measure and task in names("task") and not config.task_kind.measures_throughput:
        problems.append(f"measure holds throughput, which task={task} does not measure; allowed there: [{', '.join(MEASURES)}]")
    known = config.data_name in names("data")
    if known and "accuracy" in measure and not get("data", config.data_name).labelled:
        problems.append(
            f"measure holds accuracy, and data={config.data_name} has no labels to judge by; use measure=[cost] or another data set"
        )
    return problems


def _dense_or_pruned(config: Run) -> list[str]:
    dense = [config.is_dense, config.schedule_name == NONE]
    if dense[0] != dense[1]:
        given = ", ".join(f"{axis} is {config[axis].get('name')!r}" for axis in ("selector", "schedule"))
        return [f"{given}: a dense model has neither, a pruned one needs both; choose a method, e.g. method=evit"]
    return []


def _suits(config: Run) -> list[str]:
    """Whether a selector's tokens are what the task reads, and the task gives what the selector learns from."""
    selector, task = config.selector_name, config.task_name
    if selector not in names("selector") or task not in names("task"):
        return []

    def obstacle(name: str) -> str:
        kind = get("selector", name)
        missing = [field for field in kind.needs if field not in get("task", task).gives]
        if kind.mixing and task != "classification":
            return f"whose tokens are mixtures without a place in a map, and task={task} reads maps"
        return f"which learns from {', '.join(missing)}, and task={task} gives none" if missing else ""

    reason, other = obstacle(selector), "classification" if get("selector", selector).mixing else "segmentation"
    suited = ", ".join(name for name in names("selector") if not obstacle(name))
    return [f"selector is {selector!r}, {reason}; allowed there: {suited}; or use task={other}"] if reason else []


def _whole(value: Any) -> TypeGuard[int]:
    """Tell whether a value is a whole number above 0; others are refused where the backbone is read."""
    return isinstance(value, int) and value > 0


def _sizes(config: Run) -> list[str]:
    backbone, data = config.backbone, config.data
    patch, problems = backbone.get("patch_size"), []
    for name, size in (("backbone.img_size", backbone.get("img_size")), ("data.side", data.get("side"))):
        if _whole(size) and _whole(patch) and size % patch:
            problems.append(f"{name} is {size}, which backbone.patch_size={patch} does not divide; allowed: multiples of {patch}")
    dim, heads = backbone.get("embed_dim"), backbone.get("num_heads")
    if _whole(dim) and _whole(heads) and dim % heads:
        problems.append(f"backbone.embed_dim is {dim}, which backbone.num_heads={heads} does not divide; allowed: multiples of {heads}")
    task = config.task_name
    if backbone.get("adapter") is not None and task in _PLAIN:
        problems.append(f"backbone.adapter is set, and {task} {_PLAIN[task]}; allowed: a plain ViT, e.g. backbone=vit_tiny")
    return problems


def _pairing(config: Run) -> str:
    selector = config.selector
    if config.is_dense:
        return "dense: every token in every block" + _cost_in_words(config, plan(config)[1])
    if config.schedule_name == NONE or _bad_rate(config):
        get("selector", config.selector_name)  # what else can be said without a schedule
        return ""
    size = {"depth": depth(config.backbone), "positions": positions(config)}
    execution = _known_execution(config)
    check_pairing(selector, config.treatment, answered(config.schedule), execution=execution, **size)
    schedule, cost = plan(config)
    budgets = check_pairing(selector, config.treatment, schedule, execution=execution, **size)
    if idle := idle_schedule(config.replace(schedule=schedule)):
        console.warn(f"{config.shown_label}: {idle}")
    role = get("selector", config.selector_name).count_role
    words = _in_words(budgets, _PLANS[role])
    return f"{size['positions']} positions: {words}{_cost_in_words(config, cost)}"


def idle_schedule(run: Mapping[str, Any]) -> str:
    """Return what to say of a run whose schedule drops nothing although its keep rate is below 1; "" for others."""
    config = Run.of(run)
    if config.is_dense or config.schedule_name == NONE or _bad_rate(config) or _keep_rate(config) == 1:
        return ""
    blocks, size = depth(config.backbone), positions(config)
    budgets = check_pairing(config.selector, config.treatment, answered(config.schedule), depth=blocks, positions=size)
    role = get("selector", config.selector_name).count_role
    if any(budget.keep < budget.live or role == "blocks" for budget in budgets):
        return ""
    what = f"keeps all {size} tokens wherever it decides" if budgets else f"decides in none of the {blocks} blocks"
    return f"schedule {config.schedule_name!r} {what}: nothing is dropped, although schedule.keep_rate is {config.keep_rate}"


def _in_words(budgets: tuple[Budget, ...], word: str) -> str:
    """What the schedule says; `word` tells what its counts are to the selector."""
    groups = [(keep, [b.block for b in group]) for keep, group in groupby(budgets, lambda b: b.keep)]
    words = [f"block {_range(blocks)} keep {word}{keep}" for keep, blocks in groups]
    return ", ".join(words) or "nothing is dropped"


def _range(blocks: list[int]) -> str:
    """Blocks in words: 3, 3-5, or 0, 4, 8."""
    if len(blocks) > 1 and blocks == list(range(blocks[0], blocks[-1] + 1)):
        return f"{blocks[0]}-{blocks[-1]}"
    return ", ".join(map(str, blocks))


def _bad_rate(config: Run) -> bool:
    rate = _keep_rate(config)
    return isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= 1


def _known_execution(config: Run) -> str:
    return config.execution if config.execution in EXECUTIONS else "auto"


def _cost_in_words(config: Run, cost: Macs) -> str:
    count_role = config.selector_kind.count_role if config.selector_kind else "count"
    word = {"count": "", "target": "expected "}.get(count_role, "at most ")
    open_ = samples(config) and config.target_gmac is not None
    later = f"; {setting(config)} is found on training images for {asked(config):.3g} GMAC" if open_ else ""
    return f"; planned: {word}{cost.total / 1e9:.3g} GMAC{later}"


def _files(config: Run) -> list[str]:
    problems = []
    with suppress(TokenPruneError):  # of options that do not exist, which `validate` has noted
        missing = data_source(config.data).missing()
        problems += [missing] if missing else []
    start = config.dense["init"] if config.trains_dense else config.init
    if start is None:
        problems.append("dense.init is not set: at this scale the dense model starts from ImageNet weights; set dense.init=FILE or scratch")
    elif start not in STARTS and not weights_path(start).is_file() and not (is_hf(config.backbone) and weights_path(start).is_dir()):
        problems.append(f"init is {start!r}; allowed: {', '.join(STARTS)}, or a file of weights, and there is no such file")
    weights = config.init_weights
    if weights is not None and config.init == "dense" and not weights_path(weights).is_file():
        problems.append(f"init_weights is {weights!r}, and {weights_path(weights).name} is missing; make it (`make weights`) or give =null")
    return problems


def _at(config: Run, path: str) -> Any:
    for name in path.split("."):
        config = config[name]
    return config
