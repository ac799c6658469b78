"""The page of published files, docs/zoo.md, and the printed numbers beside their tables, both made from the entries of the zoo."""

import csv
import io
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from tokenprune.cli.docs.links import cell
from tokenprune.cli.zoo import numbers_of
from tokenprune.registry import get, names
from tokenprune.report.tables.expected import NUMBERS
from tokenprune.zoo.catalog import Entry, entries

_HEAD = """# Published files

Made by `make docs` from the entries in [tokenprune/zoo/](../tokenprune/zoo/): change them there and make it again.

The authors of these methods publish what they trained. Nothing is downloaded by itself: fetch a file from its link, and judge it as its
authors do, by evaluation alone:

    tokenprune zoo list svit                                               # names, links, sizes, licences, printed numbers
    tokenprune zoo verify svit-adapter-tiny --weights FILE --data COCO_ROOT
    tokenprune run +experiment=released_svit data.root=COCO_ROOT zoo.folder=FOLDER

`verify` prints the accuracy beside the printed number, says whether both agree within the last printed digit, and leaves an ordinary result
row. Its last lines are the values that a measured file adds to its entry: send them with the row. In Python a file is a model in one line,
and every row and `prune` start from it as well; the layout is recognised from the keys:

    model = tokenprune.load("evit-0.7-fuse-img224-deit-s.pth", method="evit", keep_rate=0.7, fuse_token=True)
    model = tokenprune.prune(timm.create_model("deit_small_patch16_224"), "dynamicvit", init="dynamicvit-deit-s-0.7.pth")
    tokenprune run method=dynamicvit task=classification backbone=vit_small data=imagefolder data.root=DIR init=FILE training.iterations=0

Settings that a file does not say are asked for by name. `tokenprune zoo convert FILE --out NEW.safetensors --entry NAME` writes a file that
holds them, so that `tokenprune.load("NEW.safetensors")` needs none; `--to timm` writes the encoder in timm's keys. No machine of this
project reaches the files: the importers are proved on weights that are filled from the names of tensors, against what the authors' code
computes with them ([tests/golden](../tests/golden/)). Where the column *measured* is empty, nobody has sent a measurement yet."""
_MOST = 24  # entries of a family in full
_LAYOUTS = """## Layouts

| layout | task | settings that a file may not say |
|---|---|---|"""


def page(root: Path) -> str:
    """Return the page docs/zoo.md.

    Args:
        root: folder of the checkout.
    """
    parts = [_HEAD]
    for family, found in groupby(entries(), key=lambda e: e.family):
        parts += _family(family, list(found))
    lines = [f"| `{name}` | {get('layout', name).task} | {_asked(name)} |" for name in names("layout")]
    return "\n\n".join([*parts, "\n".join([_LAYOUTS, *lines])]) + "\n"


def expected(experiment: str, task: str) -> str:
    """Return experiments/<experiment>/expected.csv: the printed numbers of the entries of a task, one line each.

    Args:
        experiment: name of the experiment.
        task: classification, detection or segmentation.
    """
    found = [e for e in entries() if e.task == task and e.printed and not e.refused]
    found = [e for e in found if e.family == "svit"] if experiment == "released_svit" else found
    columns = [name for name in NUMBERS if any(name in e.printed for e in found)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", *columns, "source"])
    for e in found:
        writer.writerow([e.name, *(e.printed.get(name, "") for name in columns), f"{e.printed_in}: {e.model}"])
    return text.getvalue()


def _family(family: str, found: Sequence[Entry]) -> list[str]:
    papers = list(dict.fromkeys(e.paper for e in found))
    code = ", ".join(f"[code]({address})" for address in dict.fromkeys(e.code for e in found))
    licences = ", ".join(dict.fromkeys(e.licence for e in found if e.licence)) or "not known"
    shown = list(found) if len(found) <= _MOST else [e for e in found if e.printed]
    more = f"{len(found)} files; `tokenprune zoo list {found[0].name.split('-')[0]}` prints them all."
    rows = [(f"`{e.name}`", cell(e.model), _address(e), e.needs or "—", numbers_of(e.printed) or "—", _measured(e)) for e in shown]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    head = ["| name | model | file | data | printed | measured |", "|---|---|---|---|---|---|"]
    table = ["\n".join([*head, *lines])] if shown else []
    return [f"## {family}", f"{'; '.join(papers)} ({code}). Licence: {licences}.", *table, *([more] if len(shown) < len(found) else [])]


def _address(e: Entry) -> str:
    return f"[{e.file}]({e.link})" if e.link else e.file


def _measured(e: Entry) -> str:
    if e.refused:
        return f"refused: {cell(e.refused)}"
    return numbers_of(e.measured) if e.measured else ""


def _asked(name: str) -> str:
    layout = get("layout", name)
    asked = [f"`{setting}`: {words}" for setting, words in layout.asks.items()]
    return cell("; ".join([*asked, *(f"`{setting}` (default {value})" for setting, value in layout.offers.items())]) or "—")
