"""Which samples batch i holds: a function of the seed and of i alone, so that a resumed run sees what the first would have."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from tokenprune.utils.distributed import rank, world


class BatchPlan:
    """Shuffled epochs cut into batches; an epoch's last incomplete batch is dropped, a set smaller than a batch repeats.

    With aspect `ratios` (width / height) portrait and landscape images do not share a batch, but for one, which saves padding.
    With `repeats` a batch holds each of its images so many times, and an epoch, which stays as long, so many times fewer images.
    """

    def __init__(self, size: int, batch: int, seed: int, ratios: Sequence[float] | None = None, repeats: int = 1) -> None:
        """size: samples in the set; batch: samples a batch."""
        self.size, self.batch, self.seed, self.repeats = size, batch, seed, repeats
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
        if self.wide is None:  # copies lie far apart, so that several processes, which take slices, get different ones
            different = np.resize(order, (self.per_epoch, -(-self.batch // self.repeats)))
            return np.tile(different, self.repeats)[:, : self.batch]
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


def in_order(count: int, make: Callable[[int], Any], collate: Callable[[list[Any]], Any], batch: int, workers: int = 0) -> Iterator[Any]:
    """Batches of the first `count` samples, the last one as short as it comes; no generator of this process is touched."""
    samples = _Samples(count, make)
    return iter(DataLoader(samples, batch, collate_fn=collate, num_workers=min(workers, count // batch), generator=torch.Generator()))


class _Samples(Dataset):
    def __init__(self, count: int, make: Callable[[int], Any]) -> None:
        self.count, self.make = count, make

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Any:
        return self.make(i)


@contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Let Python's, numpy's and torch's CPU generator draw in the body what `entropy` alone decides, and go on after it as if unused.

    Libraries that draw from these have their noise tied so to (seed, place in the run), wherever and in what order samples are prepared.
    """
    words = np.random.SeedSequence(entropy).generate_state(4)
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(words.tobytes())
    np.random.seed(words)
    torch.default_generator.manual_seed(int(words[0]) << 32 | int(words[1]))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


def _as_it_is(batch: Any) -> Any:
    """Instead of torch's conversion, which would turn tuples into lists and numbers into tensors."""
    return batch
