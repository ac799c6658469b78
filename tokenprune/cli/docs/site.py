"""Hooks that mkdocs.yml names: one page a plugin and one an experiment, made when the site is built, and links that the site can follow."""

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from tokenprune import registry
from tokenprune.cli.docs import experiments, methods
from tokenprune.cli.docs.links import is_picture, rebased, within

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_FOLDED = {f"{name}.md": f"{name.lower()}.md" for name in ("CONTRIBUTING", "SECURITY", "CHANGELOG")}  # pages that stand beside docs/


def made(root: Path) -> dict[str, str]:
    """Return the pages that are made for the site, by their paths under docs/."""
    beside = {page: rebased((root / name).read_text(encoding="utf-8"), ".", "docs") for name, page in _FOLDED.items()}
    bench = root / "experiments/benchmarks/README.md"
    beside["experiments/benchmarks.md"] = rebased(bench.read_text(encoding="utf-8"), "experiments/benchmarks", "docs/experiments")
    return methods.pages(root) | experiments.pages(root) | beside


def pictures(root: Path) -> dict[str, Path]:
    """Return the measured pictures by their paths under docs/."""
    return {path.relative_to(root).as_posix(): path for path in (root / "experiments").rglob("*.png")}


def on_config(config: "MkDocsConfig") -> "MkDocsConfig":
    """Put the made pages into the navigation, behind the lists `methods.md` and `experiments.md`."""
    kinds = [
        {methods.plural(kind): [{n: methods.place(kind, n)} for n in methods.own(kind)]} for kind in registry.BUILTIN if methods.own(kind)
    ]
    single = [{e.name: experiments.place(e.name)} for e in experiments.all_of()]
    inside = {"methods.md": kinds, "experiments.md": [*single, {"benchmarks": "experiments/benchmarks.md"}]}
    config.nav = [_with(entry, inside) for entry in config.nav or []]
    return config


def _with(entry: Any, inside: dict[str, list[Any]]) -> Any:
    """Return a navigation entry; one that names a list becomes a section with the list first."""
    if isinstance(entry, dict):
        ((title, page),) = entry.items()
        if isinstance(page, list):
            return {title: [_with(e, inside) for e in page]}
        return {title: [page, *inside[page]]} if page in inside else entry
    return entry


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the made pages and the measured pictures; `methods.md` and `experiments.md` of the repository give way to lists."""
    from mkdocs.structure.files import File

    root = Path(config.docs_dir).parent
    for path, text in made(root).items():
        old = files.get_file_from_path(path)
        if old is not None:
            files.remove(old)
        files.append(File.generated(config, path, content=text))
    for path, source in pictures(root).items():
        files.append(File.generated(config, path, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Lead links to repository files to the pages that the site has of them; a file of the page's own folder is named, not linked."""
    known = {file.src_uri for file in files}
    folder = str(PurePosixPath("docs") / PurePosixPath(page.file.src_uri).parent)

    def elsewhere(path: str) -> str | None:
        found = page_of(path, known)
        return None if found == page.file.src_uri and not path.startswith("docs/") else found

    return within(markdown, folder, elsewhere)


def page_of(path: str, known: set[str]) -> str | None:
    """Return the path under docs/ at which the site has a file or folder of the repository; None if it has not.

    Args:
        path: as seen from the checkout.
        known: paths under docs/ of all pages and pictures.
    """
    parts = PurePosixPath(path).parts
    if path in _FOLDED:
        return _FOLDED[path]
    if parts[:1] == ("docs",):
        inside = "/".join(parts[1:])
        return inside if inside in known else None
    if parts[:1] == ("experiments",) and len(parts) > 1:
        page = experiments.place(parts[1])
        return path if is_picture(path) and path in known else page if page in known else None
    return None
