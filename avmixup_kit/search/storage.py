"""Where a study lives: an SQLite file, a journal file or a database, and the locks beside it."""

import json
import logging
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from avmixup_kit._base import files

SECONDS_FOR_THE_LOCK = 100.0


def optuna_package() -> Any:
    """Return the module optuna, which only a search needs."""
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            "searching needs optuna, which is not installed: pip install 'avmixup-kit[search]'"
        ) from error
    return optuna


def taken_up(study: Any, trial: Any) -> Any:
    """Return a frozen trial to go on with, by Optuna's private number of it: there is no other."""
    return optuna_package().Trial(study, trial._trial_id)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's remarks, which it logs for every study that is opened, off the screen."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@dataclass(frozen=True)
class Place:
    """Where a search lives: its folder, and the study's storage inside or outside of it."""

    folder: Path
    storage: str | Path | None

    @property
    def file(self) -> Path | None:
        """The study's file; None for a database server."""
        if self.storage is None:
            return self.folder / "study.db"
        text = str(self.storage)
        if text.startswith("sqlite:///"):
            return Path(text.removeprefix("sqlite:///"))
        return None if "://" in text else Path(text)

    @property
    def journal(self) -> bool:
        """Whether the file is a journal."""
        return self.file is not None and self.file.suffix in (".journal", ".log")

    def claiming(self) -> filelock.AcquireReturnProxy:
        """Return the lock under which trials are handed out, shared by all who share the file."""
        study = self.folder / "study" if self.file is None else self.file
        return files.held(study.with_name(f".{study.name}.claim"), SECONDS_FOR_THE_LOCK, str(study))

    def settle(self) -> None:
        """Have what the study was told on disk before anything that comes after.

        SQLite commits by removing its journal, and leaves it to others to have that on disk.
        """
        if self.file is not None:
            files.settle(self.file.parent)

    def token(self) -> str:
        """Return the folder's own name, made once: trials' checkpoints lie in one folder."""
        path = self.folder / "token"
        if not path.exists():
            files.write_atomic(path, uuid.uuid4().hex.encode())
        return path.read_text()

    def checkpoint(self, number: int) -> Path:
        """Return where a running trial's state is kept."""
        return self.folder / "trials" / f"{number:04d}.pt"

    def lock(self, number: int) -> Path:
        """Return the lock file of whoever trains this trial."""
        return self.folder / "trials" / f"{number:04d}.lock"

    def open(self) -> Any:
        """Return Optuna's storage.

        Raises:
            ValueError: the file is damaged, or holds something else.
        """
        optuna = optuna_package()
        file = self.file
        if file is None:
            return _database(optuna, str(self.storage))
        words = "is no study of Optuna's, or is damaged, and was left as it is"
        with files.blamed(file, words, (*files.DAMAGE, sqlite3.DatabaseError)):
            if self.journal:
                _check_journal(file)
                backend = optuna.storages.journal.JournalFileBackend(str(file))
                return optuna.storages.JournalStorage(backend)
            _check_sqlite(file)
        # Two processes that write at once wait for each other instead of giving up after 5 s.
        waiting = {"connect_args": {"timeout": SECONDS_FOR_THE_LOCK}}
        return optuna.storages.RDBStorage(f"sqlite:///{file}", engine_kwargs=waiting)


def _database(optuna: Any, url: str) -> Any:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return optuna.storages.RDBStorage(url)
    except (SQLAlchemyError, ImportError) as error:
        try:
            shown = make_url(url).render_as_string(hide_password=True)
        except SQLAlchemyError:
            shown = url.split("://")[0] + "://..."
        reason = str(error.__cause__ or error).splitlines()[0]
        raise ValueError(f"storage = {shown!r} cannot be opened: {reason}") from error


def _check_sqlite(file: Path) -> None:
    if not file.exists() or not file.stat().st_size:
        return
    with closing(sqlite3.connect(file, timeout=SECONDS_FOR_THE_LOCK)) as database:
        (state,) = database.execute("PRAGMA quick_check").fetchone()
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    if state != "ok":
        raise ValueError(state)
    if tables and "studies" not in tables:
        raise ValueError("a database without studies")


def _check_journal(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else ()
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            return  # another process is writing it
        with suppress(ValueError, TypeError):
            if "op_code" in json.loads(line):
                continue
        raise ValueError(f"line {number} is no record")
