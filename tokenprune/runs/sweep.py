"""What surrounds the rows of a sweep: a note a row on disk while it runs, and the reports when all have ended."""

import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from tokenprune.errors import CannotWrite, TokenPruneError
from tokenprune.runs.presets import files
from tokenprune.runs.reasons import grouped
from tokenprune.runs.rows import tables
from tokenprune.runs.run import Run
from tokenprune.runs.sources import without_folders
from tokenprune.runs.untrained import marks
from tokenprune.utils import console, distributed
from tokenprune.utils.files import atomic_write, obstacle, saving
from tokenprune.utils.paths import at_home
from tokenprune.utils.settings import plain

ABOUT = "sweep.json"  # in the folder of a sweep's reports: what the sweep was
_VOLATILE = re.compile(
    r"(experiment|results_dir|validate_only|fresh|export_weights|launcher|reports|tracking|hydra)\b"
)  # change no number of a row
_unwritten: dict[Path, dict[str, Any]] = {}  # notes of this process for which there was no room
_LONGEST = 120  # characters
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
            only_known({key: value for key, value in values.items() if key not in ("hydra", "zoo")})  # type: ignore[union-attr]
            build_reports(plain(config.reports))
            _room_for_processes(config)
        except TokenPruneError as error:
            console.fail(str(error))
            distributed.leave(BAD_CONFIG)  # nothing weaker stops Hydra

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Close the sweep of `config`.

        Raises:
            SystemExit: 3, if the sweep had no rows, one of them is not ok, or a report failed.
        """
        from tokenprune.runs.row import NOT_WRITTEN

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
            failed = report(config, unique([note["row"] for note in notes]), list(config.hydra.overrides.task), len(bad))
        for line in grouped(bad, config.results_dir):
            console.fail(line)
        if bad or failed or any(note.startswith(NOT_WRITTEN) for found in notes for note in found["row"]["notes"]):
            distributed.leave(BAD_ROW)


def _room_for_processes(config: DictConfig) -> None:
    """Refuse a results folder that nothing can be written into where rows have processes of their own, which meet there."""
    if not str(config.hydra.launcher._target_).endswith("BasicLauncher"):
        problem = obstacle(at_home(config.results_dir))
        if problem is not None:
            raise CannotWrite(problem)


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
    """Return what a sweep is called in messages and in its tables."""
    return config.experiment or "sweep"


def expected(config: Run | DictConfig) -> set[str]:
    """Return the statuses other than ok that the chosen reports make something of, such as the refused pairings of a whole matrix."""
    from tokenprune.runs.reports import build_reports

    return {status for chosen in build_reports(plain(config.reports)).values() for status in getattr(chosen, "expects", ())}


def report(config: Run | DictConfig, rows: Sequence[Mapping[str, Any]], words: Sequence[str], bad: int = 0) -> list[str]:
    """Make the reports that `config` chooses of the rows of a sweep; return the names of those that failed.

    The folder of the reports is that of the sweep (`folder_name`). One with bad rows leaves a table without bad rows alone and writes
    beside it.

    Args:
        config: The configuration that the rows share.
        rows: The rows, of any status.
        words: The overrides of the command line.
        bad: Number of rows that are not as they should be.
    """
    from tokenprune.runs.reports import Sweep, make_reports

    name, results = name_of_sweep(config), Path(at_home(config.results_dir))
    folder = results / "tables" / folder_name(config.experiment, words)
    if bad and _is_good(folder):
        kept, folder = folder, folder.with_name(f"{folder.name}-failed")
        console.warn(f"{kept} holds this table without bad rows and stays as it is; the {bad} bad of {len(rows)} rows are in {folder}")
    failed = make_reports(plain(config.reports), Sweep(name, rows, folder, results))
    text = json.dumps({"name": name, "overrides": list(words), "rows": len(rows), "bad": bad, "failed_reports": failed}, indent=1)
    with saving(folder / ABOUT) as problems:
        atomic_write(folder / ABOUT, lambda part: part.write_text(text + "\n", encoding="utf-8"))
    return [*failed, *problems]


def folder_name(experiment: str | None, words: Sequence[str]) -> str:
    """Return the name of a sweep's folder, which no other sweep has: its experiment, and each override that its rows depend on.

    `+experiment=table2_preserve seed=0,1` goes to `table2_preserve__seed-0,1`, `-m method=evit,ats` to `method-evit,ats`. Names that are
    too long, or that lack characters of the overrides, end in a digest of these.
    """
    chosen = sorted({word.lstrip("+") for word in words if not _VOLATILE.match(word.lstrip("+"))})
    name = re.sub(r"[^\w.,=-]+", "-", "_".join(chosen), flags=re.ASCII)
    if name != "_".join(chosen) or len(name) > _LONGEST:
        name = f"{name[:_LONGEST].strip('-')}-{hashlib.sha256(' '.join(chosen).encode()).hexdigest()[:6]}"
    return "__".join(part for part in (experiment, name.replace("=", "-")) if part) or "default"


def _is_good(folder: Path) -> bool:
    """Tell whether a folder holds the reports of a sweep without bad rows; those of earlier versions count as such."""
    try:
        return not json.loads((folder / ABOUT).read_text(encoding="utf-8"))["bad"]
    except (OSError, ValueError, KeyError, TypeError):
        return folder.is_dir() and any(folder.iterdir())


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
            with saving(row_folder(config.results_dir, row["key"])):
                write_result(row_folder(config.results_dir, row["key"]), row)
        return row
    return {**status_row(config, TokenPruneError(words)), "status": "ok"} if config.validate_only else None


def ended(number: int, name: str, row: Mapping[str, Any], config: Run | DictConfig) -> str:
    """Return the line that says how row `number` of a sweep ended.

    Reasons follow when all rows have ended, each once (`reasons.grouped`); that of a status which the reports expect stands here.
    """
    if row["status"] == "ok":
        marked = f"ok ({marks(row)})" if marks(row) else "ok"
        return f"[{number + 1}] {name}: " + (f"valid: {row['reason']}" if config.validate_only else marked)
    told = f": {row['reason']}" if row["status"] in expected(config) else ""
    return f"[{number + 1}] {name}: {row['status']}{told}"


def note_path(folder: Path | str, number: int) -> Path:
    """Return where the note of row `number` lies."""
    return Path(folder) / f"row-{number:05d}.json"


def write_note(folder: Path | str, number: int, name: str, row: Mapping[str, Any], running: bool = False, made: bool = False) -> None:
    """Write what is known of row `number` of a sweep; a later note replaces an earlier one. A note that cannot be written is remembered.

    Args:
        folder: Of the sweep's notes.
        number: Of the row.
        name: Of the row, for messages.
        row: The row, of any status.
        running: Whether it is being made; its status is then that of a row that was left behind.
        made: Whether it was made now and not read from disk.
    """
    note = {"number": number, "name": name, "row": row, "running": running, "made": made}
    path, text = note_path(folder, number), json.dumps(note, default=str)
    _unwritten.pop(path, None)
    try:
        atomic_write(path, lambda part: part.write_text(text, encoding="utf-8"))
    except OSError:
        _unwritten[path] = json.loads(text)


def read_note(path: Path) -> dict[str, Any]:
    """Return one note: number, name, row."""
    return _unwritten.get(path) or json.loads(path.read_text(encoding="utf-8"))


def read_notes(folder: Path | str) -> list[dict[str, Any]]:
    """Return the notes of a sweep in the order of its rows."""
    folder = Path(folder)
    return [read_note(path) for path in sorted({*folder.glob("row-*.json"), *(path for path in _unwritten if path.parent == folder)})]


@cache
def notes_folder(results: str) -> str:
    """Return where sweeps keep their notes: below a results folder, or in a temporary one where nothing can be written there."""
    folder = Path(at_home(results)) / ".sweeps"
    return str(folder) if obstacle(folder) is None else tempfile.mkdtemp(prefix="tokenprune-")
