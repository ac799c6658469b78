"""Measures the speeds that papers claim, at their sizes and with random weights; every row runs the same attention kernel."""

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from tokenprune.cli.gpu.cases import Case, Row, Setup, Unsupported
from tokenprune.cli.gpu.throughput import pictures
from tokenprune.engine.model import PrunedViT
from tokenprune.errors import TokenPruneError
from tokenprune.measure.throughput import ThroughputPlan, throughput
from tokenprune.runs.composer import composer
from tokenprune.runs.config import resolve
from tokenprune.runs.row import run_row
from tokenprune.runs.run import Run

_UNTRAINED = ("init=scratch", "dense.init=scratch", "training.iterations=0", "dense.training.iterations=0")
_UNLABELLED = ("data=unlabelled", *_UNTRAINED, "measure=[cost]")
_SQUARE = {"paper": ("data.short_side=1536", "data.long_side=1536"), "smoke": ("data.short_side=64", "data.long_side=64")}
_PASSES = ("task.evaluate.cost_images=1", "task.evaluate.speed_images=1", "task.evaluate.speed_warmup=5", "task.evaluate.speed_repeats=10")
_TIMES = ("seconds_encoder", "seconds_backbone", "seconds_total", "speedup_encoder", "memory_encoder_mib", "gmac_total")
CLASSES = 150  # of ADE20k


def cases(setup: Setup) -> Iterator[Case]:
    """Yield the rows of SViT's Table 5 at 1333 x 800, of Cropr's Figure 5 at 512, and of Cropr's Table 3 at 1536 pixels."""
    with composer() as compose:
        tables = {name: compose.rows(name, setup.scale)[:: setup.table_rows] for name in ("table5_speed", "cropr_table3_detection")}
        segmentation = [row for row in compose.rows("cropr_fig5_segmentation", setup.scale) if "seed=0" in row][:: setup.table_rows]
    dtype = () if setup.device.type == "cpu" else ("task.evaluate.speed_dtype=bfloat16",)
    more = {"table5_speed": (), "cropr_table3_detection": (*_UNLABELLED, *_SQUARE[setup.scale])}
    for overrides in segmentation:
        yield Case(_called(overrides), partial(segmented, [*overrides, f"scale={setup.scale}"], setup))
    for table, rows in tables.items():
        for overrides in rows:
            every = [*overrides, f"scale={setup.scale}", *more[table], *_PASSES, *dtype, *setup.short]
            yield Case(_called(overrides), partial(detected, every))


def _called(overrides: Sequence[str]) -> str:
    """Return the name of a row of a table, such as `table5_sota 06_svit`."""
    row = next(word for word in overrides if word.startswith("+rows/"))
    return row.removeprefix("+rows/").replace("=", " ")


def detected(overrides: Sequence[str]) -> list[Row]:
    """Return the times of one detector: encoder, encoder with pyramid, and whole, beside its own dense encoder in turn.

    Raises:
        Unsupported: Detectron2 is not installed.
        TokenPruneError: The row failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        row = run_row(_resolved([*overrides, f"results_dir={folder}"]))
    if row["status"] != "ok":
        kind = Unsupported if "etectron2" in row["reason"] and "install" in row["reason"] else TokenPruneError
        error = kind(row["reason"])
        error.status = row["status"] if kind is TokenPruneError else kind.status
        raise error
    times = {name: row["cost"].get(name) for name in _TIMES}
    return [{"method": row["method"], "treatment": row["treatment"], **times, "note": row["cost"].get("seconds_note")}]


def segmented(overrides: Sequence[str], setup: Setup) -> list[Row]:
    """Return the throughput of one segmenter's encoder, and its gain over the dense one."""
    run = _resolved(overrides)
    model: Any = run.task_kind().build(run, CLASSES)
    sizes, side = run.task["throughput"]["batch_sizes"], run.data.get("side") or run.backbone.get("img_size", 512)
    plan = ThroughputPlan((min(max(sizes), 32),), setup.rounds, warmup=2, dtype="bfloat16", largest=True)
    model, device = model.to(setup.device).eval(), setup.device
    found = throughput(model.pruned, lambda size, number: pictures(device, size, number, (side, side)), plan, device, around=_Encoder)
    speed, gain, batch = (found[f"throughput_{name}"][0] for name in ("mean", "speedup", "batch"))
    times = {"images_per_second": speed, "speedup_encoder": gain, "batch": batch}
    return [{"method": run.method, "treatment": run.treatment_name, **times, "note": found["throughput_note"]}]


class _Encoder(nn.Module):
    """Runs an encoder up to the map that a dense head reads."""

    def __init__(self, pruned: PrunedViT) -> None:
        super().__init__()
        self.pruned = pruned

    def forward(self, images: Tensor) -> Tensor:
        return self.pruned.encode(images).map


def _resolved(overrides: Sequence[str]) -> Run:
    with composer() as compose:
        return resolve(compose.compose(list(overrides)))
