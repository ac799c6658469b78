"""Shows which tokens methods keep of your pictures, block by block, as one HTML file that needs no network.

    tokenprune show photo.jpg --model deit_small_patch16_224 --weights FILE --methods evit tome ats
    tokenprune show photos/ --model results/rows/KEY                    a row: of a classifier, a detector or a segmenter
    tokenprune show photo.jpg --model results/rows/A results/rows/B     several rows side by side
    tokenprune show --model demo --methods evit tome                    the classifier that comes with tokenprune, on its own pictures
    tokenprune show --model demo_detector --methods evit                the detector that comes with tokenprune (needs Detectron2)

A method is a name of `tokenprune list methods` or `tokenprune list selectors`. Options follow a colon: evit:keep_rate=0.5, tome:remove=8,
svit:treatment=preserve. Without JavaScript the page is a strip of pictures. Nothing is downloaded.
Exit status: 0 if all is well, 2 if something that was named cannot be shown.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokenprune.cli.options import command_parser
from tokenprune.errors import CannotWrite, InvalidConfig, TokenPruneError
from tokenprune.utils import console
from tokenprune.utils.paths import home_path

if TYPE_CHECKING:
    import numpy as np

    from tokenprune.report.show.shown import Shown
    from tokenprune.runs.subjects import Subject

_WRONG = 2
_METHODS = ("evit", "tome")  # if none are named
_MOST = 12  # pictures of a page unless --max says otherwise
_OWN_PICTURES = 3  # of the embedded ones


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page that the arguments ask for; return 0, or 2 after an error."""
    options = _parser().parse_args(arguments)
    try:
        subjects = _subjects(options)
        shown = _looked(subjects, *_pictures(options))
        for path in _write(shown, options):
            console.say(f"wrote {path}")
    except TokenPruneError as error:
        console.fail(str(error))
        return _WRONG
    for note in dict.fromkeys(f"{subject.label}: {note}" for subject in subjects for note in subject.notes):
        console.warn(note)
    return 0


def _subjects(options: argparse.Namespace) -> "list[Subject]":
    from tokenprune.runs.subjects import SHIPPED, method_of, of_row, of_shipped, of_timm

    rows = [_row_of(model) for model in options.model]
    if any(row is not None for row in rows) or options.model[0] in SHIPPED:
        beside = [f"--{name}" for name in ("weights", "names", "size") if getattr(options, name) is not None]
        if beside:
            raise InvalidConfig(f"{', '.join(beside)} beside --model {options.model[0]}, which has its own; they go with a timm model")
    given = [method_of(word) for word in options.methods or ()]
    if len(rows) > 1:
        lacking = [model for model, row in zip(options.model, rows, strict=True) if row is None]
        if lacking or given:
            why = f"{lacking[0]!r} is no row" if lacking else "--methods stands beside them"
            raise InvalidConfig(f"several models are rows, and {why}; allowed: results/rows/KEY ... without --methods")
        return [subject for row in rows if row is not None for subject in of_row(row, (), dense=False)]
    if rows[0] is not None:
        return of_row(rows[0], given)
    methods = given or [method_of(word) for word in _METHODS]
    if options.model[0] in SHIPPED:
        return of_shipped(options.model[0], methods)
    if options.weights is None:
        raise InvalidConfig(
            f"--model {options.model[0]} has no weights, and nothing is downloaded; give --weights FILE (.safetensors, .pth, .pt, .bin),"
            f" a row as --model results/rows/KEY, or --model {' or '.join(SHIPPED)}"
        )
    return of_timm(options.model[0], options.weights, methods, _names(options.names), options.size)


def _row_of(model: str) -> Path | None:
    """Return the folder of a row that is named by its folder, a file in it, or its key; None for another name."""
    for path in (home_path(model), Path("results/rows") / model):
        folder = path if path.is_dir() else path.parent
        if path.exists() and (folder / "result.json").is_file():
            return folder
    if "/" in model:
        raise InvalidConfig(f"there is no row at {model}; give the folder of a row, results/rows/KEY, which holds result.json")
    return None


def _names(path: Path | None) -> tuple[str, ...]:
    from tokenprune.data.class_names import read_names

    return () if path is None else read_names(path.name, path.parent)


def _pictures(options: argparse.Namespace) -> "tuple[list[str], list[np.ndarray]]":
    """Return the names and pixels of the pictures."""
    from tokenprune.report.show.images import files_of, read_image

    if not options.images:
        from tokenprune.runs.subjects import SHIPPED, shipped_pictures

        if options.model[0] not in SHIPPED:
            raise InvalidConfig("no picture is named; give files or folders: tokenprune show photo.jpg --model ...")
        pictures = shipped_pictures(options.model[0], min(options.max, _OWN_PICTURES))
        return [f"embedded picture {number}" for number in range(len(pictures))], pictures
    files = files_of(options.images)
    if len(files) > options.max:
        console.say(f"showing {options.max} of {len(files)} pictures; --max N shows more")
    files = files[: options.max]
    return [file.name for file in files], [read_image(file) for file in files]


def _looked(subjects: "Sequence[Subject]", names: Sequence[str], pictures: "Sequence[np.ndarray]") -> "list[Shown]":
    from tokenprune.report.show.shown import Entry, Shown

    columns = []
    for subject in subjects:
        seen = console.progress(subject.look(pictures), subject.label, total=len(pictures))
        columns.append([Entry(subject.label, subject.about, picture, subject.notes, subject.dense) for picture in seen])
    return [Shown(name, entries) for name, entries in zip(names, zip(*columns, strict=True), strict=True)]


def _write(shown: "Sequence[Shown]", options: argparse.Namespace) -> list[Path]:
    from tokenprune.report.show.page import in_html

    weights = f", weights {options.weights.name}" if options.weights is not None else ""
    sentences = [f"Model {', '.join(options.model)}{weights}."]
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(in_html(shown, "Which tokens are kept", sentences), encoding="utf-8")
        return [options.out, *_images(shown, options)]
    except OSError as error:
        raise CannotWrite(f"cannot write {error.filename or options.out}: {error.strerror or error}; give another file") from error


def _images(shown: "Sequence[Shown]", options: argparse.Namespace) -> list[Path]:
    """Write --png and --gif; several pictures go to files with numbers."""
    wrote: list[Path] = []
    if options.png is None and options.gif is None:
        return wrote
    from tokenprune.report.show.figure import save_gif, save_png

    for given, save in ((options.png, save_png), (options.gif, save_gif)):
        for number, one in enumerate(shown if given is not None else ()):
            path = given if len(shown) == 1 else given.with_stem(f"{given.stem}_{number}")
            path.parent.mkdir(parents=True, exist_ok=True)
            save(one, path)
            wrote.append(path)
    return wrote


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("show", __doc__)
    parser.add_argument("images", nargs="*", type=home_path, help="pictures, or folders of pictures")
    parser.add_argument("--model", nargs="+", required=True, help="a timm model, rows (results/rows/KEY), demo or demo_detector")
    parser.add_argument("--weights", type=home_path, help="weights of a timm model: .safetensors, .pth, .pt or .bin")
    parser.add_argument(
        "--methods", nargs="+", metavar="METHOD", help=f"methods side by side (default without a row: {' '.join(_METHODS)})"
    )
    parser.add_argument("--names", type=home_path, help="JSON file with the names of the classes (default: ImageNet's, or the row's)")
    parser.add_argument("--size", type=_positive, help="side of the images in pixels (default: the model's own)")
    parser.add_argument("--max", type=_positive, default=_MOST, help=f"most pictures to show (default: {_MOST})")
    parser.add_argument("--out", type=home_path, default=Path("show.html"), help="the page (default: show.html)")
    parser.add_argument("--png", type=home_path, help="also a still picture of up to six blocks")
    parser.add_argument("--gif", type=home_path, help="also a moving picture of all blocks")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
