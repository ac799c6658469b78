"""What surrounds the rows of a sweep: a note a row on disk while it runs, and the reports when all have ended."""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from tokenprune.errors import TokenPruneError
from tokenprune.runs.presets import files
from tokenprune.runs.reasons import grouped
from tokenprune.runs.rows import tables
from tokenprune.runs.run import Run
from tokenprune.runs.sources import without_folders
from tokenprune.utils import console, distributed
from tokenprune.utils.paths import at_home
from tokenprune.utils.settings import plain

BAD_CONFIG = 2  # exit status where nothing could be begun
BAD_ROW = 3  # exit status of a sweep in which a row is not ok or a report failed


class SweepTable(Callback):
    """Hydra's hooks around a sweep: the reports are checked before it; after it they are made of the notes on disk.

    It reads files and not memory, because a launcher may give every row a process of its own.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the reports of `config` before a row is made for them, and that all settings that the rows share exist.

        Raises:
            SystemExit: 2, if a report, an option of one, or a setting does not exist.
        """
        from tokenprune.runs.config import only_known
        from tokenprune.runs.reports import build_reports

        try:
            values = OmegaConf.to_container(config, resolve=False)
            only_known({key: value for key, value in values.items() if key != "hydra"})  # type: ignore[union-attr]
            build_reports(plain(config.reports))
        except TokenPruneError as error:
            console.fail(str(error))
            distributed.leave(BAD_CONFIG)  # nothing weaker stops Hydra

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Close the sweep of `config`.

        Raises:
            SystemExit: 3, if the sweep had no rows, one of them is not ok, or a report failed.
        """
        folder = Path(config.hydra.sweep.dir)
        notes = read_notes(folder)
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            folder.parent.rmdir()  # unless another sweep has its notes there
            folder.parent.parent.rmdir()  # and the results folder, if it holds nothing
        if not distributed.is_main():
            return
        if not notes and config.with_rows:
            console.fail("the sweep has no rows: its axes select nothing; check the values given for them (a glob that matches no name?)")
            distributed.leave(BAD_ROW)
        fine = {"ok", *expected(config)}
        bad, failed = [note for note in notes if note["row"]["status"] not in fine], []
        if config.validate_only:
            console.say(f"{name_of_sweep(config)}: {len(notes) - len(bad)} of {len(notes)} rows are valid")
        else:
            failed = report(config, unique([note["row"] for note in notes]))
        for line in grouped(bad, config.results_dir):
            console.fail(line)
        if bad or failed:
            distributed.leave(BAD_ROW)


def experiments_asked(names: Sequence[str], doc: str) -> list[str]:
    """Return the experiments that a command line names, or all; ends the process after --help, and where there is no such experiment."""
    if {"-h", "--help"} & set(names):
        console.say(doc.strip())
        sys.exit(0)
    names = without_folders(names)
    known = [path.stem for path in files("experiment")]
    allowed = list(dict.fromkeys([*known, *tables()]))
    unknown = [name for name in names if name not in allowed]
    if unknown:
        console.fail(f"unknown experiment {unknown[0]!r}. Available: {', '.join(allowed)}")
        sys.exit(BAD_CONFIG)
    return list(names) or known


def name_of_sweep(config: Run | DictConfig) -> str:
    """Return what a sweep is called in messages and under results/tables."""
    return config.experiment or "sweep"


def expected(config: Run | DictConfig) -> set[str]:
    """Return the statuses other than ok that the chosen reports make something of, such as the refused pairings of a whole matrix."""
    from tokenprune.runs.reports import build_reports

    return {status for chosen in build_reports(plain(config.reports)).values() for status in getattr(chosen, "expects", ())}


def report(config: Run | DictConfig, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Make the reports that `config` chooses of the rows of a sweep; return the names of those that failed."""
    from tokenprune.runs.reports import Sweep, make_reports

    name, results = name_of_sweep(config), Path(at_home(config.results_dir))
    return make_reports(plain(config.reports), Sweep(name, rows, results / "tables" / name, results))


def unique(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return rows without repetitions: a dense row is the same at every keep rate of a sweep."""
    return list({(row["key"], row["label"], row["treatment"]): row for row in rows}.values())


def stored_or_refused(config: Run) -> dict[str, Any] | None:
    """Return the row of a resolved configuration if nothing is left to compute: it lies on disk, is refused, or is only to be validated."""
    from tokenprune.runs.results import row_folder, write_result
    from tokenprune.runs.row import age_in_words, name_of, relabelled, status_row, stored_row
    from tokenprune.runs.validation import validate

    done = distributed.of_main(lambda: stored_row(config))
    if done is not None and not config.validate_only:
        if distributed.is_main():
            console.say(f"{name_of(config)}: {age_in_words(config)}")
        return relabelled(done, config)
    try:
        with distributed.together():
            words = distributed.of_main(lambda: validate(config, files=not config.validate_only))
    except Exception as error:
        row = status_row(config, error)
        if distributed.is_main() and not config.validate_only:
            write_result(row_folder(config.results_dir, row["key"]), row)
        return row
    return {**status_row(config, TokenPruneError(words)), "status": "ok"} if config.validate_only else None


def ended(number: int, name: str, row: Mapping[str, Any], config: Run) -> str:
    """Return the line that says how row `number` of a sweep ended.

    Reasons follow when all rows have ended, each once (`reasons.grouped`); that of a status which the reports expect stands here.
    """
    if row["status"] == "ok":
        return f"[{number + 1}] {name}: " + (f"valid: {row['reason']}" if config.validate_only else "ok")
    told = f": {row['reason']}" if row["status"] in expected(config) else ""
    return f"[{number + 1}] {name}: {row['status']}{told}"


def note_path(folder: Path | str, number: int) -> Path:
    """Return where the note of row `number` lies."""
    return Path(folder) / f"row-{number:05d}.json"


def write_note(folder: Path | str, number: int, name: str, row: Mapping[str, Any]) -> None:
    """Write what is known of row `number` of a sweep; a later note replaces an earlier one."""
    from tokenprune.utils.files import atomic_write

    text = json.dumps({"number": number, "name": name, "row": row}, default=str)
    atomic_write(note_path(folder, number), lambda part: part.write_text(text, encoding="utf-8"))


def read_note(path: Path) -> dict[str, Any]:
    """Return one note: number, name, row."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_notes(folder: Path | str) -> list[dict[str, Any]]:
    """Return the notes of a sweep in the order of its rows."""
    return [read_note(path) for path in sorted(Path(folder).glob("row-*.json"))]
