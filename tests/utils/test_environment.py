"""Provenance: code that is in no commit makes a row dirty, be it changed or new, of the package or of a plugin."""

import subprocess
from pathlib import Path

import pytest

from tokenprune.utils import environment as module
from tokenprune.utils.environment import environment


def repository(folder: Path, *files: str) -> Path:
    """Make a git repository with these files, all committed."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x = 1\n")
    about = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "-A"], [*about, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A checkout of this project, made up, as `environment` sees it."""
    monkeypatch.setattr(module, "_ROOT", repository(tmp_path / "own", "tokenprune/a.py", "conf/method/a.yaml", "README.md"))
    return tmp_path / "own"


@pytest.fixture
def plugin(tmp_path) -> Path:
    return repository(tmp_path / "theirs", "mine/__init__.py", "mine/selector.py") / "mine" / "selector.py"


def test_a_clean_checkout_and_a_clean_plugin(checkout, plugin):
    found = environment([plugin])
    assert found["dirty"] is False and len(found["commit"]) == 40


@pytest.mark.parametrize(
    "name, dirty",
    [
        ("tokenprune/new.py", True),
        ("conf/method/new.yaml", True),
        ("hydra_plugins/x/new.py", True),
        ("notes.txt", False),
        ("x/own.py", False),
    ]
    + [("tokenprune/note.txt", False), ("x/own.py", False)],
)
def test_new_code_of_the_package_counts(checkout, name, dirty):
    (checkout / name).parent.mkdir(parents=True, exist_ok=True)
    (checkout / name).write_text("")
    assert environment()["dirty"] is dirty


def test_changed_code_counts(checkout):
    (checkout / "README.md").write_text("changed")
    assert environment()["dirty"] is True


@pytest.mark.parametrize("change", ["mine/new.py", "helpers.py", "mine/selector.py"])
def test_new_and_changed_code_of_a_plugins_repository_counts(checkout, plugin, change):
    (plugin.parents[1] / change).write_text("x = 2\n")
    assert environment([plugin])["dirty"] is True and environment()["dirty"] is False


def test_a_plugin_outside_any_repository_counts_unless_it_is_installed(checkout, tmp_path):
    for folder, dirty in (("loose", True), ("lib/site-packages", False)):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "selector.py").write_text("")
        assert environment([tmp_path / folder / "selector.py"])["dirty"] is dirty


def test_a_plugin_that_git_ignores_counts(checkout, plugin):
    (plugin.parents[1] / ".gitignore").write_text("ignored.py\n.gitignore\n")
    (plugin.parent / "ignored.py").write_text("")
    assert environment([plugin.parent / "ignored.py"])["dirty"] is True


def test_a_row_counts_the_files_of_plugins_of_others_alone():
    from tests.helpers.fakes import FakeTask
    from tokenprune import registry
    from tokenprune.runs.config import compose, resolve
    from tokenprune.runs.row import _files_of_others

    config = resolve(compose(["scale=smoke", "method=evit"]))
    assert _files_of_others(config) == []
    registry.names("task")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._plugins["task"], "fake", FakeTask)
        (file,) = _files_of_others(config.replace(task={"name": "fake"}))
    assert file.name == "fakes.py"
