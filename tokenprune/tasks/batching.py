"""Plans which samples batch i holds: a function of the seed and of i alone, so that a resumed run sees the batches of an unbroken one."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from tokenprune.utils.distributed import rank, world


class BatchPlan:
    """Cuts shuffled epochs into batches.

    An epoch's last incomplete batch is dropped, and a set smaller than a batch repeats. With aspect `ratios`, portrait and landscape images
    share at most one batch an epoch, which saves padding. With `repeats`, a batch holds each of its images that many times; an epoch stays
    as long and has that many times fewer images.

    Args:
        size: Samples in the set.
        batch: Samples in a batch.
        seed: Seed of the order.
        ratios: Aspect ratios (width / height) of the samples.
        repeats: Copies of an image in a batch.
    """

    def __init__(self, size: int, batch: int, seed: int, ratios: Sequence[float] | None = None, repeats: int = 1) -> None:
        """Start without an epoch."""
        self.size, self.batch, self.seed, self.repeats = size, batch, seed, repeats
        self.wide = None if ratios is None else np.asarray(ratios) > 1
        self.per_epoch = max(1, size // batch)
        self._epoch, self._batches = -1, np.empty((0, batch), dtype=np.int64)

    def __getitem__(self, iteration: int) -> list[int]:
        """Return the sample indices of a 0-based iteration."""
        epoch, step = divmod(iteration, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._plan(epoch)
        return self._batches[step].tolist()

    def _plan(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(self.size)
        if self.wide is None:  # copies lie far apart, so that processes, which take slices, get different images
            different = np.resize(order, (self.per_epoch, -(-self.batch // self.repeats)))
            return np.tile(different, self.repeats)[:, : self.batch]
        grouped = np.resize(order[np.argsort(self.wide[order], kind="stable")], (self.per_epoch, self.batch))
        return grouped[rng.permutation(self.per_epoch)]


class _Batches(Dataset):
    """Holds this process's share of each batch.

    Item i belongs to the batch of iteration `start + i`: all of it, or an equal slice under several processes.
    """

    def __init__(self, plan: BatchPlan, make: Callable[[int, int], Any], collate: Callable[[list[Any]], Any], start: int) -> None:
        self.plan, self.make, self.collate, self.start = plan, make, collate, start
        share = plan.batch // world()  # TrainingConfig refuses a batch that does not divide
        self.mine = slice(rank() * share, (rank() + 1) * share)

    def __len__(self) -> int:
        return 2**31  # in practice endless; a training loop stops by itself

    def __getitem__(self, i: int) -> Any:
        iteration = self.start + i
        positions = range(iteration * self.plan.batch, (iteration + 1) * self.plan.batch)
        mine = zip(self.plan[iteration][self.mine], positions[self.mine], strict=True)
        return self.collate([self.make(index, place) for index, place in mine])


def batches_from(
    plan: BatchPlan, make: Callable[[int, int], Any], collate: Callable[[list[Any]], Any], start: int, workers: int = 0
) -> Iterator[Any]:
    """Yield batches from iteration `start` on, without end; of several processes each gets its slice of every batch.

    Args:
        plan: The samples of each batch.
        make: (sample index, place in the whole run) -> one prepared sample. The place seeds its random choices.
        collate: Makes a batch of a list of samples.
        start: First iteration.
        workers: Processes that prepare batches ahead; 0 prepares them in this process. The batches are the same.
    """
    source = _Batches(plan, make, collate, start)
    if workers == 0:
        return (source[i] for i in range(len(source)))
    return iter(DataLoader(source, batch_size=None, shuffle=False, num_workers=workers, prefetch_factor=4, collate_fn=as_it_is))


def in_order(count: int, make: Callable[[int], Any], collate: Callable[[list[Any]], Any], batch: int, workers: int = 0) -> Iterator[Any]:
    """Yield batches of the first `count` samples; the last one may be smaller. No generator of this process is touched."""
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
    """Seed Python's, numpy's and torch's CPU generators by `entropy` inside the body, and restore their states after it.

    This ties the noise of libraries that draw from these generators to (seed, place in the run), wherever and in whatever order samples are
    prepared.
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


def as_it_is(batch: Any) -> Any:
    """Return the batch unchanged. torch's own conversion would turn tuples into lists and numbers into tensors."""
    return batch
