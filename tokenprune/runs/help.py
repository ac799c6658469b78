"""The list of choices that `tokenprune run --help` prints: the groups that people choose from, and not those that rules choose."""

import textwrap

from tokenprune.runs.nodes import nodes
from tokenprune.runs.sources import folders

GROUPS = {
    "method": "selector, treatment and schedule as a paper has them",
    "selector": "which tokens stay",
    "treatment": "what becomes of dropped tokens",
    "schedule": "where and how many",
    "task": "what is learned and judged",
    "data": "the data set",
    "backbone": "the Vision Transformer",
    "scale": "how large everything is",
    "zoo": "a published file, judged as its authors do: zoo=NAME zoo.folder=FOLDER (tokenprune zoo list)",
    "recipe": "(+recipe=NAME) how a paper trains from scratch",
    "experiment": "(+experiment=NAME) a table or figure",
    "launcher": "how the rows of a sweep are started",
}


def group_help() -> str:
    """Return each group with its meaning and its options, wrapped to 100 columns."""
    lines = []
    for group, meaning in GROUPS.items():
        options = "`tokenprune zoo list` prints them" if group == "zoo" else ", ".join(options_of(group))
        options = textwrap.fill(options, 100, initial_indent="    ", subsequent_indent="    ")
        lines.append(f"{group}: {meaning}\n{options}")
    return "\n".join(lines)


def options_of(group: str) -> list[str]:
    """Return the sorted options of a group, of files and of `nodes`."""
    files = {path.stem for folder in folders() for path in (folder / group).glob("*.yaml")}
    return sorted(files.union(*(nodes(str(folder)).get(group, {}) for folder in folders())))
