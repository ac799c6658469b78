"""One row in a few lines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenprune.errors import TokenPruneError
from tokenprune.runs.reasons import shortened
from tokenprune.runs.results import row_folder, scalars
from tokenprune.runs.run import Run
from tokenprune.runs.untrained import marks
from tokenprune.utils import console, distributed

_METRICS = (("ap_box", "box AP"), ("ap_mask", "mask AP"), ("top1", "top-1"), ("miou", "mIoU"))
_SPEEDS = (("seconds_encoder", "encoder"), ("seconds_backbone", "backbone"), ("seconds_total", "whole"))


def shown_row(config: Run, command: str = "") -> dict[str, Any]:
    """Return the row of a resolved, valid run, made or read, and say on the screen how it ended and how old it is if it was read.

    Args:
        config: The run.
        command: The command line that asks for it; see `run_row`.

    Raises:
        TokenPruneError: The row came to no result.
    """
    from tokenprune.runs.row import age_in_words, name_of, run_row, stored_row

    if distributed.is_main() and stored_row(config) is not None:
        console.say(f"{name_of(config)}: {age_in_words(config)}")
    row = run_row(config, command)
    if row["status"] != "ok":
        folder = row_folder(config.results_dir, row["key"])
        raise TokenPruneError(f"{name_of(config)}: {row['status']}: {shortened(row['reason'], folder)}")
    console.say(summary(row, config.results_dir))
    return row


def summary(row: Mapping[str, Any], results_dir: str) -> str:
    """Return a finished row in words, with where it lies."""
    metrics, cost = row["metrics"], row["cost"]
    scores = [_score(title, metrics[name], metrics.get(f"{name}_se")) for name, title in _METRICS if name in metrics]
    plain = scalars(cost)
    speed = [f"{title} {cost[n]:.4g} s/image" for n, title in _SPEEDS if cost.get(n)]
    if "images_per_second" in plain:
        speed.append(f"{plain['images_per_second']:.4g} images/s at batch {plain['images_per_second_batch']}")
    kept = ["cost not measured"]
    if "kept_share" in cost:
        kept = [f"encoder {cost['gmac_total']:.4g} GMAC, {cost['kept_share']:.1%} of the tokens kept"]
    elif "gmac_total" in cost:
        kept = [f"{cost['gmac_total']:.4g} GMAC"]
    lines = [
        f"{row['label']}, {row['treatment']}: " + (", ".join(scores) or "accuracy not measured"),
        "; ".join([*kept, ", ".join(speed) or "speed not measured"]),
        *([marks(row)] if marks(row) else []),
        f"result: {Path(results_dir) / 'rows' / row['key'] / 'result.json'}",
    ]
    return "\n".join(lines)


def _score(title: str, value: float, error: float | None) -> str:
    return f"{title} {value:.1f}" + ("" if error is None else f" ± {error:.1f}")
