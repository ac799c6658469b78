"""The pages of all experiments of conf/experiment, from what each file opens with and what experiments/NAME/ holds.

The repository has one page, docs/experiments.md. The site has a list and one page an experiment.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tokenprune.cli.docs.links import below, cell, rebased
from tokenprune.cli.docs.numbers import tables
from tokenprune.report.page.gather import natural
from tokenprune.runs.experiment_files import Described, experiment
from tokenprune.runs.presets import files

_MADE = """Made by `make docs` from the comments that the files of [conf/experiment/](../conf/experiment/) open with: change them there
and make it again."""
_HEAD = """Each is one command, `tokenprune run +experiment=NAME`. It runs at `scale=smoke` (does it run?), `scale=demo` (the default:
embedded data, on a CPU) or `scale=paper`. `validate_only=true` checks every row and runs none. `seed=0,1,2` repeats rows over seeds.
Every other value may be given as well, such as `schedule.keep_rate=0.5`. A finished row is read and not run again, so the same command
goes on where it was. `tokenprune report results` makes one page of everything.

The measured tables are short forms of the files in experiments/NAME/measured/, which have more columns. A number behind ± is the
bootstrap standard error over images, or the standard deviation over seeds if there are several. The paper's numbers are of its own data
and model, unless the first line of a table says the same. So compare rows with rows."""


def page(root: Path) -> str:
    """Return the page docs/experiments.md of the repository.

    Args:
        root: folder of the checkout, whose experiments/ is linked to.
    """
    found, numbers = all_of(), _numbers(root)
    table = _list(found, root, lambda name: f"#{name}")
    sections = ["\n\n".join([f"## {e.name}", *_section(e, root, numbers, "..")]) for e in found]
    return "\n\n".join(["# Experiments", _MADE, _HEAD, table, *sections]) + "\n"


def pages(root: Path) -> dict[str, str]:
    """Return the pages of the site by their paths under docs/: experiments.md, the list, and one page an experiment.

    Args:
        root: folder of the checkout, whose experiments/ is taken in.
    """
    found, numbers = all_of(), _numbers(root)
    pages = {"experiments.md": "\n\n".join(["# Experiments", _HEAD, _list(found, root, place)]) + "\n"}
    for e in found:
        parts = [f"# {e.name}", *_section(e, root, numbers, "../.."), *_pictures(e.name, root), *_texts(e.name, root)]
        pages[place(e.name)] = "\n\n".join(parts) + "\n"
    return pages


def place(name: str) -> str:
    """Return where the site has the page of an experiment, under docs/."""
    return f"experiments/{name}.md"


def all_of() -> list[Described]:
    """Return all experiments in the order of their names."""
    described = [experiment(name) for name in sorted((path.stem for path in files("experiment")), key=natural)]
    return [e for e in described if e is not None]


def _numbers(root: Path) -> dict[str, str]:
    folder = root / "experiments"
    return tables(folder) if any(folder.glob("*/measured")) else {}


def _list(found: Sequence[Described], root: Path, link: Callable[[str], str]) -> str:
    lines = [f"| [`{e.name}`]({link(e.name)}) | {cell(e.gist)} | {_measured(e, root, '..') or '—'} |" for e in found]
    return "\n".join(["| experiment | what it shows | measured |", "|---|---|---|", *lines])


def _section(e: Described, root: Path, numbers: Mapping[str, str], up: str) -> list[str]:
    """Return the parts of an experiment's section below its heading; `up` leads from the page's folder to the checkout."""
    parts = [e.purpose, f"    {e.command}" + (f"        # {e.remark}" if e.remark else "")]
    facts = [f"- Time: {e.time}", f"- Expect{'' if e.expect.startswith('(') else ':'} {e.expect}"]
    links = [f"[configuration]({up}/conf/experiment/{e.name}.yaml)"]
    folder = root / "experiments" / e.name
    if (folder / "README.md").is_file():
        links.append(f"[how it is made and read]({up}/experiments/{e.name}/README.md)")
    if (folder / "expected.csv").is_file():
        links.append(f"[the paper's numbers]({up}/experiments/{e.name}/expected.csv)")
    measured = _measured(e, root, up)
    links += [f"measured: {measured}"] if measured else []
    return [*parts, "\n".join([*facts, f"- {', '.join(links)}"]), *filter(None, [numbers.get(e.name)])]


def _pictures(name: str, root: Path) -> list[str]:
    """Return the measured pictures of an experiment, for a page in docs/experiments."""
    found = sorted((root / "experiments" / name / "measured").rglob("*.png"))
    return [f"![{path.stem}](../../{path.relative_to(root).as_posix()})" for path in found]


def _texts(name: str, root: Path) -> list[str]:
    """Return what people wrote in experiments/NAME/, headings one level lower, for a page in docs/experiments."""
    folder = root / "experiments" / name
    return [
        rebased(below(path.read_text(encoding="utf-8").strip()), f"experiments/{name}", "docs/experiments")
        for path in sorted(folder.glob("*.md"))
    ]


def _measured(e: Described, root: Path, up: str) -> str:
    folder = root / "experiments" / e.name / "measured"
    texts = sorted(folder.rglob("*.md")) or sorted(folder.rglob("*.csv"))
    return ", ".join(f"[{path.stem}]({up}/{path.relative_to(root)})" for path in texts)
