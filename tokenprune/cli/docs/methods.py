"""The pages of all registered plugins, from their classes; hand-written equations are the fragments docs/methods/NAME.md.

The repository has one page, docs/methods.md. The site has a list and one page a plugin.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenprune import registry
from tokenprune.cli.docs.links import cell
from tokenprune.cli.docs.options import options_of, states_equation, text_of
from tokenprune.engine.legality import refuse
from tokenprune.errors import IncompatiblePairing
from tokenprune.runs.presets import choices, files, read

_FIRST = ("selector", "treatment", "schedule", "fusion", "loss")
_PLURAL = {"loss": "Losses", "data": "Data sets"}
_HIDDEN = ("name", "summary", "module", "paper", "saves_computation")
_ANCHOR = re.compile(r"\]\(#(" + "|".join(registry.BUILTIN) + r")-(\w+)\)")  # a plugin's section on the page of the repository
_MADE = """Made by `make docs` from the registry: change the class, or its equation in [methods/](methods/), and make it again."""
_HEAD = """The words are explained in [concepts](concepts.md). Set an option as `selector.NAME=VALUE` on the command line, or in a mapping:
`tokenprune.prune(model, selector={"name": "svit", "gate": "complex"})`.

Symbols: x_i token i of N positions, C channels, h heads of d channels, q k v of the block, K tokens that stay, t a
threshold, [condition] 1 or 0."""


def own(kind: str) -> list[str]:
    """Return the registered names of a kind that belong to this package, not to an installed plugin."""
    return [name for name in registry.names(kind) if registry.get(kind, name).__module__.startswith("tokenprune.")]


def kinds() -> list[str]:
    """Return the kinds of plugins, those of a model first."""
    return [kind for kind in _FIRST if kind in registry.BUILTIN] + [kind for kind in registry.BUILTIN if kind not in _FIRST]


def fragment(root: Path, name: str) -> str:
    """Return the hand-written equations and choices of a selector; "" if there are none."""
    path = root / "docs" / "methods" / f"{name}.md"
    return path.read_text(encoding="utf-8").strip("\n") if path.is_file() else ""


def without_equation(root: Path) -> list[str]:
    """Return the selectors whose equation stands neither in a fragment nor in their docstring."""
    texts = {name: [fragment(root, name), *text_of(registry.get("selector", name))] for name in own("selector")}
    return [name for name, parts in texts.items() if not states_equation("\n".join(parts))]


def page(root: Path) -> str:
    """Return the page docs/methods.md of the repository.

    Args:
        root: folder of the checkout, whose fragments are taken in.
    """
    contents = "\n".join(f"- [{plural(kind)}](#{_slug(kind)}): {_links(kind)}" for kind in kinds())
    parts = ["# Methods", f"{_MADE}\n{_HEAD}", contents, _legality()]
    for kind in kinds():
        parts.append(f"## {plural(kind)}")
        parts += ["\n\n".join([f"### {kind} `{name}`", *_plugin(kind, name, root, "..")]) for name in own(kind)]
    return "\n\n".join(parts) + "\n"


def pages(root: Path) -> dict[str, str]:
    """Return the pages of the site by their paths under docs/: methods.md, the list, and one page a plugin.

    Args:
        root: folder of the checkout, whose fragments are taken in.
    """
    lists = [part for kind in kinds() if own(kind) for part in (f"## {plural(kind)}", _list(kind))]
    found = {"methods.md": "\n\n".join(["# Methods", _HEAD, _legality(), *lists]) + "\n"}
    for kind in kinds():
        for name in own(kind):
            parts = [f"# {kind.capitalize()} `{name}`", *_plugin(kind, name, root, "../../.."), *_partners(kind, name)]
            found[place(kind, name)] = _ANCHOR.sub(lambda anchor: f"]({_beside(*anchor.groups())})", "\n\n".join(parts)) + "\n"
    return found


def place(kind: str, name: str) -> str:
    """Return where the site has the page of a plugin, under docs/."""
    return f"methods/{_slug(kind)}/{name}.md"


def plural(kind: str) -> str:
    """Return the heading of all plugins of a kind."""
    return _PLURAL.get(kind, f"{kind.capitalize()}s")


def _slug(kind: str) -> str:
    return plural(kind).lower().replace(" ", "-")


def _list(kind: str) -> str:
    lines = [f"| [`{name}`]({place(kind, name)}) | {cell(text_of(registry.get(kind, name))[0])} |" for name in own(kind)]
    return "\n".join([f"| {kind} | in one line |", "|---|---|", *lines])


def _partners(kind: str, name: str) -> list[str]:
    """Return the section of a selector or treatment that says with which of the other it goes, and why not with the others."""
    if kind not in ("selector", "treatment") or name == "none":
        return []
    other = "treatment" if kind == "selector" else "selector"
    reasons = {o: _refusal(*((name, o) if kind == "selector" else (o, name))) for o in own(other) if o != "none"}
    legal = ", ".join(f"[`{o}`]({_beside(other, o)})" for o, why in reasons.items() if not why)
    lines = [f"- [`{o}`]({_beside(other, o)}): {why}." for o, why in reasons.items() if why]
    refused = ["Refused:", "\n".join(lines)] if lines else []
    return [f"## {plural(other)} that it goes with", legal or "None.", *refused]


def _beside(kind: str, name: str) -> str:
    return f"../{place(kind, name).partition('/')[2]}"


def _links(kind: str) -> str:
    return " ".join(f"[`{name}`](#{_anchor(kind, name)})" for name in own(kind))


def _anchor(kind: str, name: str) -> str:
    return f"{kind}-{name}"


def _plugin(kind: str, name: str, root: Path, up: str) -> Iterator[str]:
    """Yield the parts of a plugin's section below its heading; `up` leads from the page's folder to the checkout."""
    plugin, facts = registry.get(kind, name), registry.facts(kind, name)
    first, rest = (text.replace("**", "\\*\\*") for text in text_of(plugin))  # powers, not bold type
    yield first
    about = [facts["paper"]] if facts.get("paper") not in (None, "", "none") else []
    about += [f"{key} {_word(value)}" for key, value in facts.items() if key not in _HIDDEN and _word(value)]
    about += ["drops nothing, masks"] if facts.get("saves_computation") is False else []
    about += [f"module: {plugin.module}"] if kind == "selector" else []
    about += _published(plugin) if kind == "selector" else []
    if about:
        yield f"*{'; '.join(about)}.*"
    if rest:
        yield rest
    hand = fragment(root, name) if kind == "selector" else ""
    if hand:
        yield hand
    table = _options(plugin)
    if table:
        yield table
    yield f"[source]({up}/{plugin.__module__.replace('.', '/')}.py)"


def _word(value: Any) -> str:
    return "yes" if value is True else "" if value in (False, None, "") else str(value)


def _published(plugin: Any) -> list[str]:
    published = {axis: _spec(spec) for axis, spec in plugin.published.items()}
    presets = [path.stem for path in files("method") if choices(read(path)).get("selector") == plugin.name]
    words = [f"published with {', '.join(f'{axis} {spec}' for axis, spec in published.items())}"]
    return words + ([f"presets {', '.join(f'`method={name}`' for name in presets)}"] if presets else [])


def _spec(spec: str | Mapping[str, Any]) -> str:
    if isinstance(spec, str):
        return f"`{spec}`"
    options = ", ".join(f"{key} {value}" for key, value in spec.items() if key != "name")
    return f"`{spec['name']}`" + (f" ({options})" if options else "")


def _options(plugin: Any) -> str:
    options = options_of(plugin)
    if not options:
        return ""
    told = any(option.meaning for option in options)  # else the text above tells it
    head = ["option", "type", "default", *(["meaning, allowed values"] if told else [])]
    cells = [[f"`{o.name}`", o.type, o.default, *([o.meaning] if told else [])] for o in options]
    lines = ["| " + " | ".join(map(cell, line)) + " |" for line in [head, *cells]]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def _legality() -> str:
    """Return the table of selectors and treatments, and the reasons of refusals."""
    treatments = [name for name in own("treatment") if name != "none"]
    lines, reasons = [], {}
    for name in own("selector"):
        cells = []
        for treatment in treatments:
            why = _refusal(name, treatment)
            cells.append(str(reasons.setdefault(why, len(reasons) + 1)) if why else "yes")
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    head = ["| selector | " + " | ".join(f"`{t}`" for t in treatments) + " |", "|---" * (len(treatments) + 1) + "|"]
    legend = [f"{number}. {why[0].upper()}{why[1:]}." for why, number in reasons.items()]
    return "\n".join(["## Which go together", "", "A number is a refusal, with its reason below.", "", *head, *lines, "", *legend])


def _refusal(selector: str, treatment: str) -> str:
    try:
        refuse(registry.get("selector", selector), registry.build("treatment", treatment))
    except IncompatiblePairing as error:
        return str(error).partition(": ")[2].rstrip(".")
    return ""
