"""Checks and measures everything on one GPU: `tokenprune gpu --out results/gpu`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tokenprune.cli.gpu import agreement, page, papers, ragged, routers, runner, throughput, training
from tokenprune.cli.gpu.cases import BAD, Part, Setup, tiny
from tokenprune.cli.gpu.machine import facts, gpu
from tokenprune.cli.options import among
from tokenprune.errors import TokenPruneError
from tokenprune.runs.sweep import BAD_ROW
from tokenprune.utils import console
from tokenprune.utils.paths import home_path

REFUSED = 2
PARTS = (  # the most telling first
    Part(
        "agreement", "Device against CPU",
        "Every legal pairing on the device against the CPU, in each execution and precision; the largest difference over 1 + |value|",
        agreement.cases, 0.2,
    ),
    Part(
        "training", "Training in mixed precision",
        "One method a task on one repeated batch; mean loss of the first and of the last fifth of the steps", training.cases, 0.1,
    ),
    Part(
        "throughput", "Images a second",
        "Every method as published and its dense model in turn, bfloat16 autocast; efficiency is the speed-up over the ratio of MACs",
        throughput.cases, 0.3, ("batch", "images_per_second", "method"),
    ),
    Part(
        "papers", "Speeds that papers claim",
        "SViT's Table 5 at 1333 x 800, Cropr's encoder at 512 and at 1536 pixels, with random weights; the dense encoder is timed in turn",
        papers.cases, 0.2,
    ),
    Part(
        "ragged", "Attention of uneven batches", "16 images of 6 heads of 64 channels; time over that of a batch of equal lengths",
        ragged.cases, 0.05, ("N", "of_uniform", "way"),
    ),
    Part("routers", "Overhead of Cropr's router", "Time of Cropr over that of a random and of a free choice, in turn", routers.cases, 0.05),
    Part(
        "compiled", "Compiled images a second", "The same as above for compiled models; each is compiled once a batch size",
        throughput.compiled_cases, 0.1, ("batch", "images_per_second", "method"),
    ),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts within the time; return 0, 2 without a GPU, or 3 if a row is at fault."""
    options = _parser().parse_args(arguments)
    chosen = [part for part in PARTS if part.name in (options.what or [part.name])]
    if options.list:
        console.say("\n".join(f"{part.name:10s}  {part.text}" for part in PARTS))
        return 0
    try:
        setup = tiny() if options.tiny else Setup(gpu())
        return measure(chosen, setup, options.out, 60 * options.minutes)
    except TokenPruneError as error:
        console.fail(str(error))
        return REFUSED


def measure(parts: Sequence[Part], setup: Setup, out: Path, seconds: float) -> int:
    """Run parts, write the page, and say what is left; return the exit status.

    Raises:
        ResultSchemaError: The folder holds rows of another machine.
    """
    about = facts(setup.device)
    waiting = runner.run(parts, setup, out, runner.Clock(seconds), about)
    files = page.write(PARTS, out, about)
    rows = [row for part in parts for row in runner.rows_of(part, out).to_dict("records")]
    bad = [row for row in rows if row["status"] in BAD]
    for row in bad:
        console.fail(f"{row['part']}: {row['case']}: {row['status']}: {row['reason']}")
    if waiting:
        console.say(f"the time ended before {', '.join(part.name for part in waiting)} were done; the same command goes on")
    console.say(f"{len(rows)} rows, {len(bad)} at fault; written: {', '.join(map(str, files))}")
    return BAD_ROW if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        console.program("gpu"),
        description="Check every pairing on a GPU against the CPU, then measure the speed of every method: tables, curves, one page.",
        epilog="Finished parts and cases lie in files of --out and are not measured again: the same command goes on where the last ended.",
    )
    names = [part.name for part in PARTS]
    parser.add_argument(
        "what", nargs="*", type=among("part", names), metavar="WHAT", help=f"parts to run: {', '.join(names)} (default: all)"
    )
    parser.add_argument("--out", type=home_path, default=Path("results/gpu"), help="folder of the results (default: results/gpu)")
    parser.add_argument("--minutes", type=_minutes, default=9.0, help="time to take, a last case beside (default: 9)")
    parser.add_argument("--tiny", action="store_true", help="run every part on the CPU at the size of a test; its numbers mean nothing")
    parser.add_argument("--list", action="store_true", help="list the parts, and stop")
    return parser


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes above 0")
    return minutes


if __name__ == "__main__":
    raise SystemExit(main())
