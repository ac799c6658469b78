"""Writes the page that links what the demo made so far: index.html."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenprune.cli.demo.steps import BOXES, PICTURES, REPORT, Step, onward
from tokenprune.errors import CannotWrite

_TEMPLATES = Path(__file__).parents[2] / "report" / "templates"


@dataclass(frozen=True)
class Done:
    """Holds a step that is done, and the seconds that it took."""

    step: Step
    seconds: float

    @property
    def command(self) -> str:
        """Return the command as it is typed."""
        return shlex.join(self.step.command)


def write(out: Path, done: Sequence[Done]) -> Path:
    """Write index.html of what there is so far, and return its path.

    Args:
        out: Folder of the demo.
        done: The steps that are done.

    Raises:
        CannotWrite: The folder takes no file.
    """
    path = out / "index.html"
    try:
        path.write_text(in_html(out, done), encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}; give another folder: --out DIR") from error
    return path


def in_html(out: Path, done: Sequence[Done]) -> str:
    """Return the page. It links files below `out` by relative paths, so that the folder can be moved and sent."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    from tokenprune.report.page.prose import to_html

    engine = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    tables = sorted(out.glob("tables/*/table.md"), key=lambda path: path.stat().st_mtime)[-1:]  # the newest, if there is one
    return engine.get_template("demo.html").render(
        done=done,
        pictures=PICTURES if (out / PICTURES).is_file() else "",
        stills=[_inside(path, out) for path in sorted(out.glob("picture*.png"))][:1],
        boxes=BOXES if (out / BOXES).is_file() else "",
        tables=[(_inside(path, out), Markup(to_html(_untitled(path)))) for path in tables],
        curves=[_inside(path, out) for table in tables for path in sorted(table.parent.glob("*.png"))],
        report=REPORT if (out / REPORT).is_file() else "",
        onward=onward(out),
    )


def _inside(path: Path, out: Path) -> str:
    return path.relative_to(out).as_posix()


def _untitled(path: Path) -> str:
    """Return the text of a Markdown file below its title."""
    return path.read_text(encoding="utf-8").partition("\n")[2]
