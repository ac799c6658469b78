"""Importers and engine against the authors' code, anywhere: tests/golden/classifiers.json holds what that computed on drawn pictures."""

from argparse import Namespace

import pytest
import torch

from tests.helpers.filled import SHARED, shapes_of
from tests.helpers.parity import filled_state, folded, goldens, picture, sampled, unfolded, written
from tokenprune.zoo.layout import converted
from tokenprune.zoo.load import built
from tokenprune.zoo.release import read_release


@pytest.mark.parametrize("name", sorted(goldens()))
def test_logits_are_the_authors(name, tmp_path):
    entry = goldens()[name]
    content = {"model": filled_state(entry["shapes"], entry.get("shifts")), "optimizer": {"state": {}}, "epoch": 1}
    file = tmp_path / entry.get("file", "best_checkpoint.pth")
    torch.save({**content, "args": Namespace(**entry["args"])} if entry["args"] else content, file)
    model = built(converted(read_release(file), entry["given"]), name)
    with torch.no_grad():
        of_patches = hasattr(model, "label_logits")  # a segmenter
        found = model.label_logits(model.pruned.encode(picture())).transpose(1, 2) if of_patches else model(picture())
    torch.testing.assert_close(sampled(found), torch.tensor(entry["logits"]), atol=1e-4, rtol=0)


def test_the_keys_are_those_of_the_full_set():
    compared = 0
    for name, entry in goldens().items():
        path = SHARED / "methods" / "dev" / f"keys_{name}.json"
        if path.is_file():
            full = {key: list(shape) for key, shape in shapes_of(path).items()}
            assert unfolded(entry["shapes"]) == full
            compared += 1
    if not compared:
        pytest.skip(f"the full goldens are not here: {SHARED}")


def test_folding_keys_and_sampling_numbers():
    shapes = {"a": [1], "b.0.w": [2], "b.1.w": [2], "c.0.v": [3], "c.1.v": [4], "d.1.w": [2]}
    assert folded(shapes) == {"a": [1], "b.*2.w": [2], "c.0.v": [3], "c.1.v": [4], "d.1.w": [2]}
    assert filled_state(folded(shapes)).keys() == shapes.keys()
    assert written(torch.arange(600).float()) == [float(n) for n in range(0, 600, 3)]
