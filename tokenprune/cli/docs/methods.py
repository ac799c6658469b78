"""Makes docs/methods.md: every registered plugin, from its class. Hand-written equations are the fragments docs/methods/NAME.md."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenprune import registry
from tokenprune.cli.docs.options import options_of, states_equation, text_of
from tokenprune.engine.legality import refuse
from tokenprune.errors import IncompatiblePairing
from tokenprune.runs.presets import choices, files, read

_FIRST = ("selector", "treatment", "schedule", "fusion", "loss")
_PLURAL = {"loss": "Losses"}
_HIDDEN = ("name", "summary", "module", "paper", "saves_computation")
_HEAD = """# Methods

Made by `make docs` from the registry: change the class, or its equation in [methods/](methods/), and make it again. Words:
[concepts](concepts.md). An option is set as `selector.NAME=VALUE` on the command line (`+selector.NAME=VALUE` where no YAML
file names it), or in a mapping, `tokenprune.prune(model, selector={"name": "svit", "gate": "complex"})`.

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
    return path.read_text().strip("\n") if path.is_file() else ""


def without_equation(root: Path) -> list[str]:
    """Return the selectors whose equation stands neither in a fragment nor in their docstring."""
    texts = {name: [fragment(root, name), *text_of(registry.get("selector", name))] for name in own("selector")}
    return [name for name, parts in texts.items() if not states_equation("\n".join(parts))]


def page(root: Path) -> str:
    """Return the page.

    Args:
        root: Root of the checkout, whose fragments are included.
    """
    parts = [_HEAD, "\n".join(f"- [{_plural(kind)}](#{_plural(kind).lower()}): {_links(kind)}" for kind in kinds()), _legality()]
    for kind in kinds():
        parts.append(f"## {_plural(kind)}")
        parts += ["\n\n".join(_plugin(kind, name, root)) for name in own(kind)]
    return "\n\n".join(parts) + "\n"


def _plural(kind: str) -> str:
    return _PLURAL.get(kind, f"{kind.capitalize()}s")


def _links(kind: str) -> str:
    return " ".join(f"[`{name}`](#{_anchor(kind, name)})" for name in own(kind))


def _anchor(kind: str, name: str) -> str:
    return f"{kind}-{name}"


def _plugin(kind: str, name: str, root: Path) -> Iterator[str]:
    plugin, facts = registry.get(kind, name), registry.facts(kind, name)
    first, rest = (text.replace("**", "\\*\\*") for text in text_of(plugin))  # powers, not bold type
    yield f"### {kind} `{name}`"
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
    yield f"[source](../{plugin.__module__.replace('.', '/')}.py)"


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
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in [head, *cells]]
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
