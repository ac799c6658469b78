"""Turns the Markdown that reports are written in to HTML: headings, pipe tables, lists, paragraphs, code, bold. All of it is escaped."""

import re
from collections.abc import Iterator

_INLINE = ((re.compile(r"`([^`]+)`"), r"<code>\1</code>"), (re.compile(r"\*\*([^*]+)\*\*"), r"<strong>\1</strong>"))


def to_html(text: str) -> str:
    """Return the HTML of Markdown text. Unknown syntax stays as it is written."""
    return "\n".join(_block(block) for block in _blocks(text))


def _blocks(text: str) -> Iterator[list[str]]:
    """Yield the lines of each block. Blank lines, headings and the beginnings of lists and tables separate blocks."""
    block: list[str] = []
    for line in [*text.splitlines(), ""]:
        starts = not line.strip() or line.startswith("#") or (block and _kind(line) != _kind(block[-1]) and not line.startswith(" "))
        if block and (starts or block[0].startswith("#")):
            yield block
            block = []
        if line.strip():
            block.append(line)


def _kind(line: str) -> str:
    return "list" if line.startswith(("- ", " ")) else "table" if line.startswith("|") else "text"


def _block(lines: list[str]) -> str:
    first = lines[0]
    if first.startswith("#"):
        return f"<h4>{_inline(first.lstrip('#').strip())}</h4>"
    if first.startswith("|"):
        return _table(lines)
    if first.startswith("- "):
        items = re.split(r"(?:^|\n)- ", "\n".join(lines))[1:]
        return "<ul>" + "".join(f"<li>{_inline(' '.join(item.split()))}</li>" for item in items) + "</ul>"
    return f"<p>{_inline(' '.join(line.strip() for line in lines))}</p>"


def _table(lines: list[str]) -> str:
    cells = [[_inline(cell.strip()) for cell in line.strip().strip("|").split("|")] for line in lines]
    rows = [row for row in cells if not all(re.fullmatch(r":?-+:?", cell) for cell in row)]
    head, body = rows[0], rows[1:]
    lines_ = ["".join(f"<td>{cell}</td>" for cell in row) for row in body]
    titles = "".join(f"<th>{cell}</th>" for cell in head)
    return f"<div class='wide'><table><thead><tr>{titles}</tr></thead><tbody><tr>{'</tr><tr>'.join(lines_)}</tr></tbody></table></div>"


def breakable(text: str) -> str:
    """Return text as HTML whose long names may break after an underscore if there is no room for them."""
    from markupsafe import escape

    return str(escape(text)).replace("_", "_<wbr>")


def _inline(text: str) -> str:
    text = breakable(text)
    for pattern, form in _INLINE:
        text = pattern.sub(form, text)
    return text
