"""Finds the files that come with the package: inside it if it is installed, beside it in a checkout."""

import os
from pathlib import Path
from typing import Any

from tokenprune.errors import InvalidConfig

PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED_WEIGHTS = {
    "demo": PACKAGE / "weights" / "dense_demo.safetensors",
    "demo_classifier": PACKAGE / "weights" / "dense_demo_classifier.safetensors",
    "demo_adapter": PACKAGE / "weights" / "dense_demo_adapter.safetensors",
    "demo_elastic": PACKAGE / "weights" / "elastic_demo_adapter.safetensors",
    "demo_mean": PACKAGE / "weights" / "elastic_demo_mean.safetensors",
    "demo_segmenter": PACKAGE / "weights" / "elastic_demo_segmenter.safetensors",
    "demo_token": PACKAGE / "weights" / "elastic_demo_token.safetensors",
}


def config_dir() -> Path:
    """Return the folder of the YAML groups.

    Raises:
        InvalidConfig: There is none.
    """
    for folder in (PACKAGE / "conf", PACKAGE.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise InvalidConfig("the configuration folder conf/ is missing beside the package; install tokenprune again")


def at_home(path: Any) -> Any:
    """Return a path with the user's home folder for a `~` at its start; any other value, None included, as it is."""
    return os.path.expanduser(path) if isinstance(path, str) else path


def home_path(text: str) -> Path:
    """Return a path of the command line with the home folder for `~`, which shells leave in `--row=~/x`."""
    return Path(text).expanduser()


def weights_path(value: str) -> Path:
    """Return a file of weights: a name of `SHIPPED_WEIGHTS` (`demo` is the detector), or a path."""
    return SHIPPED_WEIGHTS.get(value) or Path(at_home(value))


def expected_of(experiment: str) -> Path | None:
    """Return experiments/<experiment>/expected.csv, the paper's numbers; None if there is none."""
    return file_of(experiment, "expected.csv")


def file_of(experiment: str, name: str) -> Path | None:
    """Return experiments/<experiment>/<name>; None if there is none.

    A name with settings behind it (`table2_preserve__seed-1`, a folder of tables) is that experiment's.
    """
    experiment = experiment.partition("__")[0]
    for folder in (PACKAGE, PACKAGE.parent):
        path = folder / "experiments" / experiment / name
        if path.is_file():
            return path
    return None
