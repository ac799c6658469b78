"""Makes docs/experiments.md: every experiment of conf/experiment, from the opening of its file and the content of experiments/NAME/."""

from pathlib import Path

from tokenprune.cli.docs.numbers import tables
from tokenprune.report.page.gather import natural
from tokenprune.runs.experiment_files import Described, experiment
from tokenprune.runs.presets import files

_HEAD = """# Experiments

Made by `make docs` from the comments that the files of [conf/experiment/](../conf/experiment/) open with: change them there
and make it again.

Each is one command, `python -m tokenprune.run +experiment=NAME`, at `scale=smoke` (does it run?), `scale=demo` (the default:
embedded data, on a CPU) or `scale=paper`. `validate_only=true` checks every row and runs none; `seed=0,1,2` repeats rows
over seeds; every other value may be given as well, such as `schedule.keep_rate=0.5`. Finished rows are read again, so the
same command goes on where it was. `python -m tokenprune.report results` makes one page of everything.

Measured rows are those of experiments/NAME/measured/, where the files have more columns. ±: the bootstrap standard error over
images, or the standard deviation over seeds where there are several. The paper's numbers beside them are of its own data and model,
unless a table's first line says the same: compare rows with rows."""


def page(root: Path) -> str:
    """Return the page.

    Args:
        root: Root of the checkout, whose experiments/ is linked to.
    """
    found = [experiment(name) for name in sorted((path.stem for path in files("experiment")), key=natural)]
    lines = [f"| [`{e.name}`](#{e.name}) | {_cell(e.gist)} | {_measured(e, root) or '—'} |" for e in found]
    table = "\n".join(["| experiment | what it shows | measured |", "|---|---|---|", *lines])
    folder = root / "experiments"
    numbers = tables(folder) if folder.is_dir() else {}
    return "\n\n".join([_HEAD, table, *(_section(e, root, numbers.get(e.name, "")) for e in found)]) + "\n"


def _section(e: Described, root: Path, numbers: str) -> str:
    parts = [f"## {e.name}", e.purpose, f"    {e.command}" + (f"        # {e.remark}" if e.remark else "")]
    parts += [f"- Time: {e.time}", f"- Expect{'' if e.expect.startswith('(') else ':'} {e.expect}"]
    links = [f"[configuration](../conf/experiment/{e.name}.yaml)"]
    folder = root / "experiments" / e.name
    if (folder / "README.md").is_file():
        links.append(f"[how it is made and read](../experiments/{e.name}/README.md)")
    if (folder / "expected.csv").is_file():
        links.append(f"[the paper's numbers](../experiments/{e.name}/expected.csv)")
    measured = _measured(e, root)
    links += [f"measured: {measured}"] if measured else []
    return "\n\n".join([*parts[:3], "\n".join([*parts[3:], f"- {', '.join(links)}"]), *([numbers] if numbers else [])])


def _measured(e: Described, root: Path) -> str:
    folder = root / "experiments" / e.name / "measured"
    texts = sorted(folder.rglob("*.md")) or sorted(folder.rglob("*.csv"))
    return ", ".join(f"[{path.stem}](../{path.relative_to(root)})" for path in texts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
