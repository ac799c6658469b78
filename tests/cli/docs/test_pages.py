"""The docs: generated pages are fresh and complete, worked examples run, links lead somewhere, every selector has its equation."""

import re
from pathlib import Path

import pytest

from tests.helpers.fakes import own_registry  # noqa: F401
from tokenprune import registry
from tokenprune.cli.docs import __main__ as docs
from tokenprune.cli.docs import experiments, methods
from tokenprune.runs.presets import files

ROOT = Path(__file__).parents[3]
PAGES = sorted((ROOT / "docs").glob("*.md"))
EXAMPLES = ("add_a_method", "add_a_data_set", "add_a_task")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def test_generated_pages_are_fresh():
    assert sorted(docs.stale(ROOT)) == [], "run: make docs"


def test_every_plugin_and_experiment_has_its_section():
    page = methods.page(ROOT)
    assert {f"{kind} `{name}`" for kind in registry.BUILTIN for name in methods.own(kind)} <= set(re.findall(r"^### (.*)$", page, re.M))
    names = {path.stem for path in files("experiment")}
    assert set(re.findall(r"^## (\w+)$", experiments.page(ROOT), re.M)) == names


@pytest.mark.parametrize("name", methods.own("selector"))
def test_every_selector_states_its_equation(name):
    where = f"write it into the docstring of selector {name!r}, or into docs/methods/{name}.md, and run: make docs"
    assert name not in methods.without_equation(ROOT), f"selector {name!r} has no equation: {where}"


def test_every_fragment_is_of_a_selector():
    assert {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")} <= set(methods.own("selector"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_worked_examples_run(name, tmp_path, monkeypatch, own_registry):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": f"docs_{name}"}
    codes = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{name}.md").read_text(), re.S)
    assert len(codes) >= 2
    for code in codes:
        exec(compile(code, f"docs/{name}.md", "exec"), scope)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_lead_to_files_and_headings(path):
    broken = []
    for target in LINK.findall(re.sub(r"```.*?```", "", path.read_text(), flags=re.S)):
        file, _, anchor = target.partition("#")
        there = path if not file else (path.parent / file)
        if target.startswith("http"):
            continue
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


def anchors(path: Path) -> set[str]:
    """Headings as GitHub names them in links."""
    heads = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_pages_are_written_checked_and_left_alone_where_there_are_no_docs(tmp_path, capsys):
    assert docs.main([], tmp_path) == 2 and "there is no folder" in capsys.readouterr().err
    (tmp_path / "docs").mkdir()
    assert docs.main(["--check"], tmp_path) == 1 and "docs/methods.md is stale; run: make docs" in capsys.readouterr().err
    assert docs.main([], tmp_path) == 0 and docs.main(["--check"], tmp_path) == 0
