"""The code of docs/hugging_face.md works as it stands."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "hugging_face.md"


def test_the_code_of_the_page_works():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'tokenprune[hf]'")
    if not transformers.is_torch_available():
        pytest.skip("transformers takes no torch as old as this one")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 2
    exec(compile("\n".join(blocks), str(PAGE), "exec"), {"__name__": "example"})
