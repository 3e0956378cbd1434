"""Alembic's entry: runs revisions on the connection that `gaiad.db` hands over. It opens nothing itself."""

from __future__ import annotations

from alembic import context

from gaiad.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite rolls table changes back like any other: a killed migration leaves the old shape.
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
