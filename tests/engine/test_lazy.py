"""A value that is computed once an object."""

from dataclasses import dataclass

import torch

from tests.helpers.pairings import images, tiny_vit
from tokenprune.engine.lazy import once
from tokenprune.engine.policy import DeadSlotRule, settle
from tokenprune.engine.prune import prune


@dataclass(frozen=True)
class _Squared:
    number: int
    calls: list

    @once
    def square(self) -> int:
        """Return the square."""
        self.calls.append(self.number)
        return self.number**2


def test_a_value_is_computed_once_for_each_object_also_of_a_frozen_class():
    three, four = _Squared(3, []), _Squared(4, [])
    assert (three.square, three.square, four.square) == (9, 9, 16)
    assert (three.calls, four.calls) == ([3], [4])
    assert _Squared.square.__doc__ == "Return the square."


def test_a_decision_in_masked_execution_does_not_read_another_device_than_the_cpu():
    model = prune(tiny_vit())
    state = model.start(images(2))
    rule = DeadSlotRule("masked", False, lambda state: None)
    assert settle(state.replace(live=state.live.clone()), rule).known.complete  # free on a CPU
    elsewhere = state.replace(live=torch.ones(2, 64, dtype=torch.bool, device="meta"))  # whose values cannot be read
    assert not settle(elsewhere, rule).known.complete
