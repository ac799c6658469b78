"""Draws Cropr Appendix F: tokens before and after Last Layer Fusion, as t-SNE lays them out."""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokenprune.errors import InvalidConfig, MissingDependency, TokenPruneError
from tokenprune.registry import register
from tokenprune.report.figures.base import FigureReport, load, name_of, row_of
from tokenprune.report.figures.pruning_maps import classes_of_cells, exits
from tokenprune.runs.reports import Sweep
from tokenprune.utils import console

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor, nn

_WHEN = {"before": "before the last block", "after": "after the last block"}


@register("report", "fused_features")
@dataclass(frozen=True)
class FusedFeatures(FigureReport):
    """Draws t-SNE embeddings of a model's tokens, retired ones with their last value, before and after its last block (Cropr App. F).

    t-SNE decides what the picture shows. Beside it is a number of the features themselves: the share of a token's nearest neighbours (by
    cosine, also among tokens of other pictures) that have its true class.

    Args:
        method: Method whose first finished row is shown; its treatment must remember dropped tokens.
        pictures: Indices in the validation split; those beyond its end are left out.
        tokens: Greatest number of tokens that are drawn, picked by `seed`.
        perplexity: t-SNE's perplexity.
        neighbours: Number of nearest neighbours of each token.
        seed: Seed of the choice of tokens and of t-SNE.
    """

    method: str = "cropr"
    pictures: tuple[int, ...] = tuple(range(16))
    tokens: int = 1500
    perplexity: float = 30.0
    neighbours: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            InvalidConfig: There are too few tokens for the other values.
        """
        super().__post_init__()
        least = int(3 * self.perplexity) + 1
        if self.perplexity <= 0 or self.neighbours < 1 or self.tokens < max(least, self.neighbours + 1):
            raise InvalidConfig(
                f"reports.fused_features: tokens is {self.tokens}, perplexity {self.perplexity:g}, neighbours {self.neighbours}; allowed:"
                f" a perplexity above 0, neighbours of 1 and more, and tokens of at least {max(least, self.neighbours + 1)} with these"
            )

    def __call__(self, sweep: Sweep) -> list[str]:
        """Write fused_features.png and fused_features.csv (picture, cell, class, exit, and x, y before and after)."""
        from tokenprune.report.figures.shared.panels import save

        _require_sklearn()
        row = row_of(sweep, self.method)
        table, features = gathered(load(sweep, row), self.pictures, self.tokens, self.seed)
        purity = {when: same_class(x, table["class"].tolist(), self.neighbours) for when, x in features.items()}
        for when, x in features.items():
            table[[f"x_{when}", f"y_{when}"]] = embedded(x, self.perplexity, self.seed)
        known = ", ".join(f"{_WHEN[when]} {value:.1%}" for when, value in purity.items())
        console.say(f"fused_features: of {self.neighbours} nearest neighbours so many have a token's class: {known}")
        figure = draw(table, purity, f"Tokens {' and '.join(_WHEN.values())} (t-SNE)\n{name_of(row)}")
        return save(figure, sweep.folder, "fused_features", table.assign(**{f"same_class_{k}": v for k, v in purity.items()}))


@dataclass
class Captured:
    """Holds the tokens (B,N,C) of each pass in the raw residual stream: as they enter the last block, and as they leave it."""

    before: list["Tensor"] = field(default_factory=list)
    after: list["Tensor"] = field(default_factory=list)


@contextmanager
def captured(model: "nn.Module") -> Iterator[Captured]:
    """Record the tokens of all positions around the last block of each pass in the body.

    Raises:
        TokenPruneError: The treatment forgets dropped tokens, so there is nothing to compare at their places.
    """
    from tokenprune.engine.model import pruned_of

    pruned = pruned_of(model)
    if pruned is None or not pruned.treatment.remembers:
        raise TokenPruneError("fused_features: the row's treatment forgets dropped tokens; show one with last_layer_fusion or preserve")
    found, watch = Captured(), pruned.watch

    def enters(block: int, state: Any) -> None:
        if watch is not None:
            watch(block, state)
        if block == pruned.depth - 1:
            found.before.append(state.dense().float().cpu())

    def leaves(_: "nn.Module", given: tuple["Tensor", ...]) -> None:
        if len(found.after) < len(found.before):  # the first call is for the map, the second for the prefix
            found.after.append(given[0].float().cpu())

    pruned.watch = enters
    handle = pruned.family.model.norm.register_forward_pre_hook(leaves)
    try:
        yield found
    finally:
        pruned.watch = watch
        handle.remove()


def gathered(loaded: Any, numbers: Sequence[int], tokens: int, seed: int) -> "tuple[pd.DataFrame, dict[str, np.ndarray]]":
    """Return a sample of tokens with a class: a table (picture, cell, class, exit) and their features (n,C) before and after.

    Raises:
        TokenPruneError: No picture has a token with a class.
    """
    import numpy as np
    import pandas as pd
    import torch

    tables = []
    with captured(loaded.model) as found:
        for picture in loaded.pictures(numbers, predict=False):
            classes = classes_of_cells(picture)
            left = exits(picture.used).flatten().tolist()
            tables.append(pd.DataFrame({"picture": picture.number, "cell": range(len(left)), "class": classes, "exit": left}))
    if not tables:
        raise TokenPruneError(f"fused_features: pictures {list(numbers)}: the validation split has none of them; give indices from 0 on")
    pairs = ((f[0], len(t)) for f, t in zip(found.before, tables, strict=True))
    if any(len(x) != n for x, n in pairs):
        raise TokenPruneError("fused_features: pictures are padded before the encoder; show data whose sides are multiples of the patch")
    table = pd.concat(tables, ignore_index=True)
    known = np.flatnonzero(table["class"] != "")
    if not len(known):
        raise TokenPruneError(f"fused_features: task {loaded.task.name!r} tells no class of a token; use task=segmentation or detection")
    picked = np.sort(np.random.default_rng(seed).permutation(known)[:tokens])
    features = {when: torch.cat([x[0] for x in getattr(found, when)]).numpy()[picked] for when in _WHEN}
    return table.iloc[picked].reset_index(drop=True), features


def same_class(features: "np.ndarray", classes: Sequence[str], neighbours: int) -> float:
    """Return the mean share of a token's nearest neighbours that have its class.

    Neighbours are by cosine; the token itself is left out.

    Args:
        features: Features of the tokens, (n,C).
        classes: Class of each token.
        neighbours: Number of neighbours.
    """
    import numpy as np

    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(min=1e-12)
    close = unit @ unit.T
    np.fill_diagonal(close, -np.inf)
    nearest = np.argpartition(-close, neighbours - 1, axis=1)[:, :neighbours]
    names = np.asarray(classes)
    return float((names[nearest] == names[:, None]).mean())


def embedded(features: "np.ndarray", perplexity: float, seed: int) -> "np.ndarray":
    """Return t-SNE's places (n,2) of features (n,C), by cosine distance."""
    from sklearn.manifold import TSNE

    return TSNE(perplexity=perplexity, metric="cosine", init="random", random_state=seed).fit_transform(features)


def draw(table: "pd.DataFrame", purity: dict[str, float], title: str) -> "Figure":
    """Return the figure: both embeddings, one colour a class. Tokens that left earlier than the median are small."""
    from tokenprune.report.figures.shared.panels import NORMAL, SMALL, framed, looks, new_figure, wheel

    figure = new_figure(11.5, 5.6, title)
    early = table["exit"] < table["exit"].median()
    for axis, (when, share) in zip(figure.subplots(1, 2), purity.items(), strict=True):
        groups = table.groupby("class")
        for look, colour, (name, part) in zip(looks(), wheel(len(groups)), groups, strict=False):
            size = early[part.index].map({True: 6.0, False: 16.0})
            look = {"color": [colour], "marker": look["marker"]}
            axis.scatter(part[f"x_{when}"], part[f"y_{when}"], s=size, alpha=0.75, linewidths=0, label=name, **look)
        framed(axis).set_title(f"{_WHEN[when]}: {share:.0%} of the nearest neighbours have a token's class", fontsize=NORMAL)
    handles, names = axis.get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=min(len(names), 8),
        fontsize=SMALL,
        markerscale=1.6,
        title="small: tokens that left earlier than the median",
        title_fontsize=SMALL,
    )
    return figure


def _require_sklearn() -> None:
    if importlib.util.find_spec("sklearn") is None:
        raise MissingDependency("scikit-learn, which has t-SNE, is not installed: pip install 'tokenprune[figures]' (or `make setup`)")
