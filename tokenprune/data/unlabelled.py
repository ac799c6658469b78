"""Makes procedural pictures of any size without labels, for measuring time and cost if no data set is at hand."""

from typing import Any

from tokenprune.data.base import Sample, empty_instances
from tokenprune.data.shapes.render import render
from tokenprune.errors import DatasetError


class Unlabelled:
    """Paints `size` pictures of `shapes` at `sides` (short, long) pixels and cuts them to these, without their objects.

    A detector of `classes` classes can be built for them, run and timed; there is nothing to learn or to judge. Both splits begin with the
    same pictures. Untrained gates differ much between pictures, so gates that are calibrated on the timed pictures are timed at their
    target.

    Args:
        size: Number of pictures.
        sides: Short and long side in pixels.
        classes: Number of classes.
        seed: Seed of the pictures, 0 or more.

    Raises:
        DatasetError: A value is no positive integer (seed: 0 or more), or the sides are in the wrong order.
    """

    def __init__(self, size: int, sides: tuple[int, int], classes: int, seed: int) -> None:
        """Check the settings."""
        values = {"size": size, "short_side": sides[0], "long_side": sides[1], "classes": classes, "seed": seed + 1}
        bad = [name for name, value in values.items() if value < 1]
        if bad or sides[0] > sides[1]:
            raise DatasetError(
                f"data set 'unlabelled': {size} pictures of {sides[0]} x {sides[1]}, {classes} classes, seed {seed}; allowed: positive"
                " numbers (seed: 0 and more), data.short_side not above data.long_side"
            )
        self.size, self.sides, self.seed = size, sides, seed
        self.classes = tuple(f"class {i}" for i in range(classes))
        self.category_ids = tuple(range(1, classes + 1))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> Sample:
        """Return picture i, in landscape format, without instances."""
        if not 0 <= i < self.size:
            raise IndexError(f"index {i} of {self.size} unlabelled pictures")  # iteration ends by this error
        height, width = self.sides
        image = render(self.seed, i, width).image[:height]
        return Sample(image, i, empty_instances(height, width))

    def aspect_ratios(self) -> list[float]:
        """Return the width / height of each picture."""
        return [self.sides[1] / self.sides[0]] * self.size

    def coco_json(self) -> dict[str, Any]:
        """Refuse: there is no ground truth to judge detections by.

        Raises:
            DatasetError: Always.
        """
        raise DatasetError("data set 'unlabelled' has no labels to judge by; measure cost alone, measure=[cost], or take another data set")
