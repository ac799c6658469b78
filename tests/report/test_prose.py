"""The Markdown of reports as HTML: what it knows, and that nothing of it runs."""

from tokenprune.report.page.prose import to_html


def test_blocks():
    text = "# Head\n\nSome `code_a` and **bold**\nmore.\n\nLead:\n- one\n  goes on\n- two\n\n| a | b |\n|---|---|\n| 1 | x |"
    head, para, lead, items, table = to_html(text).split("\n")
    assert head == "<h4>Head</h4>" and para == "<p>Some <code>code_<wbr>a</code> and <strong>bold</strong> more.</p>"
    assert lead == "<p>Lead:</p>" and items == "<ul><li>one goes on</li><li>two</li></ul>"
    assert "<thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td>x</td></tr></tbody>" in table


def test_everything_is_escaped():
    for text in ("<script>x</script>", "- <img src=x>", "| <b> |\n|---|\n| & |", "# <i>", "`<u>`"):
        html = to_html(text)
        assert not any(tag in html for tag in ("<script", "<img", "<b>", "<i>", "<u>")) and ("&lt;" in html or "&amp;" in html)
