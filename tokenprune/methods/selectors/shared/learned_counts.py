"""Numbers of kept tokens that are learned by gradient (DiffRate's differentiable discrete proxy)."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tokenprune.errors import InvalidConfig

if TYPE_CHECKING:
    from tokenprune.engine.model import PrunedViT


class LearnedCount(nn.Module):
    """Learns how many of N ranked tokens stay, as a distribution over candidates N, N - g, N - 2 g, ... (DiffRate, section 3.2).

    Args:
        positions: N.
        granularity: g, the step from one candidate to the next.

    Raises:
        InvalidConfig: The granularity is no whole number from 1 on.
    """

    candidates: Tensor

    def __init__(self, positions: int, granularity: int) -> None:
        super().__init__()
        if isinstance(granularity, bool) or not isinstance(granularity, int) or granularity < 1:
            raise InvalidConfig(f"granularity is {granularity!r}; allowed: a whole number >= 1, the tokens between two candidates")
        numbers = torch.arange(positions, 0, -granularity, dtype=torch.get_default_dtype())
        self.register_buffer("candidates", numbers, persistent=False)
        self.logits = nn.Parameter(torch.zeros_like(numbers))

    def forward(self) -> Tensor:
        """Return the number that stays, the expected candidate rounded up; its gradient is that of the expectation."""
        expected = self.candidates @ self.logits.softmax(0)
        return expected + (expected.detach().ceil() - expected.detach())

    def stays(self, ranks: int) -> Tensor:
        """Return the probability that each rank of a ranking (ranks,) stays: that of all candidates above it."""
        above = self.candidates > torch.arange(ranks, device=self.candidates.device).unsqueeze(1)
        return (self.logits.softmax(0) * above).sum(1)


class LearnedCounts(nn.Module):
    """Learns the two numbers of a decision, what pruning leaves of ranked tokens and what merging then leaves.

    Args:
        positions: N.
        granularity: See `LearnedCount`.
    """

    def __init__(self, positions: int, granularity: int) -> None:
        super().__init__()
        self.positions = positions
        self.pruned, self.merged = LearnedCount(positions, granularity), LearnedCount(positions, granularity)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return both numbers with their gradient."""
        return self.pruned(), self.merged()

    def whole(self) -> tuple[int, int]:
        """Return both numbers; all positions where the parameters have no values, as in a plan (device `meta`)."""
        if self.pruned.logits.is_meta:
            return self.positions, self.positions
        return round(float(self.pruned().detach())), round(float(self.merged().detach()))

    def numbers(self, live: int) -> tuple[int, int]:
        """Return how many of `live` tokens are left after pruning, and how many after merging."""
        left = min(live, self.whole()[0])
        return left, min(left, self.whole()[1])

    def gates(self, ranks: int, live: int) -> Tensor:
        """Return the gate of each rank (ranks,), 1 or 0, with the gradient of the probabilities that it stays.

        As released, a number that changes nothing gets no gradient.

        Args:
            ranks: Slots of the ranking, those that are not live last.
            live: How many are live.
        """
        gate = torch.ones(ranks, device=self.pruned.logits.device)
        for count, number, before in zip((self.pruned, self.merged), self.numbers(live), (live, self.numbers(live)[0]), strict=True):
            if number < before:
                stays = count.stays(ranks)
                gate = gate * ((torch.arange(ranks, device=gate.device) < number).to(stays.dtype) - stays.detach() + stays)
        return gate


def lists_of(model: "PrunedViT") -> dict[str, list[int]]:
    """Return the two lists that a model has learned, as the schedule `counts` takes them: prefix tokens count, one number a block."""
    whole = model.made.positions + model.prefix_tokens
    lists = {"prune": [whole] * model.depth, "merge": [whole] * model.depth}
    for number, selector in model.selectors.items():
        learned = getattr(selector, "learned", None)
        if learned is not None:
            lists["prune"][int(number)], lists["merge"][int(number)] = (count + model.prefix_tokens for count in learned.whole())
    return lists
