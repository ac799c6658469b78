"""One run from a resolved configuration to a result row: what it starts from, training, evaluation, cost, the file on disk."""

import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprune.errors import CannotWrite, InvalidConfig, PeerFailed, TokenPruneError, reason_of, status_of
from tokenprune.registry import get
from tokenprune.runs import untrained
from tokenprune.runs.config import dense_of, pretrained_of
from tokenprune.runs.heads import CLASS_NAMES, check_head, hidden_head
from tokenprune.runs.reasons import ENDED_AS, shortened
from tokenprune.runs.results import check, finished, row_folder, write_result
from tokenprune.runs.run import Run
from tokenprune.runs.run_key import SCHEMA, chosen_plugins, plugins_of, run_key
from tokenprune.runs.tracking import pictures_of, tracked
from tokenprune.utils import console, distributed
from tokenprune.utils.environment import environment, installed
from tokenprune.utils.files import obstacle, saving
from tokenprune.utils.locks import locked
from tokenprune.utils.paths import weights_path

if TYPE_CHECKING:
    from tokenprune.training.elastic import Elastic

WEIGHTS = "model.safetensors"
PER_IMAGE = "per_image.safetensors"  # what was found for each validation image
LOSSES = "losses.csv"  # how the losses of the training fell, a line for each hundredth of it
RESAMPLED = "resampled.safetensors"  # metrics over resamples of the validation pictures
NOT_WRITTEN = "not written"  # begins the notes on files that are missing on disk
_REASON_LENGTH = 500


def run_row(config: Mapping[str, Any], command: str = "") -> dict[str, Any]:
    """Return the row of a resolved, valid configuration: read it if it is finished, else make it; never raises but on interruption.

    One run at a time makes a row, others wait for it. A killed row goes on from its last checkpoint. Where a run has several processes
    (torchrun), all call this: they train together, the main one decides, evaluates and writes, and all return its row.

    Args:
        config: The configuration.
        command: The command line that asks for the row, which a new row records; "" for none.
    """
    config = Run.of(config)
    key = run_key(config)
    folder = row_folder(config.results_dir, key)
    done = distributed.of_main(lambda: stored_row(config))
    if done is None:
        problem = distributed.of_main(lambda: obstacle(folder))
        if problem is not None:
            return relabelled(status_row(config, CannotWrite(problem)), config)
        with locked(folder / "lock", f"row {name_of(config)} ({key})"):
            done = distributed.of_main(lambda: stored_row(config)) or _new_row(config, folder, command)
    return relabelled(done, config)


def stored_row(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the row of a resolved configuration as it lies on disk, under the names that it was made with; None if it is to be made."""
    config = Run.of(config)
    path = row_folder(config.results_dir, run_key(config)) / "result.json"
    if _lacks_export(config) or (config.fresh is not None and path.is_file() and path.stat().st_mtime < config.fresh):
        return None
    return finished(path.parent)


def age_in_words(config: Mapping[str, Any]) -> str:
    """Return what to say of a row that is read and not made: since when it lies there, and what it depends on."""
    config = Run.of(config)
    path = row_folder(config.results_dir, run_key(config)) / "result.json"
    minutes = (time.time() - path.stat().st_mtime) / 60
    age = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"
    return f"made {age} ago and read from disk: same configuration, files and code of its plugins (--fresh makes it again)"


def status_row(config: Mapping[str, Any], error: BaseException) -> dict[str, Any]:
    """Return the row of a run that did not come to a result, with why."""
    config = Run.of(config)
    reason = reason_of(error)[:_REASON_LENGTH]
    row = {"status": status_of(error), "reason": reason, "metrics": {}, "cost": {}, "timing": {}, "notes": []}
    return {**_header(config), **row}


def relabelled(row: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored row under the names of this configuration: tables share rows, and names are no part of the key."""
    config = Run.of(config)
    return {**row, "label": config.shown_label, "method": config.method, "treatment": treatment_of(config)}


def treatment_of(config: Mapping[str, Any]) -> str:
    """Return the treatment as the papers call it (Evo-ViT's reactivation is listed as preserve)."""
    config = Run.of(config)
    name = config.treatment_name
    return config.treatment_labels.get(name, name)


def cls_of(config: Mapping[str, Any]) -> str:
    """Return the CLS token that a run has: its `cls` where the selector reads one, else the model's own (`learned`) or `none`.

    `own` with task=timm: whatever the model has.
    """
    config = Run.of(config)
    reads = config.selector_kind is not None and config.selector_kind.wants_cls(config.selector)
    if config.task_name == "timm":
        return "own"
    return config.cls if reads else "learned" if config.backbone.get("class_token", True) else "none"


def name_of(config: Mapping[str, Any]) -> str:
    """Return a short name of a run for messages, such as "EViT preserve 0.7"."""
    config = Run.of(config)
    rate, target = config.keep_rate, config.target_gmac
    word = f"at target {target}" if target is not None else "" if rate is None else str(rate)
    parts = [config.shown_label, treatment_of(config), word]
    return " ".join(p for p in parts if p and p != "none") + f" ({config.task_name}, seed {config.seed})"


def _new_row(config: Run, folder: Path, command: str) -> dict[str, Any]:
    """Make a row and write it: a row of a table ends with a status, whatever happened in it."""
    recorded = {"command": command} if command else {}
    try:
        with distributed.together():
            row = {**_make(config, folder), **recorded}
            check(row)
    except Exception as error:
        row, trace = {**status_row(config, error), **recorded}, traceback.format_exc()
        if distributed.is_main():
            text = f"{error.trace}\nlearned of as\n{trace}" if isinstance(error, PeerFailed) else trace
            with saving(folder / "error.txt"):
                (folder / "error.txt").write_text(text, encoding="utf-8", errors="backslashreplace")
    if distributed.is_main():
        with saving(folder / "result.json") as problems:
            write_result(folder, row)
        if problems:
            console.say(f"the row that could not be written:\n{json.dumps(row, default=str)}")
            row["notes"] = [*row["notes"], f"{NOT_WRITTEN}: {'; '.join(problems)}"]
        for left in ("last.pt", "error.txt") if row["status"] == "ok" else ():
            (folder / left).unlink(missing_ok=True)
    return distributed.of_main(lambda: row)


def _make(config: Run, folder: Path) -> dict[str, Any]:
    import torch

    from tokenprune.engine.model import pruned_of
    from tokenprune.runs.target_gmac import solved
    from tokenprune.training.curve import write_curve
    from tokenprune.training.loop import fit

    load, notes = _start(config)  # first, because it may be a run of its own
    console.say(f"running {name_of(config)}")
    task = config.task_kind()
    config, found = solved(config, task, load)  # schedule.target_gmac
    torch.manual_seed(config.seed)
    model = task.build_model(config)
    parts = untrained.drawn(model, task.head(model))
    untouched = hidden_head(task, model)
    load(model)
    notes += check_head(task, model, config, untouched)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    task.begin(model)
    torch.manual_seed(config.seed)
    begun = time.perf_counter()
    recipe = config.recipe
    pruned = pruned_of(model)
    elastic = _elastic(config, task, model)

    def advance(_: Any, iteration: int) -> None:
        if pruned is not None:
            pruned.progress = iteration / recipe.iterations
        if elastic is not None:
            elastic.before_step(iteration)

    losses = task.losses if elastic is None else elastic.losses
    with tracked(config, folder.name, name_of(config), pruned) as tracker:
        followed = None if tracker is None else tracker.step
        report = fit(model, lambda i: task.train_batches(config, i), losses, recipe, folder, name_of(config), advance, followed)
        if pruned is not None:
            pruned.progress, pruned.hearer = 1.0, None
        if report.curve and distributed.is_main():
            notes += _unwritten(folder / LOSSES, lambda: write_curve(folder / LOSSES, report.curve))
        notes += [*found, *report.notes, *untrained.notes(parts), *([] if elastic is None else [elastic.note])]
        row = distributed.of_main(lambda: _judged(task, model, config, folder, (begun, report.seconds), notes))
        if tracker is not None:
            tracker.end(row, pictures_of(task, model, config))
    return row


def _elastic(config: Run, task: Any, model: Any) -> "Elastic | None":
    """Return what draws the steps of an elastic training, None for another training."""
    from tokenprune.tasks.encoder import positions
    from tokenprune.training.elastic import Elastic

    cfg = config.recipe.elastic
    if cfg is None or not config.recipe.iterations:
        return None
    if not task.prunes:
        raise InvalidConfig(
            f"training.elastic trains encoders at several keep rates, and task={task.name} prunes none; use task=classification"
        )
    refused = [get("loss", name).refusal(task.name, task.gives) for name in cfg.losses]
    if any(refused):
        raise InvalidConfig([f"training.elastic: {text}" for text in refused if text])
    return Elastic(cfg, model, task.losses, config.recipe.seed, config.cls, positions(config))


def _judged(task: Any, model: Any, config: Run, folder: Path, times: tuple[float, float], notes: list[str]) -> dict[str, Any]:
    """Save and judge a trained model: the row. times: when the run began (by the clock of this process), seconds of its training."""
    from tokenprune.engine.model import pruned_of
    from tokenprune.runs.validation import idle_schedule
    from tokenprune.tasks.base import parameters_of
    from tokenprune.utils.checkpoints import save_weights

    model.eval()  # before calibration: what surrounds the encoder must not learn from it (batch norms)
    uncalibrated = _calibrate(task, model, config)
    measured = config.measure
    serves = "accuracy" in measured or config.training["iterations"]  # weights that were neither trained nor judged serve nobody
    if serves and pruned_of(model) is not None:  # a model of timm as it is has its file
        notes = [*notes, *_unwritten(folder / WEIGHTS, lambda: _save(model, config, folder, task.classes(config)))]
    trained = time.perf_counter()
    metrics = {k: float(v) for k, v in task.evaluate(model, config).items()} if "accuracy" in measured else {}
    evaluated = time.perf_counter()
    found = {PER_IMAGE: task.per_image, RESAMPLED: {} if task.resampled is None else task.resampled.tensors}
    for name, tensors in found.items() if "accuracy" in measured else ():
        if tensors:
            notes = [*notes, *_unwritten(folder / name, partial(save_weights, folder / name, tensors))]
    timing = {"train_s": round(times[1], 3), "eval_s": round(evaluated - trained, 3), "total_s": round(evaluated - times[0], 3)}
    cost = {**task.cost(model, config), **uncalibrated} if "cost" in measured else {}
    if "throughput" in measured:
        cost |= task.throughput(model, config)
    if "cost" in measured:
        cost["parameters"] = parameters_of(model)
    notes = [*notes, *filter(None, [idle_schedule(config)])] if task.prunes else notes
    row = {"status": "ok", "reason": "", "metrics": metrics, "cost": cost, "timing": timing}
    return {**_header(config), **row, "notes": [*notes, *getattr(model, "notes", ()), *task.notes(config), *_caveats(model)]}


def _calibrate(task: Any, model: Any, config: Run) -> dict[str, Any]:
    """Set thresholds of selectors that have some; return what they would have kept without."""
    from tokenprune.engine.model import pruned_of
    from tokenprune.training.calibration import calibrate, images_wanted, mean_usage

    pruned = pruned_of(model)
    if pruned is None or images_wanted(pruned) == 0:
        return {}
    encode, batches = task.calibration(model, config, images_wanted(pruned))
    share = mean_usage(pruned, encode, batches)
    calibrate(pruned, encode, batches)
    return {"kept_share_uncalibrated": share}


def _caveats(model: Any) -> list[str]:
    from tokenprune.engine.model import pruned_of
    from tokenprune.engine.selector import Selector

    pruned = pruned_of(model)
    if pruned is None:
        return []
    selectors = list(pruned.selectors.values())
    untaught = {s.taught_by for s in selectors if not s.caveat} - {"", *pruned.loss_terms}
    alone = [f"losses.{name}, which alone teaches the selector, is left out" for name in untaught]
    free = {s.name for s in selectors if type(s).macs is Selector.macs and type(s).__module__.partition(".")[0] != "tokenprune"}
    uncounted = [f"macs() is not overridden: the decisions of selector {name} are counted as free" for name in sorted(free)]
    return sorted({s.caveat for s in selectors} - {""}) + alone + uncounted


def _start(config: Run) -> tuple[Callable[[Any], Any], list[str]]:
    """Return what loads a new model's first weights, after training those if they are not there, and the row's notes on them.

    Loading a file adds to the notes where its head does not fit.
    """
    from tokenprune.backbones.hf import load_folder
    from tokenprune.backbones.weights import load_backbone
    from tokenprune.engine.model import pruned_of
    from tokenprune.utils.checkpoints import load_dense

    init, shipped = config.init, config.init_weights
    if init == "scratch":
        return lambda model: None, ["starts from random weights"]
    if init == "pretrained":
        pretrained = dependency(pretrained_of(config), config)
        note = f"starts from the classification run {pretrained.parent.name}"
        return lambda model: load_backbone(pruned_of(model) or model, pretrained), [note]
    if init == "dense" and shipped:
        return lambda model: load_dense(model, weights_path(shipped)), [f"starts from the dense weights {shipped}"]
    if init == "dense":
        dense = dependency(dense_of(config), config)
        return lambda model: load_dense(model, dense), [f"starts from the dense run {dense.parent.name}"]
    path = weights_path(str(init))
    notes = [f"starts from {path.name}"]
    if path.is_dir():
        return lambda model: notes.extend(load_folder(getattr(pruned_of(model), "backbone", model), path)), notes
    return lambda model: notes.extend(_load_any(model, path, config)), notes


def dependency(needed: Run, wanted: Run) -> Path:
    """Return the weights of a run that another one starts from, after making it if need be (once: see `run_row`).

    Raises:
        TokenPruneError: that run did not end well.
    """
    row = run_row(needed)
    path = row_folder(needed.results_dir, row["key"]) / WEIGHTS
    if row["status"] != "ok" or not path.is_file():
        reason = row["reason"] or f"its weights {path} are gone; remove the folder {path.parent}"
        raise TokenPruneError(f"{name_of(wanted)} starts from {name_of(needed)}{ENDED_AS}{row['status']}: {shortened(reason, path.parent)}")
    return path


def _load_any(model: Any, path: Path, config: Run) -> list[str]:
    """Load a file that holds the whole model, is a published one of the method (see `zoo`), or holds a ViT; return what is worth a note.

    Selectors and what the treatment has learned come from a file of the whole model that has all of them in their sizes, else they are new.
    A whole model whose head reads other tokens has its final norm in another place: its encoder and head are taken.
    """
    from tokenprune.backbones.weights import load_timm, load_vit
    from tokenprune.engine.model import pruned_of
    from tokenprune.utils.checkpoints import holds_learned_parts, load_dense, load_weights, read_metadata, read_weights
    from tokenprune.zoo.load import SETTINGS, load_into

    pruned = pruned_of(model)
    if pruned is None:
        load_timm(model, path)
        return []
    if SETTINGS in read_metadata(path):  # a file of `zoo convert`, whose selectors count
        return load_into(model, path, config) or []
    weights = read_weights(path)
    own = set(model.state_dict())
    moved_norm = any("fc_norm." in key for key in own ^ set(weights))
    if len(own & set(weights)) > len(pruned.state_dict()) // 2 and not moved_norm:
        if not holds_learned_parts(weights, model):
            load_dense(model, path)
            return []
        load_weights(path, model, convert=getattr(model, "adopt", None))
        return [f"its selectors, too, are those of {path.name}"]
    published = load_into(model, path, config)
    return load_vit(pruned, path) if published is None else published


def _unwritten(path: Path, write: Callable[[], object]) -> list[str]:
    """Write a file beside the row; return notes on why it could not be, none if it was."""
    with saving(path) as problems:
        write()
    return [f"{NOT_WRITTEN}: {problem}" for problem in problems]


def _save(model: Any, config: Run, folder: Path, classes: tuple[str, ...]) -> None:
    import torch

    from tokenprune.utils.checkpoints import save_weights

    about = {"key": run_key(config), "run": name_of(config), "tokenprune": installed("tokenprune") or "unknown"}
    about |= {CLASS_NAMES: json.dumps(classes)} if classes else {}
    save_weights(folder / WEIGHTS, model, metadata=about)
    if config.export_weights:
        path = weights_path(config.export_weights)
        save_weights(path, model, dtype=torch.float16, metadata=about)
        console.say(f"wrote {path}")


def _lacks_export(config: Run) -> bool:
    return bool(config.export_weights) and not weights_path(config.export_weights).is_file()


def _files_of_others(config: Run) -> list[Path]:
    """Return the files of the plugins that a run uses and that are not of this package."""
    modules = {plugin.__module__ for plugin in chosen_plugins(config).values()}
    files = [getattr(sys.modules.get(name), "__file__", None) for name in modules if name.partition(".")[0] != "tokenprune"]
    return [Path(file) for file in files if file is not None]


def _header(config: Run) -> dict[str, Any]:
    stored = {k: v for k, v in config.items() if k not in ("results_dir", "validate_only")}
    return {
        "schema": SCHEMA, "key": run_key(config), "config": stored, "label": config.shown_label,
        "method": config.method, "treatment": treatment_of(config), "scale": config.scale, "task": config.task_name,
        "data": config.data_name, "seed": config.seed, "cls": cls_of(config), "execution": config.execution,
        "environment": environment(_files_of_others(config)), "plugins": plugins_of(config),
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }  # fmt: skip
