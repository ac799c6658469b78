"""What surrounds the rows of a sweep: a note a row on disk while it runs, and the table when all have ended."""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from tokenprune import console, distributed

BAD_ROW = 3  # exit status of a sweep in which a row is not ok


class SweepTable(Callback):
    """Hydra's hook after the last row: collects the notes from disk, prints and writes the table, exits 3 if a row is bad.

    It reads files and not memory, because a launcher may give every row a process of its own.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Close the sweep of `config`.

        Raises:
            SystemExit: 3, if the sweep had no rows or one of them is not ok.
        """
        folder = Path(config.hydra.sweep.dir)
        notes = read_notes(folder)
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            folder.parent.rmdir()  # unless another sweep has its notes there
            folder.parent.parent.rmdir()  # and the results folder, if it holds nothing
        if not distributed.is_main():
            return
        if not notes:
            console.fail("the sweep has no rows: its axes select nothing; check the values given for them (a glob that matches no name?)")
            sys.exit(BAD_ROW)
        name = config.experiment or "sweep"
        bad = [note for note in notes if note["row"]["status"] != "ok"]
        if config.validate_only:
            console.say(f"{name}: {len(notes) - len(bad)} of {len(notes)} rows are valid")
        else:
            from tokenprune.report import write_report

            write_report(name, unique([note["row"] for note in notes]), Path(config.results_dir) / "tables" / name)
        for note in bad:
            console.fail(f"{note['name']}: {note['row']['status']}: {note['row']['reason']}")
        if bad:
            sys.exit(BAD_ROW)


def unique(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return rows without repetitions: a dense row is the same at every keep rate of a sweep."""
    return list({(row["key"], row["label"], row["treatment"]): row for row in rows}.values())


def write_note(folder: Path | str, number: int, name: str, row: Mapping[str, Any]) -> None:
    """Write what is known of row `number` of a sweep; a later note replaces an earlier one."""
    from tokenprune.checkpoints import atomic_write

    text = json.dumps({"number": number, "name": name, "row": row}, default=str)
    atomic_write(Path(folder) / f"row-{number:05d}.json", lambda part: part.write_text(text))


def read_notes(folder: Path | str) -> list[dict[str, Any]]:
    """Return the notes of a sweep in the order of its rows."""
    return [json.loads(path.read_text()) for path in sorted(Path(folder).glob("row-*.json"))]
