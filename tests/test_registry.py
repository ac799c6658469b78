"""Registration, look-up, plugins of other packages."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from omegaconf import MISSING

from tests.helpers.fakes import cli, own_registry  # noqa: F401
from tokenprune import registry
from tokenprune.engine.selector import Selector
from tokenprune.errors import InvalidConfig, TokenPruneError, UnknownPlugin
from tokenprune.runs.plugin_options import defaults
from tokenprune.utils.settings import misfits


def test_what_ships():
    trained = {"a_vit", "adavit", "cropr", "dtop", "dynamicvit", "ia_red2", "patch_merger", "sinkhorn", "sit", "spvit", "svit"}
    ready = {"ats", "attn_topk", "dpc_knn", "evit", "evo_vit", "kmedoids", "radial", "random", "tome", "topk", "variance"}
    ready |= {"algm", "atc", "diffrate", "frequency", "mctf", "pitome", "ppt", "representation_shift", "tofu"}
    assert set(registry.names("selector")) == trained | ready
    assert {name for name in registry.names("selector") if registry.get("selector", name).learns} == trained
    fixed = {"fuse", "last_layer_fusion", "merge", "mlerp", "none", "preserve", "reactivate", "remove"}
    learned = {"cross_attention", "cross_attention_concat", "mhsa_concat"}
    assert set(registry.names("treatment")) == fixed | learned
    assert {name for name in registry.names("treatment") if registry.get("treatment", name).learns} == learned
    assert set(registry.names("task")) == {"classification", "detection", "segmentation", "timm", "zero_shot"}


@pytest.mark.parametrize("kind", ["selector", "treatment", "schedule", "fusion", "loss"])
def test_whatever_stands_in_a_folder_of_methods_is_loaded(kind):
    registry.names(kind)
    (package,) = registry.BUILTIN[kind]
    folder = Path(sys.modules[package].__file__).parent
    files = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
    assert files and all(f"{package}.{name}" in sys.modules for name in files)


def test_a_plugin_without_a_file_is_a_choice_and_a_method(own_registry):  # noqa: F811
    from tokenprune.methods.selectors.radial import RadialPattern
    from tokenprune.runs.config import compose, resolve
    from tokenprune.runs.nodes import nodes

    registry.register("selector", "value_norm")(type("ValueNorm", (RadialPattern,), {}))
    nodes.cache_clear()
    try:
        for words in (["method=value_norm"], ["selector=value_norm"]):
            assert resolve(compose(["scale=smoke", *words])).selector_name == "value_norm"
    finally:
        nodes.cache_clear()


@pytest.mark.parametrize("kind", registry.BUILTIN)
def test_every_plugin_declares_itself(kind):
    for name in registry.names(kind):
        facts = registry.facts(kind, name)
        assert facts["name"] == name and len(facts["summary"]) > 10


@pytest.mark.parametrize("name", registry.names("selector"))
def test_selector_facts_are_of_the_declared_values(name):
    facts = registry.facts("selector", name)
    assert facts["site"] in ("before", "ahead", "rows", "inside") and facts["budget"] in ("fixed", "dynamic")
    assert facts["visibility"] in ("hard", "soft") and facts["paper"] and facts["module"]


def test_a_name_is_taken_once(own_registry):  # noqa: F811
    @registry.register("selector", "mine")
    class Mine(Selector):
        """Keeps what I like."""

    assert registry.get("selector", "mine") is Mine
    with pytest.raises(InvalidConfig, match="already registered"):
        registry.register("selector", "mine")(type("Other", (Selector,), {}))
    with pytest.raises(InvalidConfig, match="no plugin kind"):
        registry.register("colour", "red")


def test_unknown_names_and_kinds():
    with pytest.raises(UnknownPlugin, match="Available: a_vit, adavit, algm, atc, ats"):
        registry.get("selector", "zzz")
    with pytest.raises(UnknownPlugin, match="no plugin kind"):
        registry.names("colour")


def test_entry_points_add_plugins_and_a_broken_one_only_warns(own_registry, monkeypatch, capsys, tmp_path):  # noqa: F811
    (tmp_path / "good_plugin.py").write_text(
        "from tokenprune import register\nfrom tokenprune.engine.selector import Selector\n"
        "@register('selector', 'good')\nclass Good(Selector):\n    '''From outside.'''\n"
    )
    (tmp_path / "bad_plugin.py").write_text("raise RuntimeError('broken on purpose')\n")
    monkeypatch.syspath_prepend(tmp_path)
    points = [EntryPoint(n, f"{n}_plugin", registry.ENTRY_POINT_GROUP) for n in ("bad", "good")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == registry.ENTRY_POINT_GROUP else [])
    registry._loaded.discard("entry points")
    assert "good" in registry.names("selector")
    warning = capsys.readouterr().err
    assert "bad_plugin" in warning and "broken on purpose" in warning


@pytest.mark.system
def test_import_stays_light():
    code = (
        "import sys, tokenprune, tokenprune.engine.legality; tokenprune.list_plugins('selector'); tokenprune.list_plugins('task');"
        "tokenprune.list_plugins('report');"
        "heavy = {'detectron2', 'pandas', 'matplotlib', 'pycocotools', 'hydra'} & set(sys.modules); sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Plugin:
    """Takes an option of each plain kind."""

    name = "plain"

    def __init__(
        self,
        count: int = 1,
        share: float = 0.5,
        on: bool = False,
        word: "str | None" = None,
        blocks: tuple[int, ...] = (),
    ) -> None:
        self.count = range(0, 9, count)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("count", "two", "an integer"), ("count", 2.5, "an integer"), ("count", True, "an integer"), ("share", "high", "a number"),
        ("share", None, "a number"), ("on", 1, "true or false"), ("word", 3, "a text or null"), ("blocks", 3, "a list of integers"),
        ("blocks", [1, "x"], "a list of integers"), ("blocks", "12", "a list of integers"),
    ],
)  # fmt: skip
def test_options_of_another_type_are_refused(own_registry, option, value, allowed):  # noqa: F811
    registry.register("selector", "plain")(Plugin)
    with pytest.raises(InvalidConfig) as caught:
        registry.build("selector", {"name": "plain", option: value})
    assert str(caught.value) == f"selector.{option} of 'plain' is {value!r}; allowed: {allowed}"


def test_options_of_their_type_pass(own_registry):  # noqa: F811
    registry.register("selector", "plain")(Plugin)
    for given in ({"count": 2, "share": 1, "on": True, "word": "x"}, {"word": None, "blocks": [1, 2]}, {"blocks": ()}):
        registry.build("selector", {"name": "plain", **given})


@pytest.mark.parametrize("kind", registry.BUILTIN)
def test_defaults_fit_their_annotations(kind):
    for name in registry.names(kind):
        given = {k: list(v) if isinstance(v, tuple) else v for k, v in defaults(kind, name).items() if v != MISSING}
        assert misfits(registry.get(kind, name), given) == []


def test_an_option_of_another_type_is_invalid_before_anything_runs(cli):  # noqa: F811
    code, _, err = cli("selector=svit", "selector.tau=high", "task=classification", "scale=smoke", "validate_only=true")
    assert code == 2 and "selector.tau of 'svit' is 'high'; allowed: a number" in err and len(err.splitlines()) == 1


def test_an_error_of_a_constructor_is_one_line_with_its_place(own_registry):  # noqa: F811
    registry.register("selector", "plain")(Plugin)
    with pytest.raises(
        TokenPruneError, match=r"^selector 'plain' cannot be built with .*: ValueError: range.* \(.*test_registry.py:\d+\)$"
    ):
        registry.build("selector", {"name": "plain", "count": 0})
