"""Results on disk while their writers are killed, and while many write at once."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.fakes import row
from tokenprune.runs.results import collect, finished, read_result, row_folder, write_result
from tokenprune.utils.locks import locked

pytestmark = pytest.mark.system

KILLS, WRITERS, ROUNDS = 200, 16, 15
BASE = row()  # made once: it asks git for the commit


def forked(work: Callable[[], None]) -> int:
    """Start a process that does `work` and nothing else; it ends with status 1 where that raises."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def numbered(seed: int) -> dict:
    """A row that shows whether all of it is of one write: its number is at both ends and in the middle of several kB."""
    cost = {**BASE["cost"], "kept_per_block": [float(seed)] * 300}
    return {**BASE, "seed": seed, "metrics": {"ap_box": float(seed)}, "cost": cost, "notes": [str(seed)]}


def number_of(path: Path) -> int:
    """The number of a row that is whole."""
    read = read_result(path)
    parts = {int(read["metrics"]["ap_box"]), *map(int, read["cost"]["kept_per_block"]), int(read["notes"][0])}
    assert parts == {read["seed"]}
    return read["seed"]


def test_two_hundred_killed_writers_leave_no_row_that_cannot_be_read(tmp_path):
    draw, last, moved = random.Random(0), 0, 0
    write_result(tmp_path, numbered(0))
    ready, begin = os.pipe()

    def write_on() -> None:
        os.write(begin, b"x")
        for seed in range(last + 1, last + 10_000):
            write_result(tmp_path, numbered(seed))

    for _ in range(KILLS):
        child = forked(write_on)
        os.read(ready, 1)
        time.sleep(draw.uniform(0.0, 0.02))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        number = number_of(tmp_path / "result.json")
        assert number >= last and finished(tmp_path) is not None
        moved, last = moved + (number > last), number
    assert moved > KILLS // 4  # it was writing when it was killed


def test_sixteen_writers_at_once_never_collide(tmp_path):
    """Each has a row of its own and all write one more; under its lock they count to the same number."""
    shared, counter = row_folder(tmp_path, "shared"), tmp_path / "counter"
    counter.write_text("0")
    go, start = os.pipe()

    def write(number: int) -> None:
        os.close(start)
        os.read(go, 1)  # until the parent closes its end
        for turn in range(ROUNDS):
            write_result(row_folder(tmp_path, f"own{number}"), numbered(turn))
            write_result(shared, numbered(number))
            with locked(shared / "lock", "the counter"):
                counter.write_text(str(int(counter.read_text()) + 1))

    children = [forked(lambda number=number: write(number)) for number in range(WRITERS)]
    os.close(start)
    read, ended = 0, {}
    while len(ended) < WRITERS:
        for child in set(children) - set(ended):
            done, status = os.waitpid(child, os.WNOHANG)
            ended.update({child: status} if done else {})
        if (shared / "result.json").exists():
            assert 0 <= number_of(shared / "result.json") < WRITERS
            read += 1
    assert set(ended.values()) == {0} and read > 10
    assert counter.read_text() == str(WRITERS * ROUNDS)
    rows = collect(tmp_path)  # in the order of their folders: own0, ..., shared
    assert len(rows) == WRITERS + 1 and list(rows["seed"])[:-1] == [ROUNDS - 1] * WRITERS
