"""Which samples batch i holds: a function of the seed and of i alone, so that a resumed run sees what the first would have."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from tokenprune.distributed import rank, world


class BatchPlan:
    """Shuffled epochs cut into batches; an epoch's last incomplete batch is dropped, a set smaller than a batch repeats.

    With aspect `ratios` (width / height) portrait and landscape images do not share a batch, but for one, which saves padding.
    """

    def __init__(self, size: int, batch: int, seed: int, ratios: Sequence[float] | None = None) -> None:
        """size: samples in the set; batch: samples a batch."""
        self.size, self.batch, self.seed = size, batch, seed
        self.wide = None if ratios is None else np.asarray(ratios) > 1
        self.per_epoch = max(1, size // batch)
        self._epoch, self._batches = -1, np.empty((0, batch), dtype=np.int64)

    def __getitem__(self, iteration: int) -> list[int]:
        """Sample indices of a 0-based iteration."""
        epoch, step = divmod(iteration, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._plan(epoch)
        return self._batches[step].tolist()

    def _plan(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(self.size)
        if self.wide is None:
            return np.resize(order, (self.per_epoch, self.batch))
        grouped = np.resize(order[np.argsort(self.wide[order], kind="stable")], (self.per_epoch, self.batch))
        return grouped[rng.permutation(self.per_epoch)]


class _Batches(Dataset):
    """Item i is this process's share of the batch of iteration `start + i`: all of it, or an equal slice where there are several."""

    def __init__(self, plan: BatchPlan, make: Callable[[int, int], Any], collate: Callable[[list[Any]], Any], start: int) -> None:
        self.plan, self.make, self.collate, self.start = plan, make, collate, start
        share = plan.batch // world()  # TrainingConfig refuses what does not divide
        self.mine = slice(rank() * share, (rank() + 1) * share)

    def __len__(self) -> int:
        return 2**31  # endless for every purpose; a training loop stops by itself

    def __getitem__(self, i: int) -> Any:
        iteration = self.start + i
        positions = range(iteration * self.plan.batch, (iteration + 1) * self.plan.batch)
        mine = zip(self.plan[iteration][self.mine], positions[self.mine], strict=True)
        return self.collate([self.make(index, place) for index, place in mine])


def batches_from(
    plan: BatchPlan, make: Callable[[int, int], Any], collate: Callable[[list[Any]], Any], start: int, workers: int = 0
) -> Iterator[Any]:
    """Batches from iteration `start` on, without end; of several processes each gets its slice of every batch.

    Args:
        make: (sample index, place in the whole run) -> one prepared sample; random choices in it are seeded by the place.
        workers: processes that prepare batches ahead; 0 prepares them here. The batches are the same.
    """
    source = _Batches(plan, make, collate, start)
    if workers == 0:
        return (source[i] for i in range(len(source)))
    return iter(DataLoader(source, batch_size=None, shuffle=False, num_workers=workers, prefetch_factor=4, collate_fn=_as_it_is))


def _as_it_is(batch: Any) -> Any:
    """Instead of torch's conversion, which would turn tuples into lists and numbers into tensors."""
    return batch
