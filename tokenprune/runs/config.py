"""Configurations: where the YAML lives, the top-level schema, composing one outside the command line, and deriving one from another."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from itertools import chain
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

from tokenprune.engine.schedule import TARGET, answered
from tokenprune.errors import InvalidConfig
from tokenprune.registry import names
from tokenprune.runs.help import group_help
from tokenprune.runs.hydra_sources import register_sources
from tokenprune.runs.plugin_options import KINDS, defaults
from tokenprune.runs.run import NONE, Run
from tokenprune.runs.run_key import MEASURES
from tokenprune.runs.zoo_rows import entries_for, zoo_file
from tokenprune.utils.hf_folder import folder_value
from tokenprune.utils.paths import at_home, config_dir
from tokenprune.utils.settings import nearest_setting

FREE = ("selector", "treatment", "schedule", "losses", "backbone", "task", "data", "training", "reports")  # mappings of plugins
REPORTS = ("table", "plot")  # what every sweep ends with; they say nothing more about one row than its result does


@dataclass
class DenseConfig:
    """The dense model that `init: dense` stands for, when it has to be trained."""

    init: str | None = "scratch"  # scratch | pretrained | a file of backbone weights; null: has to be given
    seed: int = 0  # one dense model serves all seeds of its rows
    training: dict[Any, Any] = field(default_factory=dict)


@dataclass
class PretrainedConfig:
    """The classification run that `init: pretrained` stands for: the same backbone, on embedded images."""

    data: dict[str, Any] = field(default_factory=lambda: {"name": "shapes", "side": 128, "train_size": 20000, "val_size": 300, "seed": 0})
    task: dict[Any, Any] = field(default_factory=dict)
    training: dict[Any, Any] = field(default_factory=dict)


@dataclass
class ZooConfig:
    """The place of published files, see `zoo=NAME`."""

    folder: str | None = None


_PARTS = {"dense": DenseConfig, "pretrained": PretrainedConfig}


@dataclass
class RunConfig:
    """One run. The groups are free mappings that their own plugins check; everything else is typed here.

    method, scale: names of the chosen presets. init: dense | scratch | pretrained | demo | a file. init_weights: dense weights to use
    instead of training the dense model: demo, demo_classifier (both shipped with the package) | a file | null. cls: the CLS token of a
    dense task: learned | random | mean.
    losses: {name: options} that the method adds, null for a loss less. treatment_labels: what a table prints for a treatment.
    export_weights: where the trained weights are also written, in half precision. reports: {name: options} of what a sweep ends with, null
    for a report less. with_rows: False for an experiment that has reports only.
    measure: accuracy (AP, top-1, mIoU), cost (MACs, kept shares,
    seconds) and throughput (images/s over batch sizes), any of them. fresh: rows made before this time (seconds since 1970) are made again;
    `--fresh` sets it to now. tracking: none, tensorboard or wandb, what follows a row in files. zoo: the folder of published files, which
    only names `init`.
    """

    method: str = "dense"
    label: str = ""
    treatment_labels: dict[str, str] = field(default_factory=dict)
    scale: str = "demo"
    experiment: str | None = None
    selector: dict[Any, Any] = field(default_factory=dict)
    treatment: dict[Any, Any] = field(default_factory=dict)
    schedule: dict[Any, Any] = field(default_factory=dict)
    losses: dict[str, Any] = field(default_factory=dict)
    cls: str = "learned"
    execution: str = "auto"
    backbone: dict[Any, Any] = field(default_factory=dict)
    task: dict[Any, Any] = field(default_factory=dict)
    data: dict[Any, Any] = field(default_factory=dict)
    training: dict[Any, Any] = field(default_factory=dict)
    init: str = "dense"
    init_weights: str | None = None
    dense: DenseConfig = field(default_factory=DenseConfig)
    pretrained: PretrainedConfig = field(default_factory=PretrainedConfig)
    export_weights: str | None = None
    reports: dict[str, Any] = field(default_factory=lambda: {name: {} for name in REPORTS})
    with_rows: bool = True
    measure: list[str] = field(default_factory=lambda: list(MEASURES))
    seed: int = 0
    results_dir: str = "results"
    validate_only: bool = False
    fresh: float | None = None
    tracking: str = "none"
    zoo: ZooConfig = field(default_factory=ZooConfig)


def register_schema() -> None:
    """Make `schema`, the first entry of conf/config.yaml, seven resolvers and the sources of configurations known to Hydra.

    `${at_scale:${scale},SMOKE,DEMO,PAPER}` is the value of a scale; `${where:VALUE,EXPECTED,THEN}` is THEN where the value is the
    expected one, or one of a list, else null, or a fourth argument; `${group_help:}` is the list of groups that --help shows;
    `${at_home:PATH}` is a path with the user's home folder for `~`; `${hf_folder:FOLDER,NAME}` is a size of a model of transformers;
    `${zoo_file:FOLDER,FILE}` is the path of a published file; `${zoo_entries:TASK}` lists the published files of a task.
    """
    OmegaConf.register_new_resolver("at_scale", _at_scale, replace=True)
    OmegaConf.register_new_resolver("where", _where, replace=True)
    OmegaConf.register_new_resolver("group_help", group_help, replace=True)
    OmegaConf.register_new_resolver("at_home", at_home, replace=True)
    OmegaConf.register_new_resolver("hf_folder", folder_value, replace=True)
    OmegaConf.register_new_resolver("zoo_file", zoo_file, replace=True)
    OmegaConf.register_new_resolver("zoo_entries", entries_for, replace=True)
    ConfigStore.instance().store(name="schema", node=_schema())
    register_sources()


def _schema() -> DictConfig:
    """Return the schema; its free mappings take any option without a plus, because their plugins check the options themselves."""
    schema = OmegaConf.structured(RunConfig)
    for mapping in (*(schema[name] for name in FREE), schema.dense.training, *schema.pretrained.values()):
        OmegaConf.set_struct(mapping, False)
    return schema


def _at_scale(scale: str, smoke: Any, demo: Any, paper: Any) -> Any:
    values = {"smoke": smoke, "demo": demo, "paper": paper}
    if scale not in values:
        raise InvalidConfig(f"scale is {scale!r}; allowed: {', '.join(values)}")
    return values[scale]


def _where(value: Any, expected: Any, then: Any, otherwise: Any = None) -> Any:
    return then if (value in expected if isinstance(expected, list) else value == expected) else otherwise


def compose(overrides: list[str]) -> DictConfig:
    """Compose a run as the command line does, for example `compose(["method=evit", "scale=smoke"])`."""
    register_schema()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return composed(overrides)


def composed(overrides: list[str]) -> DictConfig:
    """Compose a run where Hydra is set up already (see `compose`); `implied_method` completes the choices."""
    config = hydra_compose("config", overrides=overrides, return_hydra_config=True)
    implied = implied_method(config.hydra.runtime.choices)
    if implied:
        config = hydra_compose("config", overrides=[*overrides, implied])
    with open_dict(config):
        config.pop("hydra", None)
    return config


def implied_method(choices: Mapping[str, str]) -> str | None:
    """Return the override `method=NAME` for a selector that was chosen without a method, which takes the preset of its name; else None.

    Args:
        choices: {group: option} of a composed run, as Hydra reports it in `hydra.runtime.choices`.
    """
    alone = choices["method"] == "dense" and choices["selector"] != "none"
    return f"method={choices['selector']}" if alone else None


def resolve(cfg: DictConfig) -> Run:
    """Return the run that a composed configuration stands for; values that are not set stay '???', `~` is the home folder in paths.

    A dense row at a scale without shipped weights is the dense model itself: it is not trained any further.

    Raises:
        InvalidConfig: settings that do not exist, which a plus on the command line or a file may have added.
    """
    values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    _only_mappings(values)  # type: ignore[arg-type]
    values.pop("zoo", None)  # type: ignore[union-attr,call-arg,arg-type]  # `init` has taken it in
    only_known(values)  # type: ignore[arg-type]
    run = _at_home(Run.of(values))  # type: ignore[arg-type]
    backbone = {name: value for name, value in run.backbone.items() if name != "by_scale"}  # what its other values were chosen from
    losses = {name: options for name, options in run.losses.items() if options is not None}
    # A run without a target has the key it always had; the keep rate and the target of a dense run only serve sweeps.
    schedule = {"name": NONE} if run.schedule_name == NONE else run.schedule if run.target_gmac is not None else answered(run.schedule)
    seeded = {part: {**run[part], "training": {**run[part]["training"], "seed": run.dense["seed"]}} for part in ("dense", "pretrained")}
    run = run.replace(backbone=backbone, losses=losses, schedule=schedule, task=_task_of(run), **seeded)
    if run.is_dense and run.trains_dense:
        return dense_of(run, run.seed).replace(label=run.label, fresh=run.fresh)
    return run


def _only_mappings(values: Mapping[str, Any]) -> None:
    """Refuse a group that is no mapping, which an interpolation can make of it (`reports=${scale}`)."""
    parts = {name: values.get(name) for name in (*FREE, "treatment_labels", *_PARTS)}
    for part in (name for name in _PARTS if isinstance(parts[name], Mapping)):
        parts |= {f"{part}.{f.name}": (parts[part] or {}).get(f.name) for f in fields(_PARTS[part]) if f.default_factory is not MISSING}
    wrong = {name: value for name, value in parts.items() if value is not None and not isinstance(value, Mapping)}
    if wrong:
        raise InvalidConfig(
            [f"{name} is {value!r}; allowed: a mapping, e.g. {name}.KEY=VALUE for one setting" for name, value in wrong.items()]
        )


def only_known(values: Mapping[str, Any]) -> None:
    """Refuse settings that do not exist. The options of a plugin are left to the plugin.

    Args:
        values: A composed configuration as plain mappings, its interpolations resolved or not.

    Raises:
        InvalidConfig: Such settings; the message names each and what was probably meant.
    """
    run = Run.of(values)
    listed = {part: [f.name for f in fields(schema)] for part, schema in _PARTS.items()}
    listed |= {kind: _all_options(kind) for kind in KINDS if run[kind].get("name", NONE) == NONE}  # nothing builds these of a dense run
    problems = []
    for part, allowed in listed.items():
        paths = [f"{part}.{name}" for name in allowed]
        unknown = [path for path in (f"{part}.{key}" for key in run[part]) if path not in paths]
        problems += [f"there is no setting {path!r}.{nearest_setting(path, paths)} Allowed: {', '.join(paths)}" for path in unknown]
    if problems:
        raise InvalidConfig(problems)


def _all_options(kind: str) -> list[str]:
    """Return the options of all plugins of a kind: a sweep may give a dense row those of the other rows."""
    return ["name", *({TARGET: None} if kind == "schedule" else {}), *dict.fromkeys(chain(*(defaults(kind, n) for n in names(kind))))]


def _at_home(run: Run) -> Run:
    """Return a run with the user's home folder for a `~` at the start of its paths, which no shell replaces behind a dotted key."""
    changed = {name: at_home(run[name]) for name in ("results_dir", "init", "init_weights", "export_weights")}
    changed["dense"] = {**run.dense, "init": at_home(run.dense.get("init"))}
    for name in ("data", "backbone"):
        changed[name] = {key: at_home(value) if key in ("root", "pretrained", "model") else value for key, value in run[name].items()}
    data = run.pretrained.get("data", {})
    changed["pretrained"] = {**run.pretrained, "data": {key: at_home(value) if key == "root" else value for key, value in data.items()}}
    return run.replace(**changed)


def _task_of(run: Run) -> dict[str, Any]:
    """Return a run's task, completed; without how throughput is measured where it is not, so that the key does not depend on it."""
    task = run.task_kind.completed(run) if run.task_name in names("task") else run.task
    return {name: value for name, value in task.items() if name != "throughput" or "throughput" in run.measure}


def dense_of(run: Mapping[str, Any], seed: int | None = None) -> Run:
    """Return the run that trains the dense model a row starts from: same task, backbone, data and CLS; no selector; its own recipe."""
    run = Run.of(run)
    seed = run.dense["seed"] if seed is None else seed
    dense = run.replace(
        **{axis: {"name": NONE} for axis in KINDS}, method="dense", label="Dense", cls="learned", treatment_labels={}, losses={},
        execution="auto", fresh=None,
        init=run.dense["init"], init_weights=None, training={**run.dense["training"], "seed": seed}, seed=seed,
    )  # fmt: skip
    if run.method != "dense":
        dense = dense.replace(export_weights=None, measure=list(MEASURES))
    return dense.replace(task=_task_of(dense))


def pretrained_of(run: Mapping[str, Any]) -> Run:
    """Return the classification run that a dense model starts from: same ViT (no adapter), from scratch, on the embedded images."""
    run = Run.of(run)
    given = run.pretrained
    size = run.backbone.get("img_size", given["data"]["side"])
    plain_vit = {name: value for name, value in run.backbone.items() if name not in ("adapter", "windows")}  # which only a detector has
    dense = dense_of(run.replace(export_weights=None))
    return dense.replace(
        init="scratch", export_weights=None, measure=list(MEASURES), task=given["task"], backbone=plain_vit,
        data={**given["data"], "side": size}, training={**given["training"], "seed": dense.seed},
    )  # fmt: skip
