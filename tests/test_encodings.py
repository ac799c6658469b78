"""Text files are written and read as UTF-8, whatever the language of the machine."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def without_encoding(path):
    """Yield the lines that open, read or write text without saying in which encoding."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
            continue
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if method in ("read_text", "write_text"):
            yield node.lineno
        if isinstance(node.func, ast.Name) and node.func.id == "open":
            modes = [
                a.value for a in (*node.args[1:2], *(w.value for w in node.keywords if w.arg == "mode")) if isinstance(a, ast.Constant)
            ]
            if not any("b" in mode for mode in modes):
                yield node.lineno


@pytest.mark.parametrize("folder", sorted(p.name for p in (ROOT / "tokenprune").iterdir() if p.is_dir()))
def test_every_text_file_has_an_encoding(folder):
    found = [f"{path}:{line}" for path in (ROOT / "tokenprune" / folder).rglob("*.py") for line in without_encoding(path)]
    assert not found


@pytest.mark.system
def test_a_row_is_written_and_read_where_the_language_is_c(tmp_path):
    code = (
        "from pathlib import Path; from tests.helpers.fakes import row; from tokenprune.runs.results import read_result, write_result;"
        f"path = write_result(Path({str(tmp_path)!r}), row(label='\\u00c9vit \\u2192 \\u4e2d'));"
        "assert read_result(path)['label'] == '\\u00c9vit \\u2192 \\u4e2d'"
    )
    words = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PATH": "", "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=words, check=False).returncode == 0
