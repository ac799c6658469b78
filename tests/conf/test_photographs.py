"""Whatever is not drawn by this project has the defaults of photographs, a data set that somebody adds by the docs included."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.helpers.fakes import cli, own_registry  # noqa: F401
from tokenprune.data.source import DataSource
from tokenprune.errors import InvalidConfig
from tokenprune.registry import register
from tokenprune.runs import nodes, plugin_options
from tokenprune.runs.config import compose, resolve
from tokenprune.tasks.classification.settings import read_recipe

pytestmark = pytest.mark.system

CLASSES = tuple(f"class {i}" for i in range(10))


class Samples:
    """Twenty pictures of ten classes, without class maps."""

    classes = CLASSES

    def __len__(self) -> int:
        return 20

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        if not 0 <= i < 20:
            raise IndexError(i)
        return np.full((40, 50, 3), 12 * i, np.uint8), i % 10


@pytest.fixture
def mine(own_registry):  # noqa: F811
    """A data set as the docs add one: a class, and no file."""

    @register("data", "mine")
    @dataclass(frozen=True)
    class Mine(DataSource):
        """Is of this test."""

        tasks: ClassVar[tuple[str, ...]] = ("classification", "segmentation", "detection")
        side: int = 64

        def open(self, task: str, split: str) -> Any:
            return Samples()

    cached = (nodes.nodes, plugin_options.defaults)
    [function.cache_clear() for function in cached]
    yield Mine
    [function.cache_clear() for function in cached]


@pytest.mark.parametrize("scale", ["smoke", "demo", "paper"])
@pytest.mark.parametrize("data", ["mine", "imagefolder"])
def test_photographs_stay_upright_and_keep_their_colours(mine, data, scale):
    root = [f"data.root={scale}"] if data == "imagefolder" else []
    recipe = read_recipe(resolve(compose(["task=classification", f"data={data}", f"scale={scale}", *root])))
    assert not recipe.vertical_flip and not recipe.channels and not recipe.token_labels and recipe.augment is not None
    assert recipe.view.mean == (0.485, 0.456, 0.406)
    augment = compose(["task=segmentation", f"data={data}", f"scale={scale}"]).task.augment
    assert not augment.vertical_flip and not augment.channels


@pytest.mark.parametrize("scale", ["smoke", "demo"])
def test_detection_keeps_photographs_upright_too(mine, scale):
    for data, drawn in (("mine", False), ("coco", False), ("shapes", True)):
        augment = compose([f"data={data}", f"scale={scale}"]).task.augment
        assert (augment.vertical_flip, augment.transpose, augment.channels) == (drawn,) * 3


def test_a_data_set_of_ones_own_trains_at_demo(mine, cli):  # noqa: F811
    """Its head has an output a class, and no class map is asked for."""
    size = ("backbone.img_size=64", "backbone.depth=2", "backbone.embed_dim=24", "training.iterations=1", "training.batch_size=4")
    code, _, err = cli("task=classification", "data=mine", "scale=demo", "init=scratch", *size, "task.speed_images=1", "task.cost_images=1")
    (row,) = cli.rows()
    assert (code, err) == (0, "") and row["config"]["task"]["token_labels"] == 0.0
    from tokenprune.utils.checkpoints import read_metadata, read_weights

    (path,) = cli.folder.glob("results/rows/*/model.safetensors")
    assert len(read_weights(path)["backbone.head.weight"]) == 10 and "class 9" in read_metadata(path)["class_names"]


def test_token_labels_need_class_maps(mine):
    with pytest.raises(InvalidConfig, match="task.token_labels is 1.0 together with view, augment, data=mine, which has no class maps"):
        read_recipe(resolve(compose(["task=classification", "data=mine", "scale=smoke", "task.token_labels=1.0"])))
