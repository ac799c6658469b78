"""Digests of the code of plugins."""

import importlib
import subprocess
import sys

import pytest

from tokenprune.registry import get
from tokenprune.utils.code import code_digest

FIRST = 'class Score:\n    """Keep long tokens."""\n\n    def of(self, x):\n        return x\n'
REWORDED = '# of a token\nclass Score:\n    """Keep the longest tokens."""\n    def of(self, x): return x  # its norm\n'
CHANGED = FIRST.replace("return x", "return -x")


@pytest.fixture
def score(tmp_path, monkeypatch):
    """Write a module or package of files and return its class `Score`, or that of the submodule that is named."""
    monkeypatch.syspath_prepend(tmp_path)

    def load(files, module):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        importlib.invalidate_caches()
        return importlib.import_module(module).Score

    return load


def test_words_and_layout_do_not_count_and_code_does(score):
    first, reworded, changed = (
        code_digest(score({f"edited_{n}.py": text}, f"edited_{n}")) for n, text in enumerate((FIRST, REWORDED, CHANGED))
    )
    assert first == reworded != changed and len(first) == 16


def test_the_whole_package_of_others_counts(score):
    """A score is often computed in a module beside the plugin."""
    found = []
    for n, helper in enumerate(("WEIGHT = 1\n", "WEIGHT = 2\n")):
        files = {f"package_{n}/__init__.py": "", f"package_{n}/parts/helper.py": helper, f"package_{n}/plugin.py": FIRST}
        found.append(code_digest(score(files, f"package_{n}.plugin")))
    assert found[0] != found[1]


def test_modules_beside_a_single_file_count_where_it_imports_them(score):
    """The plugin imports `near`, which imports `far`; nothing imports `other`, and a package beside it is not the plugin's."""
    digests = {}
    for n, edited in enumerate(("nothing", "near", "far", "other", "package")):
        value = {name: 2 if name == edited else 1 for name in ("near", "far", "other", "package")}
        files = {
            f"single_{n}.py": "def late():\n    import package\n    import near as _near\n\n\n" + FIRST,
            "near.py": f"from far import WEIGHT\nFACTOR = {value['near']}\n",
            "far.py": f"import near\nWEIGHT = {value['far']}\n",
            "other.py": f"WEIGHT = {value['other']}\n",
            "package/__init__.py": f"WEIGHT = {value['package']}\n",
        }
        digests[edited] = code_digest(score(files, f"single_{n}"))
    assert len({digests[name] for name in ("nothing", "near", "far")}) == 3
    assert digests["other"] == digests["package"] == digests["nothing"]


def test_an_edit_after_the_import_does_not_change_what_runs(score, tmp_path):
    loaded = score({"early.py": FIRST}, "early")
    before = code_digest(loaded)
    (tmp_path / "early.py").write_text(CHANGED)
    assert code_digest(loaded) == before
    assert code_digest(importlib.reload(sys.modules["early"]).Score) != before


def test_a_file_that_is_no_text_counts_by_its_bytes(score, tmp_path):
    first = code_digest(score({"odd.py": FIRST}, "odd"))
    (tmp_path / "odd.py").write_bytes(b"\x00\xff")
    sys.modules["odd"].Score = type("Score", (), {"__module__": "odd"})
    assert code_digest(sys.modules["odd"].Score) != first


@pytest.mark.system
def test_code_that_cannot_be_read_is_never_the_same_code():
    """A class of an interpreter: its rows are made again in the next process."""
    code = "from tokenprune.utils.code import code_digest\nprint(code_digest(type('Score', (), {})))"
    found = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(found) == 2


def test_a_method_counts_alone_and_a_task_with_its_folder():
    assert code_digest(get("selector", "evit")) != code_digest(get("selector", "ats"))
    assert code_digest(get("task", "detection")) == code_digest(type("Other", (), {"__module__": get("task", "detection").__module__}))
