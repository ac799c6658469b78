"""timm readers that keep one open archive a process."""

import os

import pytest

from tests.helpers.image_sets import pack, write_folder
from tokenprune.data.readers import open_source


def _contents(reader):
    return [(reader.filename(i), reader[i][0].read()) for i in range(len(reader))]


@pytest.fixture
def reader(tmp_path, request):
    source = write_folder(tmp_path, {"a": 5, "b": 5}) / "val"
    return open_source(pack(source, tmp_path / f"packed.{request.param}"))


@pytest.mark.parametrize("reader", ["zip", "tar"], indirect=True)
def test_a_forked_process_opens_the_archive_for_itself(reader):
    """A shared handle has one place in the file for both: each would read at the other's."""
    expected = _contents(reader)
    handle = reader.zip if hasattr(reader, "zip") else reader.tar_state.tf
    child = os.fork()
    if child == 0:
        code = 3
        try:
            own = _contents(reader)
            other = reader.zip if hasattr(reader, "zip") else reader.tar_state.tf
            code = int(own != expected) + 2 * int(other is handle)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert _contents(reader) == expected


@pytest.mark.parametrize("reader", ["zip"], indirect=True)
def test_the_zip_reader_keeps_to_timms_protocol(reader):
    from timm.data import ImageDataset

    assert reader.filename(0, basename=True) == reader.filename(0).rpartition("/")[2] and len(reader.filenames()) == 10
    dataset = ImageDataset(None, reader=reader)
    labels = {reader.filename(i)[0]: dataset[i][1] for i in range(len(dataset))}
    assert labels == {"a": 0, "b": 1} and dataset[0][0].mode == "RGB"
