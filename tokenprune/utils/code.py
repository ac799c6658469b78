"""Tells the code that a plugin runs by short digests, so that a row of edited code is another row."""

import ast
import hashlib
import inspect
import sys
import textwrap
import uuid
from functools import lru_cache
from pathlib import Path

_OWN, _TASKS = "tokenprune", "tokenprune.tasks."
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_PROCESS = uuid.uuid4().hex


@lru_cache(maxsize=256)  # of the class as it was loaded: a file that is edited while a sweep runs does not change what runs
def code_digest(plugin: type) -> str:
    """Return 16 hexadecimal digits of the code that belongs to a plugin; comments, docstrings and layout do not count.

    For a method of this project that is its module, for a task its folder, and for a plugin of others their whole package. For a plugin
    in a single file it is that file and the modules beside it that it imports. Code that cannot be read, such as a class typed into an
    interpreter, has another digest in every process: its rows are never read from disk.
    """
    files = _files(plugin.__module__)
    if files:
        return _short(*(_code(path) for path in files))
    try:
        return _short(_plain(inspect.getsource(plugin)))
    except (OSError, TypeError, SyntaxError):
        return _PROCESS[:16]


def _files(module: str) -> list[Path]:
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not Path(file).is_file():
        return []
    top = module.partition(".")[0]
    if top == _OWN:
        own = Path(file).parent.rglob("*.py") if module.startswith(_TASKS) and module.count(".") > 2 else [Path(file)]
    else:
        roots = [Path(root) for root in getattr(sys.modules.get(top), "__path__", ())]
        own = [path for root in roots for path in root.rglob("*.py")] or _with_neighbours(Path(file))
    return sorted(own)


def _with_neighbours(file: Path) -> list[Path]:
    """Return a file and the modules in its folder that it imports, those that these import included; packages there do not count."""
    found, left = {file}, [file]
    while left:
        beside = {path for name in _imported(left.pop()) if (path := file.with_name(f"{name}.py")).is_file()}
        left += beside - found
        found |= beside
    return list(found)


def _imported(file: Path) -> set[str]:
    """Return the top-level names of the modules that a file imports, wherever in it."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):  # compiled, or no Python
        return set()
    named = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    named += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.partition(".")[0] for name in named}


def _code(path: Path) -> str:
    content = path.read_bytes()
    try:
        return _plain(content.decode())
    except (SyntaxError, ValueError):  # compiled, or no Python
        return hashlib.sha256(content).hexdigest()


def _plain(source: str) -> str:
    """Return Python code in one layout, without comments and docstrings."""
    tree = ast.parse(textwrap.dedent(source))
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


def _short(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode(errors="surrogateescape")).hexdigest()[:16]
