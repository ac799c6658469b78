"""The rows of experiments without running them: what a sweep expands to, and each row composed as the command line does."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from tokenprune.runs.config import composed, register_schema
from tokenprune.utils.paths import config_dir


class Composer:
    """Composes rows while Hydra is set up; made by `composer`."""

    def rows(self, experiment: str, scale: str = "demo") -> list[list[str]]:
        """Return the overrides of every row of an experiment at a scale, `+experiment=NAME` first, in the order of its sweep.

        Raises:
            HydraException: no such experiment, or an axis of the sweep that cannot be read.
        """
        chosen = f"+experiment={experiment}"
        config = compose("config", overrides=[chosen, f"scale={scale}"], return_hydra_config=True)
        params = OmegaConf.to_container(OmegaConf.create({"scale": scale, "params": config.hydra.sweeper.params or {}}), resolve=True)
        given = [f"{key}={value}" for key, value in params["params"].items()]  # type: ignore[index,call-overload]
        axes = []
        for axis in OverridesParser.create(config_loader=GlobalHydra.instance().config_loader()).parse_overrides(given):
            values = list(axis.sweep_string_iterator()) if axis.is_sweep_override() else [axis.get_value_element_as_str()]
            axes.append([f"{axis.get_key_element()}={value}" for value in values])
        return [[chosen, *row] for row in product(*axes)]

    def compose(self, overrides: list[str]) -> DictConfig:
        """Return the composed configuration of a row.

        Raises:
            HydraException, OmegaConfBaseException: what the command line would print.
        """
        return composed(overrides)


@contextmanager
def composer() -> Iterator[Composer]:
    """Set up Hydra for the body."""
    register_schema()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        yield Composer()
