"""One Optuna study that several workers share: opening it, and who works on which slot."""

import os
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from lora.errors import ConfigError, SetupError
from lora.files import folder_beside
from lora.units import JsonObject

SLOT, WORKER, IDENTITY = "slot", "worker", "identity"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
SQLITE = "sqlite:///"
LOCK_WAIT_S = 60
# A worker names itself right after it has created a trial; one that did not within this time is gone.
UNNAMED_LIMIT = timedelta(seconds=60)
POLL_SECONDS = 0.05


@contextmanager
def open_study(storage: str, name: str, pruner: optuna.pruners.BasePruner) -> Iterator[optuna.Study]:
    """Yield the study of this name, made where it is missing; the lower score is the better.

    Raises:
        ConfigError: the address is of no database that can be used.
        SetupError: the database cannot be opened, or, in the block, not be read or written any more.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if storage.startswith(SQLITE):
        _create_sqlite(Path(storage.removeprefix(SQLITE)))
    database = _open(storage)
    try:
        yield optuna.create_study(
            storage=database, study_name=name, pruner=pruner, direction="minimize", load_if_exists=True
        )
    except (StorageInternalError, SQLAlchemyError) as error:
        reason = error.__cause__ or error
        raise SetupError(
            f"{storage.removeprefix(SQLITE)}: the database cannot be read or written ({str(reason).splitlines()[0]}). "
            "What was in it is as it was. Free space or correct the permissions, and give the same command again."
        ) from error
    finally:
        _close(database)


def _create_sqlite(path: Path) -> None:
    """Make the file with its tables, whole: workers that start at once would collide over the tables."""
    if path.exists():
        _refuse_foreign(path)
        return
    with folder_beside(path) as stage, suppress(FileExistsError):  # another worker was quicker; its file is as good
        _close(_open(f"{SQLITE}{stage / 'study'}"))
        os.link(stage / "study", path)


def _refuse_foreign(path: Path) -> None:
    """Refuse a database of something else, in which the study's tables would be made."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=LOCK_WAIT_S)) as database:
            names = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        raise SetupError(f"--storage: {path} cannot be opened ({error}). Check the file.") from error
    if "studies" not in names:
        raise ConfigError(f"--storage: {path} holds no studies. It is left as it is: give another file.")


def _open(storage: str) -> RDBStorage:
    import sqlalchemy.exc

    connect = {"timeout": LOCK_WAIT_S} if storage.startswith(SQLITE) else {}
    try:
        return RDBStorage(storage, engine_kwargs={"connect_args": connect})
    except (ImportError, sqlalchemy.exc.ArgumentError) as error:
        raise ConfigError(f"--storage: {storage!r} cannot be used ({error}). Give sqlite:///FILE.") from error
    except sqlalchemy.exc.DatabaseError as error:
        raise SetupError(f"--storage: {storage} cannot be opened ({error.orig}). Check the file.") from error


def _close(database: RDBStorage) -> None:
    database.remove_session()
    database.engine.dispose()


def check_identity(study: optuna.Study, identity: JsonObject) -> None:
    """Record what the sweep is, or refuse one that is another.

    Raises:
        ConfigError: every part that differs.
    """
    found = study.user_attrs.get(IDENTITY)
    if found is None:
        study.set_user_attr(IDENTITY, identity)
        return
    problems = [
        f"{part}.{key} was {found[part].get(key)!r}, wanted {identity[part].get(key)!r}"
        for part in identity
        for key in {**found[part], **identity[part]}
        if found[part].get(key) != identity[part].get(key)
    ]
    if problems:
        raise ConfigError(
            f"sweep {study.study_name}: the storage holds a sweep with other options. Give another --storage", problems
        )


def claim_trial(study: optuna.Study, trials: int) -> tuple[optuna.Trial, int] | None:
    """Create a trial on the lowest free slot below `trials`; `None` when every slot is taken.

    Slots are given in the order of the trials' numbers: a worker waits until those with a lower number,
    created a moment before by other workers, have theirs.
    """
    _fail_abandoned(study, own=None)
    if not _free_slots(study, trials):
        return None
    trial = study.ask()
    trial.set_user_attr(WORKER, _worker())
    while any(other.number < trial.number and SLOT not in other.user_attrs for other in _running(study)):
        time.sleep(POLL_SECONDS)
        _fail_abandoned(study, own=trial.number)
    free = _free_slots(study, trials)
    if not free:  # the last one went to another worker
        study.tell(trial, state=TrialState.FAIL)
        return None
    trial.set_user_attr(SLOT, free[0])
    return trial, free[0]


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that completed or were pruned, by slot."""
    return sorted(study.get_trials(states=FINISHED), key=lambda trial: trial.user_attrs[SLOT])


def _free_slots(study: optuna.Study, trials: int) -> list[int]:
    live = study.get_trials(deepcopy=False, states=(*FINISHED, TrialState.RUNNING))
    taken = {trial.user_attrs.get(SLOT) for trial in live}
    return [slot for slot in range(trials) if slot not in taken]


def _running(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def _fail_abandoned(study: optuna.Study, own: int | None) -> None:
    """Fail the trials whose worker is gone, so that their slots are free again."""
    for trial in _running(study):
        if trial.number != own and _is_abandoned(trial):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _is_abandoned(trial: FrozenTrial) -> bool:
    worker = trial.user_attrs.get(WORKER)
    if worker is None:
        return trial.datetime_start is not None and datetime.now() - trial.datetime_start > UNNAMED_LIMIT
    host, process = worker.rsplit(":", 1)
    if host != socket.gethostname() or sys.platform == "win32":  # there, asking by a signal would end it
        return False
    # This process has one trial at a time, so another of its own is one that it left.
    return int(process) == os.getpid() or not _is_alive(int(process))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _worker() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
