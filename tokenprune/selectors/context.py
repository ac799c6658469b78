"""What a selector is built with."""

from dataclasses import dataclass

from tokenprune.schedules import Budget


@dataclass(frozen=True)
class Context:
    """What a selector is built with.

    dim: C channels; heads: h; block, budget: of its decision; depth: of the model; prefix: P tokens; classes: of the model's
    classification head, 0 without one: what an auxiliary head of the selector learns to tell.
    """

    dim: int
    heads: int
    block: int
    budget: Budget
    depth: int
    prefix: int
    classes: int = 0
