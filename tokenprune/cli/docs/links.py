"""Parts of Markdown pages: cells, and links, which are read, moved with their text to another folder, and turned into what a site shows."""

import posixpath
import re
from collections.abc import Callable

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.M | re.S)
_PICTURES = (".png", ".svg", ".jpg")


def each_link(text: str, change: Callable[[str, str, str], str]) -> str:
    """Return Markdown text with each relative link replaced.

    Args:
        text: the Markdown; fenced code stays as it is, as do links to the web and within the page.
        change: change(mark, label, target) returns what stands in place of the link; `mark` is "!" for a picture.
    """

    def changed(found: re.Match[str]) -> str:
        mark, label, target = found.groups()
        return found.group() if re.match(r"[a-z]+:|#", target) else change(mark, label, target)

    return "".join(part if part.startswith("```") else _LINK.sub(changed, part) for part in _FENCE.split(text))


def cell(text: str) -> str:
    """Return text for a cell of a table, in which a bar would end it."""
    return text.replace("|", "\\|")


def rebased(text: str, old: str, new: str) -> str:
    """Return text whose relative links, which were written for a page in folder `old`, lead to the same files from folder `new`."""

    def moved(mark: str, label: str, target: str) -> str:
        path, sharp, anchor = target.partition("#")
        there = posixpath.relpath(posixpath.join(old, path), new)
        return f"{mark}[{label}]({there}{sharp}{anchor})"

    return each_link(text, moved)


def below(text: str) -> str:
    """Return text with every heading one level lower."""
    return "".join(part if part.startswith("```") else re.sub(r"^(#+ )", r"#\1", part, flags=re.M) for part in _FENCE.split(text))


def within(text: str, folder: str, page_of: Callable[[str], str | None]) -> str:
    """Return text for a page of the site: links to files of the repository that the site lacks become plain text.

    Args:
        text: Markdown of a page in `folder`.
        folder: the page's folder as seen from the checkout, e.g. docs/methods.
        page_of: returns the path under docs/ at which the site has a file of the repository, None if it has not.
    """

    def shown(mark: str, label: str, target: str) -> str:
        path, sharp, anchor = target.partition("#")
        there = posixpath.normpath(posixpath.join(folder, path))
        page = page_of(there)
        if page is not None:
            anchor = sharp + anchor if there == f"docs/{page}" else ""
            return f"{mark}[{label}]({posixpath.relpath(f'docs/{page}', folder)}{anchor})"
        said = label.strip("`/")
        return label if there == said or there.endswith(f"/{said}") else f"{label} (`{there}`)"

    return each_link(text, shown)


def is_picture(path: str) -> bool:
    """Tell whether a file is shown and not read."""
    return path.endswith(_PICTURES)
