"""Makes docs/which_method.md: the methods that win at each budget, from the committed comparisons of experiments/training_free_gmac."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tokenprune.report.insights.verdicts import UNDECIDED

_EXPERIMENT = "training_free_gmac"
_HEAD = """# Which method should I use?

Made by `make docs` from [experiments/{experiment}/measured](../experiments/{experiment}/): measure again there, and make it again.

Each table below is one model on one set of images, without any training of the pruned model. The budgets are shares of the dense encoder's
GMAC. *Best* has the highest top-1. *Not told apart from it* are the methods that McNemar's exact test, corrected by Holm for all pairs of
the budget, does not tell from the best one on these images: take the simplest or the fastest of them. *Worse than a random choice* are
those that lose against `random` at the same budget in the same test.

- **No training at all**: the tables below.
- **You can fine-tune**: the tables of [cropr_table1_imagenet](experiments.md) and
  [table7_imagenet](experiments.md) tell what training changes, with seeds.
- **Detection, segmentation**: [table2_preserve](experiments.md) tells why tokens should be preserved there, and
  [cropr_fig5_segmentation](experiments.md) compares selectors on street scenes. Merging and clustering methods work
  there too, because each position reads the token that holds it.
- **Latency, not GMAC**: a method that sorts, clusters or merges spends time that GMAC do not show. In the tables behind this page, in
  batches of one on a CPU, ToMe, PiToMe, ToFu, DiffRate, MCTF and ATC save little or no time at 65 % of the GMAC, although they lose least;
  PPT, ATS and ALGM do (`speedup_encoder` in `table.csv`). `tokenprune bench every` measures each method against a slice of the same size on
  your machine, and `tokenprune gpu` does so on a GPU for each batch size. ATC joins one pair of clusters after the other, image by image
  on the host as its authors do, or all images of a batch at once here. ATS and ALGM keep another number of tokens for each image, which
  costs most in small batches.
"""


def page(root: Path) -> str:
    """Return the page for a checkout at `root`."""
    found = sorted((root / "experiments" / _EXPERIMENT / "measured").glob("*/paired.csv"))
    parts = [_model(path) for path in found]
    return "\n".join([_HEAD.format(experiment=_EXPERIMENT), *(parts or ["No comparison is committed yet.", ""])])


def _model(path: Path) -> str:
    table, folder = pd.read_csv(path), path.parent.name
    images = int(table["images"].iloc[0])
    pairs = f"../experiments/{_EXPERIMENT}/measured/{folder}/paired.md"
    lines = [f"## {folder.replace('_', ' ')}", "", f"{images} images. [All rows]({pairs}).", ""]
    lines += ["| budget | best | minus dense | not told apart from it | worse than a random choice |", "|---|---|---|---|---|"]
    lines += [_budget(str(words), rows) for words, rows in table.groupby("budget", sort=False)]
    return "\n".join([*lines, "", *_papers(path.with_name("rankings.csv"))])


def _papers(path: Path) -> list[str]:
    """Return the lines that tell which rankings of papers hold, none without a file of them."""
    if not path.is_file():
        return []
    found = pd.read_csv(path, keep_default_na=False)
    budgets = [str(words) for words in found["budget"].unique()]
    lines = [
        "What papers say, here: first minus second in points, with its 95 % interval, and the verdict of McNemar's exact test, corrected",
        "by Holm for the rankings of a budget.",
        "",
        f"| ranking | paper | {' | '.join(budgets)} | |",
        f"|---|---|{'---|' * len(budgets)}---|",
    ]
    for (first, second, source), same in found.groupby(["first", "second", "source"], sort=False):
        told = {line["budget"]: line for line in same.to_dict("records")}
        cells = [_verdict(told[words]) if words in told else "—" for words in budgets]
        lines.append(f"| {first} above {second} | {source} | {' | '.join(cells)} | {same['note'].iloc[0]} |")
    return [*lines, ""]


def _verdict(line: Mapping[str, Any]) -> str:
    return f"**{line['verdict']}**, {line['difference']:+.1f} ({line['low']:+.1f} to {line['high']:+.1f})"


def _budget(words: str, rows: pd.DataFrame) -> str:
    scores = {**dict(zip(rows["second"], rows["second_top1"], strict=True)), **dict(zip(rows["first"], rows["first_top1"], strict=True))}
    dense = [name for name in scores if name not in set(rows["first"]) and "," not in name]
    ranked = sorted((name for name in scores if name not in dense), key=lambda name: -scores[name])
    best = ranked[0]
    gap = rows[(rows["first"] == best) & rows["second"].isin(dense)]
    against = f"{gap['difference'].iloc[0]:+.1f} ({gap['low'].iloc[0]:+.1f} to {gap['high'].iloc[0]:+.1f})" if len(gap) else "—"
    alike = [f"{name} ({scores[name]:.1f})" for name in ranked[1:] if _better(rows, best, name) == UNDECIDED]
    chance = next((name for name in ranked if name.startswith("Random,")), None)
    worse = [f"{name} ({scores[name]:.1f})" for name in ranked if chance is not None and _better(rows, chance, name) == chance]
    return f"| {words} | **{best}** ({scores[best]:.1f}) | {against} | {', '.join(alike) or '—'} | {', '.join(worse) or '—'} |"


def _better(rows: pd.DataFrame, one: str, other: str) -> str:
    """Return the better of two rows of a budget, or that it is undecided; "" for a pair that was not compared."""
    pair = rows[rows["first"].isin([one, other]) & rows["second"].isin([one, other])]
    return str(pair["better"].iloc[0]) if len(pair) else ""
