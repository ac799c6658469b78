"""Print the files and rules that made a run, in their order; a later one overrides an earlier one.

    tokenprune explain method=svit scale=paper task=classification
    tokenprune explain +experiment=table2_preserve                                         the rows, and the first of them
    tokenprune explain +experiment=table2_preserve +rows/table2_preserve=04_evit_preserve  one of them

`--config-dir FOLDER` names a folder of your own, as for `tokenprune run`.
Exit status: 0 if all is well, 2 if the choices cannot be composed.
"""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from tokenprune.cli.run import ERROR
from tokenprune.errors import TokenPruneError
from tokenprune.runs import zoo_rows
from tokenprune.runs.command_line import explain as reason
from tokenprune.runs.command_line import quoted
from tokenprune.runs.composer import Composer, composer
from tokenprune.runs.config import implied_method
from tokenprune.runs.nodes import nodes
from tokenprune.runs.rule_lists import choices_in, held, rule_lists
from tokenprune.runs.rules import GROUP as RULES
from tokenprune.runs.sources import folder_options, folders, read_data, shown, without_folders
from tokenprune.utils import console
from tokenprune.utils.paths import config_dir
from tokenprune.zoo.catalog import entry


def main() -> None:
    """Print the sources of the run that the command line composes."""
    overrides = [quoted(word) for word in without_folders(sys.argv[1:])]
    if overrides in (["-h"], ["--help"]):
        console.say(__doc__.strip())
        return
    try:
        with composer() as compose:
            console.say("\n".join(explained(compose, overrides)))
    except (HydraException, OmegaConfBaseException, TokenPruneError) as error:
        console.fail(reason(error))
        sys.exit(ERROR)


def explained(compose: Composer, overrides: Sequence[str]) -> Iterator[str]:
    """Yield the lines that explain a run. For a sweep they explain its first row, below a list of all rows.

    Raises:
        HydraException: The choices cannot be composed.
        OmegaConfBaseException: The choices cannot be composed.
    """
    rows = compose.expand(overrides)
    if len(rows) > 1:
        yield f"{len(rows)} rows, each explained by adding its choice; the first one is below:"
        yield from (f"  {' '.join(row[len(overrides) :])}" for row in rows)
    yield shlex.join(["tokenprune", "run", *folder_options(), *rows[0]])
    yield "made from, the last one wins:"
    config = hydra.compose("config", overrides=rows[0], return_hydra_config=True)
    implied = implied_method(config.hydra.runtime.choices)
    if implied:
        config = hydra.compose("config", overrides=[*rows[0], implied], return_hydra_config=True)
    lines = [("conf/config.yaml", "(every run)"), *_sources(config.hydra.runtime.choices)]
    width = max(len(choice) for _, choice in lines)
    yield from (f"  {choice:{width}s}  {source}".rstrip() for source, choice in lines)
    values = [word for word in rows[0] if "." in word.partition("=")[0] or "/" not in word and not _is_choice(word, config)]
    yield from (f"  {value:{width}s}  command line or sweep" for value in values)


def _sources(choices: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield (file, choice) of every choice that has a file or a node, and of every rule that holds."""
    listed = [key for entry in read_data(config_dir() / "config.yaml")["defaults"] if isinstance(entry, dict) for key in entry]
    order = {key.removeprefix("optional "): number for number, key in enumerate(listed)}
    for key in sorted(
        choices, key=lambda key: order.get(key, order.get(key.partition("/.")[0], len(order)))
    ):  # experiment and rows at the end
        group, option = key.partition("@")[0], choices[key]
        start, _, name = group.rpartition("/")
        if start == RULES and name in rule_lists(config_dir()):
            for rule in held(name, choices_in(option)):
                source = _data_file(rule.folder, f"{RULES}/{rule.name}", rule.combination)
                yield source, f"{RULES}/{rule.name}@{rule.place}={rule.combination}"
        elif not group.startswith("hydra/") and option:
            source = _source(group, option)
            if source:
                yield source, f"{key}={option}"


def _source(group: str, option: str) -> str:
    for folder in folders():
        path = folder / group / f"{option}.yaml"
        if path.is_file():
            return shown(path)
    for folder in folders():
        if option in nodes(str(folder)).get(group, {}):
            return _data_file(folder, group, option)
    return ""


def _data_file(folder: Path, group: str, option: str) -> str:
    if group == zoo_rows.GROUP:
        return f"tokenprune/zoo/{entry(option).family}.yaml" if option != "none" else ""
    path = folder / (f"rows/{option}.yaml" if group == "experiment" else f"{group}.yaml")  # a file of rows or rules
    return shown(path) if path.is_file() else "its class (tokenprune list)"


def _is_choice(word: str, config: Mapping) -> bool:
    key = word.partition("=")[0].lstrip("+")
    return any(key == choice.partition("@")[0] for choice in config["hydra"]["runtime"]["choices"])


if __name__ == "__main__":
    main()
