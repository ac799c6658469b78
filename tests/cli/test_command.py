"""The command `tokenprune` and its sub-commands."""

import importlib
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tokenprune import __version__
from tokenprune.cli import COMMANDS, USAGE, main

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_arguments(monkeypatch):
    """The command sets the arguments of its sub-command; they are restored behind each test."""
    monkeypatch.setattr(sys, "argv", ["tokenprune"])


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert [name for name in COMMANDS if name not in printed] == []


def test_no_command_is_a_usage_error(capsys):
    assert main([]) == USAGE
    assert "usage: tokenprune COMMAND" in capsys.readouterr().out


def test_unknown_command_says_what_was_meant_and_what_exists(capsys):
    assert main(["validat"]) == USAGE
    error = capsys.readouterr().err
    assert "unknown command 'validat'. Did you mean 'validate'?" in error and "install-detectron2" in error


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_main(name):
    assert callable(importlib.import_module(COMMANDS[name][0]).main)


@pytest.mark.parametrize("command", ["export", "bench", "docs", "report", "install-detectron2"])
def test_arguments_go_to_the_sub_command(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: tokenprune {command} " in capsys.readouterr().out


def test_list_prints_plugins(capsys):
    assert main(["list"]) == 0
    assert "selectors" in capsys.readouterr().out


@pytest.mark.parametrize("module", [name.replace("-", "_") for name in COMMANDS if name not in ("run", "zoo")])
def test_each_is_a_module_of_the_package_too(module, monkeypatch, capsys):
    """The README of earlier versions names `python -m tokenprune.NAME`; `runpy` is what `-m` calls."""
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    code = 0
    try:
        runpy.run_module(f"tokenprune.{module}", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    assert code in (0, None) and capsys.readouterr().out


@pytest.mark.system
def test_a_module_starts_in_a_process_of_its_own():
    ended = subprocess.run([sys.executable, "-m", "tokenprune.list", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
