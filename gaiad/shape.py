"""The shape of a database: which tables it has, brought forward by the revisions in `migrations`.

Runs them on a connection that somebody else opened. It never goes back, and does not look at what the rows mean.
"""

from __future__ import annotations

from pathlib import Path

import alembic.command
import alembic.config
import alembic.script
import alembic.util
import sqlalchemy as sa

from gaiad.errors import StoreError

_MIGRATIONS = Path(__file__).parent / "migrations"


def bring_forward(connection: sa.Connection) -> None:
    """Migrate what `connection` is connected to, in its transaction.

    Raises:
        StoreError: it has a shape that this gaiad does not know.
    """
    settings = _settings()
    settings.attributes["connection"] = connection
    try:
        alembic.command.upgrade(settings, "head")
    except alembic.util.CommandError as error:
        raise _newer(error) from error


def refuse_newer(revision: str) -> None:
    """Return if `revision` is one of this gaiad's.

    Raises:
        StoreError: it is not.
    """
    try:
        alembic.script.ScriptDirectory.from_config(_settings()).get_revision(revision)
    except alembic.util.CommandError as error:
        raise _newer(error) from error


def _newer(error: alembic.util.CommandError) -> StoreError:
    return StoreError(
        f"the database cannot be migrated: {error}",
        hint="it was probably written by a newer gaiad: install that one, or restore an older backup",
    )


def _settings() -> alembic.config.Config:
    settings = alembic.config.Config()
    settings.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    return settings
