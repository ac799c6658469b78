"""The rows of experiments without running them: what a sweep expands to, and each row composed as the command line does."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import product
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from tokenprune.runs.config import composed, register_schema
from tokenprune.runs.nodes import nodes
from tokenprune.runs.rows import rows_of, split
from tokenprune.runs.run import NONE
from tokenprune.runs.sources import folders, is_group
from tokenprune.runs.zoo_rows import zoo_rows
from tokenprune.utils.paths import config_dir

_ROW, _ZOO, _TREATMENT = "+rows/", "zoo=", "treatment="
_UNTREATED = {"name": NONE}
_KEPT = 2  # compositions: one without a treatment and one with


class Composer:
    """Composes rows while Hydra is set up; made by `composer`.

    Hydra takes a quarter of a second a row. Rows after one another that make the same choices are composed once, and their values are set
    on a copy (tests/runs/test_composer.py). A row of a table counts as the choices and values that its file lists.

    Rows that differ in their treatment alone are composed once, too: no rule looks at the treatment, and a treatment is its own options.
    They are composed without any, which shows whether a method or an experiment sets options of a treatment. If one does, Hydra composes
    each.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, ...], DictConfig] = {}
        self._rows = cache(rows_of)

    def rows(self, experiment: str, scale: str = "demo") -> list[list[str]]:
        """Return the overrides of every row of an experiment at a scale, `+experiment=NAME` first, in the order of its sweep.

        Raises:
            HydraException: no such experiment, or an axis of the sweep that cannot be read.
        """
        chosen = f"+experiment={experiment}"
        return [[word for word in row if word != f"scale={scale}"] for row in self.expand([chosen, f"scale={scale}"])]

    def expand(self, overrides: Sequence[str]) -> list[list[str]]:
        """Return the overrides of each run that a command line stands for: those given, and a value of each axis of its sweep.

        Raises:
            HydraException: choices that cannot be composed, or an axis of the sweep that cannot be read.
        """
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        given = parser.parse_overrides(list(overrides))
        single = [word for word, axis in zip(overrides, given, strict=True) if not axis.is_sweep_override()]
        config = compose("config", overrides=single, return_hydra_config=True)
        params = OmegaConf.to_container(
            OmegaConf.create({"scale": config.scale, "params": config.hydra.sweeper.params or {}}), resolve=True
        )
        words = {key: f"{key}={value}" for key, value in params["params"].items()}  # type: ignore[index,call-overload]
        words |= {axis.get_key_element(): word for word, axis in zip(overrides, given, strict=True) if axis.is_sweep_override()}
        fixed = {axis.get_key_element() for axis in given if not axis.is_sweep_override()}
        axes = []
        for axis in parser.parse_overrides([word for key, word in words.items() if key not in fixed]):
            values = list(axis.sweep_string_iterator()) if axis.is_sweep_override() else [axis.get_value_element_as_str()]
            axes.append([f"{axis.get_key_element()}={value}" for value in values])
        return [[*single, *row] for row in product(*axes)]

    def compose(self, overrides: list[str]) -> DictConfig:
        """Return the composed configuration of a row.

        Raises:
            HydraException, OmegaConfBaseException: what the command line would print.
        """
        words, in_table, values = self._parts(overrides)
        chosen, treatment = self._chosen(words)
        config = copy.deepcopy(chosen)
        config.treatment.merge_with(treatment)
        config.merge_with(in_table)
        for value in OverridesParser.create().parse_overrides(values):
            OmegaConf.update(config, value.key_or_group, value.value())
        return config

    def choices(self, overrides: list[str]) -> list[str]:
        """Return what a row chooses beside its treatment. Rows with equal choices cost one composition if they come one after another."""
        return _without_treatment(self._parts(overrides)[0])[0]

    def _chosen(self, words: list[str]) -> tuple[DictConfig, Mapping[str, Any]]:
        """Return the configuration of some choices, which is not to be changed, and what its treatment lacks."""
        others, treatment = _without_treatment(words)
        config = self._composed(others)
        if treatment and OmegaConf.to_container(config.treatment) != _UNTREATED:
            return self._composed(words), {}
        return config, treatment

    def _composed(self, words: list[str]) -> DictConfig:
        """Return the configuration of some choices, composed once as long as they are asked for one after another."""
        key = tuple(words)
        found = self._last.pop(key, None) or composed(words)
        if len(self._last) >= _KEPT:
            self._last.pop(next(iter(self._last)))
        self._last[key] = found  # as the newest
        return found

    def _parts(self, overrides: list[str]) -> tuple[list[str], DictConfig, list[str]]:
        """Return (choices, values of a row of a table, values on the command line), which override one another in this order."""
        values = [text for text in overrides if _is_value(text)]
        words = [text for text in overrides if text not in values]
        chosen = {text.partition("=")[0] for text in words}
        in_table = OmegaConf.create()
        for word in [word for word in words if word.startswith((_ROW, _ZOO))]:
            table, _, name = word.removeprefix(_ROW).partition("=")
            row = (zoo_rows() if word.startswith(_ZOO) else self._rows(table)).get(name)
            if row is None:
                continue  # Hydra says that there is no such row
            groups, its_values = split(row)
            words.remove(word)
            words += [f"{group}={option}" for group, option in groups.items() if group not in chosen]
            in_table.merge_with(its_values)
        return words, in_table, values


def _without_treatment(words: list[str]) -> tuple[list[str], Mapping[str, Any]]:
    """Return choices without that of a treatment, and its options; (words, {}) unless its class alone says what they are."""
    chosen = [word for word in words if word.startswith(_TREATMENT)]
    name = chosen[-1].removeprefix(_TREATMENT) if chosen else NONE
    options = nodes(str(config_dir()))["treatment"].get(name)
    if name == NONE or options is None or any((folder / "treatment" / f"{name}.yaml").is_file() for folder in folders()):
        return words, {}
    return [f"{_TREATMENT}{NONE}" if word in chosen else word for word in words], options


def _is_value(override: str) -> bool:
    """Tell whether an override sets a plain value (`seed=1`, `schedule.keep_rate=0.5`) and chooses nothing."""
    name = override.partition("=")[0]
    return name.replace(".", "").replace("_", "").isalnum() and not is_group(name)


@contextmanager
def composer() -> Iterator[Composer]:
    """Set up Hydra for the body."""
    register_schema()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        yield Composer()
