"""Merges several results folders, such as those of several machines. Rows of different devices stay apart and are named."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from tokenprune.report.page.gather import Experiment, Found, gather, natural, only

_SAYS_WHERE = ["folder", "made"]  # columns in which a copy of a row may differ from it


def gather_all(roots: Sequence[Path], names: Sequence[str] = (), without: Path | None = None, one_machine: bool = False) -> Found:
    """Return what several folders hold, each as `gather` reads it, as if it were one folder; of one folder, what `gather` returns.

    A row that was copied from one folder to another counts once. Devices of equal name in two folders count as two machines, named by
    their folders, because nothing says that they are the same.

    Args:
        roots: Folders, each as `gather` takes it.
        names: Names of the experiments that are wanted; none for all.
        without: A folder that is left out, such as an earlier report.
        one_machine: Whether devices of equal name are one device.

    Raises:
        TokenPruneError: See `gather`.
    """
    roots = list({root.resolve(): root for root in roots}.values())
    if len(roots) == 1:
        return gather(roots[0], names, without)
    founds = dict(zip(short_names(roots), (gather(root, (), without) for root in roots), strict=True))
    by_name: dict[str, dict[str, Experiment]] = {}
    for origin, found in founds.items():
        for experiment in found.experiments:
            by_name.setdefault(experiment.name, {})[origin] = experiment
    rows = {name: _rows(parts) for name, parts in by_name.items()}
    shared = set() if one_machine else _shared_devices(rows.values())
    experiments = [_joined(by_name[name], rows[name], shared) for name in sorted(by_name, key=natural)]
    unreadable = [(f"{origin}/{where}", why) for origin, found in founds.items() for where, why in found.unreadable]
    return only(Found(experiments, unreadable, sum(found.starts for found in founds.values())), names, " and ".join(founds))


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of different paths that tell all of them apart."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def _rows(parts: Mapping[str, Experiment]) -> pd.DataFrame:
    """Return the rows of one experiment in several folders, each once, with the folder of each."""
    frames = [part.data.assign(folder=origin) for origin, part in parts.items() if len(part.data)]
    if not frames:
        return pd.DataFrame()
    data = pd.concat(frames, ignore_index=True)
    return data.drop_duplicates([name for name in data if name not in _SAYS_WHERE], ignore_index=True)


def _shared_devices(experiments: Iterable[pd.DataFrame]) -> set[str]:
    """Return the devices of which two folders have rows of their own."""
    data = pd.concat([rows[["device", "folder"]] for rows in experiments if len(rows)])
    folders = data.groupby("device")["folder"].nunique()
    return set(folders[folders > 1].index)


def _joined(parts: Mapping[str, Experiment], data: pd.DataFrame, shared: Collection[str]) -> Experiment:
    def told(device: str, origin: str) -> str:
        return f"{device}, {origin}" if device in shared else device

    if len(data):
        data = data.assign(device=[told(device, origin) for device, origin in zip(data["device"], data["folder"], strict=True)])
    folders = tuple(folder for part in parts.values() for folder in part.folders)
    own = frozenset.union(*(part.own for part in parts.values()))
    stored = {(key, told(device, origin)): row for origin, part in reversed(parts.items()) for (key, device), row in part.stored.items()}
    return Experiment(next(iter(parts.values())).name, data, folders, own, stored)
