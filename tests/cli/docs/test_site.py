"""The site: pages that are made when it is built, links that lead somewhere, nothing from the network."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tokenprune import registry
from tokenprune.cli.docs import links, methods, site
from tokenprune.runs.presets import files

ROOT = Path(__file__).parents[3]
_WEB = r"""["']?(?:https?:)?//"""
REMOTE = re.compile(rf"""<(?:script|img|iframe)[^>]*\bsrc={_WEB}|<link[^>]*\bhref={_WEB}|url\({_WEB}""")


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return site.made(ROOT)


@pytest.mark.system
def test_every_plugin_and_every_experiment_has_a_page_of_its_own(made):
    plugins = {methods.place(kind, name): (kind, name) for kind in registry.BUILTIN for name in methods.own(kind)}
    assert [path for path, (kind, name) in plugins.items() if not made[path].startswith(f"# {kind.capitalize()} `{name}`\n")] == []
    names = {path.stem for path in files("experiment")}
    assert {f"experiments/{name}.md" for name in names} <= set(made)
    assert [path for path in plugins if f"({path})" not in made["methods.md"]] == []
    assert [name for name in names if f"(experiments/{name}.md)" not in made["experiments.md"]] == []


def test_a_selector_says_with_which_treatments_it_goes_and_why_not_with_others(made):
    page = made["methods/selectors/evit.md"]
    assert "[`preserve`](../treatments/preserve.md)" in page and "Refused:\n\n- [`reactivate`](../treatments/reactivate.md): " in page
    assert "## Selectors that it goes with" in made["methods/treatments/preserve.md"]


def test_links_of_made_pages_lead_to_pages_pictures_or_files_of_the_repository(made):
    known = {*made, *site.pictures(ROOT), *(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.*"))}
    broken = []
    for path, text in made.items():
        folder = (ROOT / "docs" / path).parent

        def note(mark, label, target, folder=folder, path=path):
            there = Path(*(folder / target.partition("#")[0]).parts)
            inside = there.resolve().relative_to(ROOT).as_posix() if there.resolve().is_relative_to(ROOT) else ""
            if not there.resolve().exists() and inside.removeprefix("docs/") not in known:
                broken.append((path, target))
            return ""

        links.each_link(text, note)
    assert broken == []


def test_navigation_holds_every_page(made):
    config = type(
        "Config", (), {"nav": ["index.md", {"Methods": "methods.md"}, {"More": [{"Experiments": "experiments.md"}, "changelog.md"]}]}
    )
    nav = str(site.on_config(config).nav)
    assert [path for path in made if f"'{path}'" not in nav and path not in ("contributing.md", "security.md")] == []


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("concepts.md#words", "[x](../concepts.md#words)"),
        ("../README.md", "x (`README.md`)"),
        ("../experiments/a/measured/table.md", "[x](../experiments/a.md)"),
        ("../experiments/a/measured/b.png", "[x](../experiments/a/measured/b.png)"),
        ("../experiments/none/README.md", "x (`experiments/none/README.md`)"),
        ("../CONTRIBUTING.md", "[x](../contributing.md)"),
        ("https://example.org/a.md", "[x](https://example.org/a.md)"),
    ],
)
def test_links_lead_to_pages_of_the_site_or_become_text(target, shown):
    known = {"concepts.md", "experiments/a.md", "experiments/a/measured/b.png"}
    text = links.rebased(f"[x]({target})", "docs", "docs/methods")
    assert links.within(text, "docs/methods", lambda path: site.page_of(path, known)) == shown


def test_an_experiment_names_the_files_of_its_folder_and_links_to_other_experiments():
    files = [SimpleNamespace(src_uri=f"experiments/{name}.md") for name in "ab"]
    text = "[numbers](../../experiments/a/expected.csv) [other](../../experiments/b/) [here](a.md#x)"
    shown = site.on_page_markdown(text, SimpleNamespace(file=files[0]), None, files)
    assert shown == "numbers (`experiments/a/expected.csv`) [other](b.md) [here](a.md#x)"


def test_text_moves_with_its_links_and_headings_and_leaves_code_alone():
    text = "# A\n[a](b.md#c) ![p](../x/q.png) [w](#here)\n```\n# [a](b.md)\n```"
    moved = "# A\n[a](../e/n/b.md#c) ![p](../e/x/q.png) [w](#here)\n```\n# [a](b.md)\n```"
    assert links.rebased(text, "e/n", "docs") == moved
    assert links.below(text).startswith("## A\n") and links.below(text).endswith("```\n# [a](b.md)\n```")


def test_the_picture_of_the_folders_shows_the_layers_that_are_checked():
    layers = (ROOT / ".importlinter").read_text().partition("layers =\n")[2].split("\n")
    wanted = [sorted(word.strip() for word in line.split("|")) for line in layers if line.startswith("    ")]
    boxes = re.findall(r'<rect x="[^"]*" y="(\d+)"[^>]*/>\n<text [^>]*>([\w.]+)<', (ROOT / "docs/images/rooms.svg").read_text())
    drawn = [sorted(name.removesuffix(".py") for y, name in boxes if y == level) for level in dict(boxes)]
    assert drawn == wanted


# Without --quiet, which would hide warnings from --strict, too.
@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_the_network(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 100
    assert [path.name for path in pages if REMOTE.search(path.read_text())] == []
