"""What is installed, from where, and that set-up never replaces a torch that is already there."""

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from tokenprune.runs.presets import files

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[1]
TARGETS = [
    *("help", "setup", "demo", "validate", "table2", "weights", "smoke", "test", "testall"),
    *("coverage", "lint", "layers", "types", "docs", "clean"),
]  # fmt: skip
FAKE_PYTHON = """#!/bin/sh
echo "$@" >> "{log}"
case "$*" in *"pip --disable-pip-version-check list"*) echo numpy==2.0.0; echo torch==2.11.0+cu130; echo torchvision==0.26.0;; esac
"""


@pytest.fixture(scope="module")
def cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def requirements(text: str) -> dict[str, Requirement]:
    parsed = [Requirement(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {requirement.name: requirement for requirement in parsed}


def make(*arguments: str, **env: str) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if k not in {"VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    return subprocess.run(["make", "--no-print-directory", *arguments], cwd=ROOT, env=clean | env, capture_output=True, text=True)


def test_listed_packages_are_exactly_the_folders(cfg):
    places = [p.parent for top in ("tokenprune", "hydra_plugins") for p in ROOT.glob(f"{top}/**/__init__.py")]
    folders = {".".join(p.relative_to(ROOT).parts) for p in places}
    assert set(cfg["options"]["packages"].split()) == folders | {
        "tokenprune.conf",
        "tokenprune.experiments",
    }  # a new folder is listed in setup.cfg


def test_every_folder_of_modules_is_a_package():
    folders = {p.parent for p in ROOT.glob("tokenprune/**/*.py")}
    assert [str(f) for f in folders if not (f / "__init__.py").exists()] == []


def test_torch_has_a_floor_an_exclusion_and_no_upper_bound(cfg):
    torch = requirements(cfg["options"]["install_requires"])["torch"].specifier
    assert {s.operator for s in torch} == {">=", "!="}
    assert "2.13.0+cpu" not in torch and "2.13.0" not in torch
    assert "2.4.0" in torch and "99.0" in torch


def test_extras_and_requirements(cfg):
    extras = cfg["options.extras_require"]
    assert set(extras) == {"detection", "export", "hf", "figures", "notebooks", "page", "sweeps", "tracking", "docs", "dev"}
    names = {name for text in [cfg["options"]["install_requires"], *extras.values()] for name in requirements(text)}
    assert "detectron2" not in names  # not on the index: the resolver would fail
    assert {"timm", "hydra-core", "safetensors", "shapely", "mkdocs-material", "pytest"} <= names


def test_repacked_detectron2_requires_nothing_that_set_up_leaves_out(cfg):
    from tokenprune.cli.install_detectron2.repack import REQUIRES

    ours = requirements(cfg["options"]["install_requires"]) | requirements(cfg["options.extras_require"]["detection"])
    assert [line for line in REQUIRES if Requirement(line).name not in ours] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel from a copy, so that the checkout stays clean."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for name in ("tokenprune", "conf", "experiments", "hydra_plugins"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source)
    (source / "tokenprune" / "weights").mkdir(exist_ok=True)
    (source / "tokenprune" / "weights" / "probe.safetensors").touch()
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(out.glob("tokenprune-*.whl"))


def test_version_stands_in_one_place(cfg, wheel):
    assert cfg["metadata"]["version"] == "attr: tokenprune.__version__"
    tree = ast.parse((ROOT / "tokenprune" / "__init__.py").read_text())
    values = [n.value for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__version__"]
    (version,) = [ast.literal_eval(v) for v in values]  # a plain text: setuptools reads it without importing torch
    assert wheel.name.startswith(f"tokenprune-{version}-")
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_wheel_holds_every_module_and_config_and_the_weights(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(p.relative_to(ROOT)) for folder in ("tokenprune", "hydra_plugins") for p in ROOT.glob(f"{folder}/**/*.py")}
    configs = {f"tokenprune/{p.relative_to(ROOT)}" for p in ROOT.glob("conf/**/*.yaml")}
    numbers = {f"tokenprune/{p.relative_to(ROOT)}" for p in ROOT.glob("experiments/*/expected.csv")}
    templates = {str(path.relative_to(ROOT)) for path in ROOT.glob("tokenprune/report/templates/*")}
    assert {Path(name).name for name in templates} == {
        *("compare.js", "controls.css", "demo.html", "explore.css", "explore.html", "explore.js", "report.css", "report.html"),
        *("show.css", "show.html", "show.js", "tables.js"),
    }
    assert "tokenprune/conf/config.yaml" in configs
    assert (
        sorted((modules | configs | numbers | templates | {"tokenprune/conf/__init__.py", "tokenprune/weights/probe.safetensors"}) - names)
        == []
    )
    assert "tokenprune/experiments/table2_preserve/expected.csv" in numbers
    assert not any(name.startswith(("tests", "conf/", "experiments/")) or "/measured/" in name for name in names)


def test_configs_and_the_papers_numbers_are_found_in_an_unpacked_wheel(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "from tokenprune.utils.paths import *; print(config_dir(), expected_of('table2_preserve'))"
    package, env = tmp_path / "tokenprune", os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout == f"{package / 'conf'} {package / 'experiments' / 'table2_preserve' / 'expected.csv'}\n", done.stderr


def test_make_lists_every_target():
    assert re.findall(r"^  make (\w+) +\S", make().stdout, re.MULTILINE) == TARGETS


@pytest.fixture
def env_with_torch(tmp_path) -> Path:
    """Give an environment whose python only logs its arguments and reports an installed torch."""
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(FAKE_PYTHON.format(log=tmp_path / "log"))
    python.chmod(0o755)
    return tmp_path / "env"


@pytest.mark.parametrize("how", ["VENV", "VIRTUAL_ENV"])
def test_set_up_holds_an_installed_torch_in_place_and_runs_once(env_with_torch, how):
    done = make("setup", f"VENV={env_with_torch}") if how == "VENV" else make("setup", VIRTUAL_ENV=str(env_with_torch))
    assert done.returncode == 0, done.stderr
    log = (env_with_torch.parent / "log").read_text()
    constraints = env_with_torch / "torch-constraints.txt"
    assert constraints.read_text() == "torch==2.11.0+cu130\ntorchvision==0.26.0\n"
    assert f"install -q -c {constraints} -e .[detection,export,figures,hf,notebooks,page,sweeps,tracking,docs,dev]" in log
    assert log.rstrip().endswith("-m tokenprune.install_detectron2")
    make("setup", f"VENV={env_with_torch}")
    assert (env_with_torch.parent / "log").read_text() == log


@pytest.mark.parametrize(
    "target, command",
    [
        ("table2", "-m tokenprune.run +experiment=table2_preserve launcher=joblib hydra.launcher.n_jobs=2 scale=demo"),
        ("validate", "-m tokenprune.validate scale=demo"),
        ("smoke", "-m tokenprune.smoke scale=demo"),
        (
            "weights",
            "\n".join(
                f"-m tokenprune.run +experiment=demo_{name} scale=demo"
                for name in ("weights", "classifier", "adapter", "elastic", "classifiers", "segmenter")
            ),
        ),
        ("test", "-m pytest -q -n 2 --dist loadfile -m not slow and not system scale=demo"),
        ("testall", "-m pytest -q -n 2 --dist loadfile scale=demo"),
        (
            "coverage",
            "-m pytest -q -n 2 --dist loadfile --cov=tokenprune/engine --cov=tokenprune/methods --cov-report=term --cov-fail-under=90"
            " --ignore=tests/engine/test_export.py tests/engine tests/methods tests/measure scale=demo",
        ),
        ("lint", "-m ruff check . scale=demo\n-m ruff format --check -q ."),
        ("docs", "-m tokenprune.docs scale=demo\n-m mkdocs build --strict"),
    ],
)
def test_each_target_sets_up_first_and_passes_arguments_on(env_with_torch, target, command):
    assert make(target, f"VENV={env_with_torch}", "ARGS=scale=demo").returncode == 0
    lines = (env_with_torch.parent / "log").read_text().splitlines()
    expected = ["-m tokenprune.install_detectron2", *command.split("\n")]
    assert lines[-len(expected) :] == expected


@pytest.fixture(scope="module")
def jobs() -> list[dict[str, str]]:
    """Return the cells of the workflow's matrix, expanded as GitHub does: later entries of `include` win."""
    matrix = yaml.safe_load((ROOT / ".github/workflows/checks.yml").read_text())["jobs"]["checks"]["strategy"]["matrix"]
    cells = [{"python": python, "versions": versions} for python in matrix["python"] for versions in matrix["versions"]]
    for cell in cells:
        own = dict(cell)
        for extra in matrix["include"]:
            if all(own[key] == extra[key] for key in own.keys() & extra.keys()):
                cell.update(extra)
    return cells


def test_the_workflow_runs_the_oldest_and_the_newest_versions_that_are_allowed(cfg, jobs):
    allowed = requirements(cfg["options"]["install_requires"])
    assert {cell["python"] for cell in jobs} == {"3.10", "3.11", "3.12", "3.13"} and len(jobs) == 8
    for cell in jobs:
        pins = requirements(cell["pins"].replace(" ", "\n"))
        assert set(pins) == {"torch", "torchvision", "timm"}
        if cell["versions"] == "newest":
            assert "2.13.0" not in pins["torch"].specifier and not any(s.operator == "==" for p in pins.values() for s in p.specifier)
            continue
        versions = {name: str(pin.specifier).removeprefix("==") for name, pin in pins.items()}
        assert all(version in allowed[name].specifier for name, version in versions.items())
        floors = {name: next(s.version for s in allowed[name].specifier if s.operator == ">=") for name in versions}
        new = {"torch", "torchvision"} if cell["python"] == "3.13" else set()  # the floors have no files for Python 3.13
        assert [n for n in versions if Version(versions[n]) != Version(floors[n]) and n not in new] == []


def test_the_workflow_and_the_hooks_run_what_is_there():
    assert "run: .ci/run" in (ROOT / ".github/workflows/checks.yml").read_text()
    (hooks,) = [repo["hooks"] for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]]
    assert {hook["language"] for hook in hooks} == {"system"}  # nothing is downloaded
    assert [hook["id"] for hook in hooks] == ["ruff-check", "ruff-format", "layers"]


def test_continuous_integration_checks_rows_and_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    *_, validate, last = script.read_text().splitlines()
    assert "set -euo pipefail" in script.read_text() and last == "make testall"
    names = set(re.fullmatch(r'make validate ARGS="(.*)"', validate).group(1).split())
    assert len(names) == 4 and names <= {path.stem for path in files("experiment")}
