"""Results folders for pages: two seeds of a method, predictions of single images, token maps, a row that failed."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from tests.helpers.fakes import row
from tokenprune.runs.results import row_folder, write_result
from tokenprune.runs.row import PER_IMAGE
from tokenprune.utils.checkpoints import save_weights

TRUE = torch.arange(200) % 10
EXPERIMENT = "mine"


def classified(key: str, selector: str, top1: float, gmac: float, **changes: Any) -> dict[str, Any]:
    """Return the row of a classifier; `rate` is its keep rate, `typed` the command that it records."""
    treatment = changes.pop("treatment", "none" if selector == "none" else "remove")
    name = "dense" if selector == "none" else selector
    rate, typed, seed = changes.pop("rate", None), changes.pop("typed", None), changes.get("seed", 0)
    schedule = {"name": "none"} if selector == "none" else {"name": "stages", "keep_rate": rate}
    config = {"experiment": EXPERIMENT, "selector": {"name": selector}, "schedule": schedule, "seed": seed}
    cost = {"gmac_total": gmac, "seconds_total": gmac / 100, "speedup_encoder": 4.0 / gmac, "memory_encoder_mib": 10 * gmac}
    cost |= {"speedup_encoder_quartiles": [3.9 / gmac, 4.1 / gmac], "kept_per_block": [1.0, gmac / 4]}
    made = row(
        key=key, config=config, label=name.title(), method=name, treatment=treatment,
        task="classification", cost=cost, **changes,
    )  # fmt: skip
    return {**made, "metrics": {"top1": top1, "top1_se": 2.0}, **({"command": typed} if typed else {})}


def judged(folder: Path, one: dict[str, Any], right: int, true: torch.Tensor = TRUE) -> None:
    """Write a row whose model has the first `right` images right and takes the others for class -1."""
    write_result(row_folder(folder, one["key"]), one)
    predicted = true.clone()
    predicted[right:] = -1
    save_weights(row_folder(folder, one["key"]) / PER_IMAGE, {"predicted": predicted.int(), "true": true.int()})


def results(folder: Path) -> Path:
    """Write a results folder: a dense row, EViT with two seeds, ToMe, Random, one that diverged; token maps of EViT and ToMe."""
    judged(folder, classified("d0", "none", 75.0, 4.0, typed="tokenprune run method=dense"), 150)
    judged(folder, classified("e0", "evit", 60.0, 2.0, rate=0.7), 120)
    judged(folder, classified("e1", "evit", 64.0, 2.0, rate=0.7, seed=1), 128)
    judged(folder, classified("t0", "tome", 70.0, 2.5, treatment="merge", typed="tokenprune run method=tome 'data.root=/a b'"), 140)
    judged(folder, classified("r0", "random", 40.0, 2.2, rate=0.5), 80)
    bad = classified("b0", "ats", 0.0, 2.0, status="diverged", reason="the loss is nan") | {"metrics": {}, "cost": {}}
    write_result(row_folder(folder, "b0"), bad)
    cells = [
        (name, y, x, value + x)
        for name, value in (("Evit, remove, 0.7, seed 0", 3.0), ("Tome, merge, seed 0", 6.0))
        for y in (0, 1)
        for x in (0, 1, 2)
    ]
    table = folder / "tables" / EXPERIMENT
    table.mkdir(parents=True)
    pd.DataFrame(cells, columns=["row", "map_row", "map_column", "mean_blocks"]).to_csv(table / "usage_map.csv", index=False)
    return folder
