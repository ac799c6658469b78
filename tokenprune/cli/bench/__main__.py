"""Measures the goals: `python -m tokenprune.bench`."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tokenprune.cli.bench import attention, authors, dense_tasks, every, fixed, programs, ragged, report, router, sampling, scale
from tokenprune.cli.bench.goals import Benchmark, Finding, Setup
from tokenprune.cli.options import among
from tokenprune.registry import names
from tokenprune.utils import console
from tokenprune.utils.paths import home_path


def _curves(findings: Sequence[Finding], path: Path) -> None:
    from tokenprune.cli.bench.curves import draw  # Matplotlib takes a second, which no other benchmark needs

    draw(findings, path)


BENCHMARKS = (
    Benchmark("fixed", "methods of fixed counts: speed-up against their MACs, a slice oracle, and the engine's own cost", fixed.measure),
    Benchmark("authors", "each method against the way in which its authors' code computes a block", authors.measure),
    Benchmark("ragged", "a block on uneven counts over a uniform one", ragged.measure_block),
    Benchmark("svit", "SViT against an oracle of its mean counts", ragged.measure_svit),
    Benchmark("router", "Cropr's deployed router against random and against free choices, with Last Layer Fusion", router.measure),
    Benchmark("dense", "remove, preserve, reactivate and a slice oracle at the size of detection images", dense_tasks.measure),
    Benchmark("attention", "the class token's row: share of its block, memory of attention", attention.measure),
    Benchmark("every", "every selector as published: speed-up against its MACs, time against a slice oracle; no limits", every.measure),
    Benchmark("ats", "ATS sampling against the distance matrix of its released algorithm", sampling.measure),
    Benchmark("scale", "time and memory of each selector's decision as N and the batch grow", scale.measure, _curves),
    Benchmark("compile", "programs and breaks of each selector's model under torch.compile", programs.measure),
)
QUICK = Setup(rounds=3, batches=(1, 8), lengths=(196, 784, 2304))


def main(arguments: Sequence[str] | None = None, setup: Setup | None = None) -> int:
    """Run the chosen benchmarks; return 0, also if a goal is missed, because a benchmark measures and a test judges."""
    options = _parser().parse_args(arguments)
    chosen = [b for b in BENCHMARKS if b.name in (options.what or [b.name])]
    if options.list:
        console.say("\n".join(f"{b.name:10s} {b.text}" for b in BENCHMARKS))
        return 0
    setup = setup if setup is not None else QUICK if options.quick else Setup()
    given = {"rounds": options.rounds, "batches": options.batches, "lengths": options.lengths, "selectors": options.selectors}
    setup = replace(setup, **{key: value for key, value in given.items() if value is not None})
    findings, pictures = list[Finding](), []
    options.out.mkdir(parents=True, exist_ok=True)
    for benchmark in console.progress(chosen, "benchmarks"):
        found = benchmark.measure(setup)
        findings += found
        if benchmark.draw is not None:
            pictures.append(f"{benchmark.name}.png")
            benchmark.draw(found, options.out / pictures[-1])
    how = "CPU seconds of one thread, calls in turn, medians of the rounds' own ratios; IQR is their interquartile range"
    files = report.write(findings, options.out, how)
    console.say(f"\nwritten: {', '.join(str(options.out / name) for name in [*files, *pictures])}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        console.program("bench"),
        description="Measure the engine's speed against its goals: goals, limits and measured values, as a table.",
        epilog="Times are CPU seconds of one thread, so a busy machine does little harm; a quiet one still measures best.",
    )
    all_ = [b.name for b in BENCHMARKS]
    parser.add_argument(
        "what", nargs="*", type=among("benchmark", all_), metavar="WHAT", help=f"benchmarks to run: {', '.join(all_)} (default: all)"
    )
    parser.add_argument("--list", action="store_true", help="list the benchmarks with the quantities they measure, and stop")
    parser.add_argument("--quick", action="store_true", help="3 rounds, batches of 1 and 8: minutes instead of about an hour")
    parser.add_argument(
        "--rounds", type=_positive, help="how often everything is timed, short calls up to five times as often (default: 9)"
    )
    parser.add_argument("--batches", type=_batches, help="batch sizes, with commas (default: 1,8,32)")
    parser.add_argument("--lengths", type=_lengths, help="N of `scale`, square numbers with commas (default: 196,784,2304,4096,9216)")
    parser.add_argument("--selectors", type=_selectors, help="selectors of `scale` and `compile`, with commas (default: all)")
    parser.add_argument(
        "--out",
        type=home_path,
        default=Path("results/bench"),
        help="folder of bench.csv, bench.md and scale.png (default: results/bench)",
    )
    return parser


def _batches(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _lengths(text: str) -> tuple[int, ...]:
    found = _batches(text)
    if any(math.isqrt(n) ** 2 != n for n in found) or list(found) != sorted(set(found)) or len(found) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} are no two or more square numbers that rise, such as 196,784,4096")
    return found


def _selectors(text: str) -> tuple[str, ...]:
    return tuple(among("selector", names("selector"))(part) for part in text.split(","))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
