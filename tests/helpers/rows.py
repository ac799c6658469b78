"""Finished rows of tiny untrained models, for what reads a row's weights."""

from pathlib import Path
from typing import Any

import torch

from tests.helpers.fakes import row
from tokenprune.registry import get
from tokenprune.runs.config import compose, resolve
from tokenprune.runs.results import row_folder, write_result
from tokenprune.runs.row import WEIGHTS
from tokenprune.runs.run_key import run_key
from tokenprune.utils.checkpoints import save_weights


def made(results: Path, *overrides: str, **changes: Any) -> dict[str, Any]:
    """Write a row of a seeded smoke model and return it; `overrides` as on the command line, `changes` of the row's fields."""
    config = resolve(compose(["scale=smoke", *overrides]))
    stored = {k: v for k, v in config.items() if k not in ("results_dir", "validate_only")}
    kinds = {name: config[name].get("name") for name in ("treatment", "data", "task")}
    about = {"config": stored, "key": run_key(config), "label": config["label"], "method": config["method"], "scale": "smoke"}
    result = row(**{**about, **kinds, **changes})
    torch.manual_seed(5)
    model = get("task", config["task"]["name"])().build_model(config)
    save_weights(row_folder(results, result["key"]) / WEIGHTS, model)
    write_result(row_folder(results, result["key"]), result)
    return result
