"""The rows of experiments without running them: what a sweep expands to, and each row composed as the command line does.

Hydra takes a tenth of a second a row. Here it is set up once, reads every file once, collects choices only where a defaults list refers
to them, and composes rows that differ in plain values (`seed=1`, `schedule.keep_rate=0.5`) together: the values are set on a copy. The
composed rows are the same (tests/test_rows.py).
"""

import copy
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from typing import Any
from unittest import mock

from hydra import compose, initialize_config_dir
from hydra._internal import defaults_list
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from tokenprune.runs.config import register_schema
from tokenprune.runs.presets import read
from tokenprune.utils.paths import config_dir


class Composer:
    """Composes rows; made by `composer`."""

    def __init__(self) -> None:
        self._loader: Any = GlobalHydra.instance().config_loader()
        self._loader.repository = _ReadOnce(self._loader.repository)
        self._last: tuple[list[str], DictConfig] = ([], OmegaConf.create())

    def rows(self, experiment: str, scale: str = "demo") -> list[list[str]]:
        """Return the overrides of every row of conf/experiment/NAME.yaml at a scale, the experiment among them, in the order of its sweep.

        Raises:
            HydraException: an axis that cannot be read.
        """
        params = read(config_dir() / "experiment" / f"{experiment}.yaml").get("hydra", {}).get("sweeper", {}).get("params", {})
        params = OmegaConf.to_container(OmegaConf.create({"scale": scale, "params": params}), resolve=True)["params"]
        parsed = OverridesParser.create(config_loader=self._loader).parse_overrides([f"{key}={value}" for key, value in params.items()])
        axes = []
        for axis in parsed:
            values = list(axis.sweep_string_iterator()) if axis.is_sweep_override() else [axis.get_value_element_as_str()]
            axes.append([f"{axis.get_key_element()}={value}" for value in values])
        return [[f"+experiment={experiment}", *row] for row in product(*axes)]

    def compose(self, overrides: list[str]) -> DictConfig:
        """Return the composed configuration of a row.

        Raises:
            HydraException, OmegaConfBaseException: what the command line would print.
        """
        values = [text for text in overrides if self._is_value(text)]
        choices = [text for text in overrides if text not in values]
        if self._last[0] != choices or not choices:
            self._last = (choices, compose("config", overrides=choices))
        config = copy.deepcopy(self._last[1])
        for value in OverridesParser.create().parse_overrides(values):
            OmegaConf.update(config, value.key_or_group, value.value())
        return config

    def _is_value(self, override: str) -> bool:
        name = override.partition("=")[0]
        return name.replace(".", "").replace("_", "").isalnum() and not self._loader.repository.group_exists(name)


@contextmanager
def composer() -> Iterator[Composer]:
    """Set up Hydra for the body."""
    register_schema()
    GlobalHydra.instance().clear()
    patch = mock.patch.object(defaults_list, "_create_interpolation_map", _where_asked_for)
    with initialize_config_dir(str(config_dir()), version_base="1.3"), patch:
        yield Composer()


_choices_of = defaults_list._create_interpolation_map


def _where_asked_for(overrides: Any, defaults: Sequence[Any], self_added: bool) -> DictConfig | None:
    """What the interpolations of a defaults list refer to; Hydra collects it for every list, which is a third of its time."""
    return _choices_of(overrides, defaults, self_added) if any(entry.is_interpolation() for entry in defaults) else None


class _ReadOnce(CachingConfigRepository):
    """Hydra's own cache of files, which it makes anew for every composition; this one stays, and gives copies, because composing merges."""

    def __init__(self, delegate: Any) -> None:
        super().__init__(delegate)
        self._copies: dict[str, bytes] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "_ReadOnce":
        return self

    def load_config(self, config_path: str) -> ConfigResult | None:
        found = super().load_config(config_path)
        if found is None:
            return None
        if config_path not in self._copies:
            self._copies[config_path] = pickle.dumps(found.config)
        return replace(found, config=pickle.loads(self._copies[config_path]))  # faster than copy.deepcopy
