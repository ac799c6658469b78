"""What a selector is built with."""

from dataclasses import dataclass

from tokenprune.engine.schedule import Budget


@dataclass(frozen=True)
class Context:
    """What a selector is built with.

    dim: C channels; heads: h; block, budget: of its decision; depth: of the model; prefix: P tokens; classes: what an auxiliary head of the
    selector learns to tell, outputs of the model's classification head where a task says nothing else, 0 for nothing; positions: N of the
    images to come, or of the model's own; max_keys: the most keys that a query of the block before sees, None for all tokens.
    """

    dim: int
    heads: int
    block: int
    budget: Budget
    depth: int
    prefix: int
    classes: int = 0
    positions: int = 0
    max_keys: int | None = None
