"""Writes one page from a folder of result rows: report.html with everything in it, and its parts as Markdown, LaTeX, CSV and PNG."""

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from tokenprune.report.explorer import Explorer, explorer
from tokenprune.report.page.gather import Found
from tokenprune.report.page.grids import Grid
from tokenprune.report.page.overview import Overview, overview
from tokenprune.report.page.sections import Section, moved, section
from tokenprune.report.tables.formats import to_latex, to_markdown

_TEMPLATES = Path(__file__).parents[1] / "templates"


def write(found: Found, out: Path, title: str, interactive: bool = False) -> list[Path]:
    """Write report.html, report.md, rows.csv and, in a folder for each experiment, its tables and pictures; return these files.

    Args:
        found: At least one experiment.
        out: A folder, which is made if needed; files of an earlier report are replaced.
        title: Title of the page.
        interactive: Whether report.html gets a script: a chart with axes to choose, filters, and rows compared.

    Raises:
        MissingDependency: It is to be interactive, and the library for it is not installed.
    """
    out.mkdir(parents=True, exist_ok=True)
    opening = overview(found)
    sections = [section(experiment, out / experiment.name) for experiment in found.experiments]
    sections = [replace(s, gallery=[moved(image, out / s.name) for image in s.gallery]) for s in sections]
    wrote = [path for s in sections for path in _parts(s, out / s.name)]
    rows = [e.data.assign(experiment=e.name) for e in found.experiments if len(e.data)]
    if rows:
        pd.concat(rows, ignore_index=True).to_csv(out / "rows.csv", index=False)
        wrote.append(out / "rows.csv")
    (out / "report.md").write_text(in_markdown(opening, sections, title), encoding="utf-8")
    script = explorer(sections) if interactive else None
    (out / "report.html").write_text(in_html(opening, sections, title, script), encoding="utf-8")
    return [out / "report.html", out / "report.md", *wrote]


def in_html(opening: Overview, sections: list[Section], title: str, script: Explorer | None = None) -> str:
    """Return the page. It needs no file beside it and fetches nothing. Without a `script` it runs none."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    from tokenprune.report.page.prose import breakable, to_html

    engine = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    engine.filters |= {"data_uri": data_uri, "grid": Grid.of, "prose": lambda text: Markup(to_html(text))}
    engine.filters["breakable"] = lambda text: Markup(breakable(text))  # both escape
    return engine.get_template("report.html").render(title=title, overview=opening, sections=sections, explorer=script)


def data_uri(path: Path) -> str:
    """Return a PNG file as a data address."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def in_markdown(opening: Overview, sections: list[Section], title: str) -> str:
    """Return the report as Markdown. Its pictures are files beside it, in a folder for each experiment."""
    parts = [f"# {title}", opening.sentence]
    tables = {"What was run": opening.experiments, "With what": opening.machines}
    tables |= {"Rows that are not ok": opening.bad, "Left out because they cannot be read": opening.unreadable}
    for name, grid in tables.items():
        parts += [f"## {name}", grid.markdown] if grid is not None else []
    for s in sections:
        parts += [f"## {s.name}", *([s.about.purpose, f"    {s.about.command}"] if s.about else [])]
        for part in s.parts:
            parts += [f"### {part.heading}"] * bool(part.heading) + [f"{part.of}."]
            parts.append(to_markdown(part.table, "").removeprefix("# ").strip())
            parts += [_image(part.plot, s), *part.front] if part.plot else []
            parts += ["Over seeds:", part.seeds.markdown] if part.seeds else []
        parts += [_image(image, s) for image in s.gallery]
        parts += [text.strip().replace("\n#", "\n###").replace("# ", "#### ", 1) for text in s.texts]
    return "\n\n".join(parts) + "\n"


def _parts(s: Section, folder: Path) -> list[Path]:
    wrote = [image.path for image in s.gallery]
    for part in s.parts:
        files: dict[str, Any] = {"md": to_markdown, "tex": to_latex}
        for ending, text in files.items():
            (folder / f"{part.stem}.{ending}").write_text(text(part.table, f"{s.name} {part.heading}".strip()), encoding="utf-8")
        part.table.data.to_csv(folder / f"{part.stem}.csv", index=False)
        wrote += [folder / f"{part.stem}.{ending}" for ending in ("csv", *files)] + ([part.plot.path] if part.plot else [])
        if part.table.seeds is not None:
            path = folder / f"{part.stem}_seeds.csv"
            part.table.seeds.to_csv(path, index=False)
            wrote.append(path)
    return wrote


def _image(image: Any, s: Section) -> str:
    return f"![{image.caption}]({s.name}/{image.path.name})"
