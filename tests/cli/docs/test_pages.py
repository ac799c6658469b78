"""The docs: generated pages are fresh and complete, worked examples run, links lead somewhere, every selector has its equation."""

import re
import shlex
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tests.helpers.fakes import cli, own_registry  # noqa: F401
from tokenprune import registry
from tokenprune.cli import main as command_line
from tokenprune.cli.docs import __main__ as docs
from tokenprune.cli.docs import experiments, methods
from tokenprune.runs import nodes, plugin_options
from tokenprune.runs.presets import files

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[3]
BESIDE = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs/api").glob("*.md"), *BESIDE])
GUIDES = sorted(path.stem for path in (ROOT / "docs").glob("*.md") if re.search(r"^```(python|bash|yaml)$", path.read_text(), re.M))
FENCE = re.compile(r"^```(python|bash|yaml)\n(.*?)^```$", re.M | re.S)
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


@pytest.fixture
def fresh_choices():
    """Plugins of a page are choices of the command line for one test; Hydra's view of the registry is read once a process."""
    cached = (nodes.nodes, plugin_options.defaults)
    yield lambda: [function.cache_clear() for function in cached]
    [function.cache_clear() for function in cached]


def test_guides_are_those_that_a_user_needs():
    methods_of_ones_own = {"add_a_selector", "add_a_treatment", "add_a_schedule", "add_a_loss"}
    assert methods_of_ones_own | {"add_a_data_set", "add_a_task", "make_a_table", "read_results"} <= set(GUIDES)


@pytest.mark.parametrize("name", GUIDES)
def test_code_and_commands_of_a_page_run_as_they_stand(name, own_registry, fresh_choices, cli, monkeypatch):  # noqa: F811
    scope = {"__name__": f"docs_{name}"}
    for language, text in FENCE.findall((ROOT / "docs" / f"{name}.md").read_text()):
        if language == "python":
            exec(compile(text, f"docs/{name}.md", "exec"), scope)
        elif language == "yaml":
            path = Path(text.partition("\n")[0].removeprefix("# "))
            path.parent.mkdir(parents=True)
            path.write_text(text)
        else:
            fresh_choices()
            for line in text.splitlines():
                command, *arguments = shlex.split(line, comments=True)
                assert command == "tokenprune" and run(arguments, cli, monkeypatch) == 0, line


def run(arguments, cli, monkeypatch) -> int:  # noqa: F811
    """Return the exit status of a command of `tokenprune`, run in this process."""
    if arguments[0] == "run":
        return cli(*arguments[1:])[0]
    monkeypatch.setattr(sys, "argv", ["tokenprune"])
    try:
        return command_line(arguments)
    except SystemExit as stop:
        return stop.code or 0


def test_the_package_of_a_page_is_installed_and_names_its_module(tmp_path):
    page = (ROOT / "docs" / "add_a_selector.md").read_text()
    (project,), code = re.findall(r"^```toml\n(.*?)^```$", page, re.M | re.S), FENCE.findall(page)[0][1]
    source, target = tmp_path / "source", tmp_path / "site"
    (source / "my_selectors").mkdir(parents=True)
    (source / "pyproject.toml").write_text(project)
    (source / "my_selectors" / "__init__.py").write_text(code)
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(target)]
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", *options, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (installed,) = distributions(path=[str(target)])
    assert [(point.group, point.value) for point in installed.entry_points] == [(registry.ENTRY_POINT_GROUP, "my_selectors")]
    assert (target / "my_selectors" / "__init__.py").read_text() == code


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
