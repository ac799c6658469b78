"""The steps of the demo, each of which is a command that a user could type, and the commands that lead on from there."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

EXPERIMENT = "first_look"
PICTURES, BOXES, REPORT = "pictures.html", "boxes.html", "report/report.html"


@dataclass(frozen=True)
class Step:
    """Holds one step.

    Attributes:
        title: What the user gets.
        about: What is done, and how long it takes.
        command: The command, beginning with `tokenprune`.
        told: What to say when it is done.
    """

    title: str
    about: str
    command: tuple[str, ...]
    told: str


def steps(out: Path, settings: Sequence[str] = ()) -> list[Step]:
    """Return the steps in their order.

    Args:
        out: Folder of everything.
        settings: Further words of the run that makes the table.
    """
    show = ("tokenprune", "show", "--model")
    picture = Step(
        "a picture",
        "Which patches of three embedded pictures do EViT and ToMe keep, block by block? About 15 seconds.",
        (*show, "demo", "--methods", "evit", "tome", "--out", f"{out / PICTURES}", "--png", f"{out / 'picture.png'}"),
        f"the pictures are in {out / PICTURES}, with a slider over the blocks.",
    )
    boxes = Step(
        "boxes",
        "What does a detector find when tokens are preserved, and when they are removed? About 15 seconds.",
        (*show, "demo_detector", "--methods", "evit:treatment=preserve", "evit:treatment=remove", "--out", f"{out / BOXES}"),
        f"the boxes and masks are in {out / BOXES}.",
    )
    rows = Step(
        "a table and a curve",
        "Three ways to drop tokens, each at three keep rates, judged on 500 pictures and timed. About two minutes.",
        ("tokenprune", "run", f"+experiment={EXPERIMENT}", f"results_dir={out}", *settings),
        f"the table and the curve are in {out / 'tables'}.",
    )
    report = Step(
        "one page of all rows",
        "The same rows as a report that you can send to somebody. About 10 seconds.",
        ("tokenprune", "report", f"{out}"),
        f"the report is {out / REPORT}.",
    )
    return [picture, *([boxes] if find_spec("detectron2") else []), rows, report]


def onward(out: Path) -> list[tuple[str, str]]:
    """Return what to try next, as pairs (what it gives, command)."""
    return [
        ("See your own picture through a model of timm", "tokenprune show photo.jpg --model deit_small_patch16_224 --weights FILE"),
        (
            "Add a keep rate to the table",
            f"tokenprune run +experiment={EXPERIMENT} schedule.keep_rate=0.9,0.8,0.7,0.6,0.5 results_dir={out}",
        ),
        ("Judge one method more", f"tokenprune run method=pitome task=classification training.iterations=0 results_dir={out}"),
        ("Train a gate, about a minute and a half", f"tokenprune run method=svit task=classification results_dir={out}"),
        (
            "Judge your model on your images",
            f"tokenprune run +experiment={EXPERIMENT} data=imagefolder data.root=DIR backbone=vit_tiny init=FILE",
        ),
        (
            "Make a table of a paper: preserved against removed tokens in detection, under 20 minutes",
            "tokenprune run +experiment=table2_preserve",
        ),
        ("List all methods, plugins and experiments", "tokenprune list"),
    ]
