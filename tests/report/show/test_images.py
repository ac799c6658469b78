"""Pictures that are shown: what cannot be read is one error, and what systems leave in a folder is no picture."""

import pytest
from PIL import Image

from tokenprune.errors import DatasetError
from tokenprune.report.show.images import files_of, read_image


def test_a_picture_that_is_too_large_for_pillow_is_one_error(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    Image.new("RGB", (40, 40)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DatasetError, match=r"large\.png.*give a readable picture"):
        read_image(path)


def test_hidden_files_of_a_folder_are_left_out(tmp_path):
    for name in ("b.png", "a.JPG", "._a.jpg", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in files_of([tmp_path])] == ["a.JPG", "b.png"]
