"""Makes SViT's Table 1 from the facts that selectors and treatments declare and the presets of methods, beside the paper's."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprune.registry import build, get, register
from tokenprune.runs.plugin_options import presets
from tokenprune.runs.presets import choices
from tokenprune.runs.reports import Sweep
from tokenprune.utils.paths import expected_of

if TYPE_CHECKING:
    import pandas as pd

CELLS = {
    "selection_module": "selection module",
    "dynamic_rate": "dynamic rate",
    "preserve": "preserve dropped tokens",
    "reactivate": "reactivate dropped tokens",
}
_RULES = (
    "Read from declared facts: selection module = the selector's `module`; dynamic rate = its `budget` is dynamic, an own number of tokens"
    " for each image at test time; preserve = the treatment's `memory` is remember; reactivate = its `candidates` are all positions."
)


@register("report", "taxonomy")
@dataclass(frozen=True)
class TaxonomyReport:
    """Makes SViT's Table 1 from declared facts and compares each cell with the paper's: taxonomy.csv, .md, .tex.

    Args:
        others: Whether to list the methods, too, that the paper's table does not have.
    """

    others: bool = True

    def __call__(self, sweep: Sweep) -> list[str]:
        """Print and write the table; the rows of the sweep do not matter."""
        from tokenprune.report.tables.formats import publish

        taxonomy = Taxonomy.of(expected_of(sweep.name), self.others)
        return publish(taxonomy, sweep.folder, "taxonomy", sweep.name)


@dataclass(frozen=True)
class Method:
    """Holds one preset of a method and reads the facts that its plugins declare."""

    preset: Mapping[str, Any]

    @cached_property
    def selector(self) -> Any:
        """Return the class of the selector."""
        return get("selector", choices(self.preset)["selector"])

    @cached_property
    def treatment(self) -> Any:
        """Return the treatment by its behaviour."""
        return build("treatment", {**self.preset.get("treatment", {}), "name": choices(self.preset)["treatment"]})

    @cached_property
    def listed(self) -> Any:
        """Return the treatment as papers list it: `treatment_labels` of the preset."""
        name = self.preset.get("treatment_labels", {}).get(self.treatment.name)
        return build("treatment", name) if name else self.treatment

    def cells(self) -> dict[str, str]:
        """Return the four cells of SViT's Table 1."""
        rate = _word(self.selector.budget == "dynamic")
        return {"selection_module": self.selector.module, "dynamic_rate": rate, **self._fate(self.listed)}

    def by_design(self) -> dict[str, str]:
        """Return the cells that differ if the treatment counts by its behaviour and not as it is listed."""
        works, listed = self._fate(self.treatment), self._fate(self.listed)
        return {name: value for name, value in works.items() if value != listed[name]}

    def notes(self) -> list[str]:
        """Return remarks that a bare yes or no cannot express."""
        label, lines = self.preset["label"], []
        for name, value in self.by_design().items():
            lines.append(
                f"{label}: by design `{name}` is {value} (its treatment is `{self.treatment.name}`); it is listed as"
                f" `{self.listed.name}`, the reading of papers (`treatment_labels` of conf/method/{self.preset['method']}.yaml)."
            )
        if self.selector.gated and self.selector.budget == "fixed":
            lines.append(f"{label}: its gates vary the number of tokens in training; at test time it is fixed, hence no dynamic rate.")
        return lines

    def _fate(self, treatment: Any) -> dict[str, str]:
        fold = {"none": "", "fuse": " (fused)", "merge": " (merged)"}[treatment.fold]
        back = "all, before the last block" if treatment.revive == "last" else _word(treatment.may_revive)
        return {"preserve": _word(treatment.remembers) + fold, "reactivate": back}


@dataclass(frozen=True)
class Taxonomy:
    """Holds the table: `data` for the CSV, `shown` and `blocks` for people."""

    data: "pd.DataFrame"
    shown: "pd.DataFrame"
    blocks: tuple[str, ...]

    @classmethod
    def of(cls, expected: Path | None, others: bool = True) -> "Taxonomy":
        """Return the table.

        Args:
            expected: CSV of the paper's cells: method (a preset), the four names of `CELLS`, source, note. None leaves the paper out.
            others: Whether to add the presets that the CSV does not have.
        """
        import pandas as pd

        paper = {line["method"]: line for line in _lines(expected)}
        known = {name: preset for name, preset in presets().items() if choices(preset).get("selector") != "none"}
        own = [Method(known[name]) for name in paper]
        rest = [Method(preset) for name, preset in known.items() if name not in paper] if others or not paper else []
        lines = [_line(method, paper.get(method.preset["method"], {})) for method in [*own, *rest]]
        shown = [_shown(line, bool(paper)) for line in lines]
        names = [method.preset["label"] for method in own]
        for cells, method in zip(shown[len(own) :], rest, strict=True):
            cells["model"] += f" ({method.preset['method']})" if cells["model"] in names else ""
        if own and rest:
            shown.insert(len(own), {name: "" for name in shown[0]} | {"model": "not in the paper:"})
        return cls(pd.DataFrame(lines), pd.DataFrame(shown), tuple(_blocks([*own, *rest], lines, paper)))


def _line(method: Method, paper: Mapping[str, str]) -> dict[str, Any]:
    line = {"model": method.preset["label"], "method": method.preset["method"], "treatment": method.treatment.name}
    for name, value in method.cells().items():
        line |= {name: value, f"{name}_by_design": method.by_design().get(name, value), f"{name}_paper": paper.get(name, "")}
        line[f"{name}_agrees"] = _agreement(value, line[f"{name}_by_design"], paper[name]) if paper else ""
    return line


def _agreement(listed: str, by_design: str, paper: str) -> str:
    return "yes" if listed == by_design == paper else "as listed" if listed == paper else "no"


def _shown(line: Mapping[str, Any], beside: bool) -> dict[str, str]:
    cells = {"model": line["model"]}
    for name, title in CELLS.items():
        design = line[f"{name}_by_design"]
        cells[title] = line[name] if design == line[name] else f"{line[name]} (by design {design})"
        if beside:
            agrees = {"yes": "agrees", "as listed": "agrees as listed", "no": f"differs: {line[f'{name}_paper']}", "": "—"}
            cells[f"paper: {title.split()[0]}"] = agrees[line[f"{name}_agrees"]]
    return cells


def _blocks(methods: list[Method], lines: list[dict[str, Any]], paper: Mapping[str, Mapping[str, str]]) -> list[str]:
    blocks = [_RULES, *(note for method in methods for note in method.notes())]
    if paper:
        cells = [line[f"{name}_agrees"] for line in lines for name in CELLS if line[f"{name}_agrees"]]
        sources = dict.fromkeys(line["source"] for line in paper.values())
        listed = cells.count("as listed")
        only = f", {listed} of them only as the method is listed and not as it works here" if listed else ""
        blocks.append(f"Paper: {'; '.join(sources)}. {cells.count('yes') + listed} of {len(cells)} cells agree{only}.")
        blocks += [f"{line['model']}, paper: {line['note']}" for line in paper.values() if line["note"]]
    return blocks


def _lines(expected: Path | None) -> list[dict[str, str]]:
    if expected is None:
        return []
    with expected.open(newline="") as file:
        return list(csv.DictReader(file))


def _word(value: bool) -> str:
    return "yes" if value else "no"
