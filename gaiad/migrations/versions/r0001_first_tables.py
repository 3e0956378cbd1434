"""The first tables: grants, exchanges and their contents, feedback, adapter versions and their history, cycles."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

APPLICATION_ID = 0x47414941
"""`GAIA`: how a start tells its own database from somebody else's."""


def upgrade() -> None:
    """Create everything, in one transaction."""
    _create_grants()
    _create_exchanges()
    _create_contents()
    _create_versions()
    _create_cycles()
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def downgrade() -> None:
    """There is nothing before the first tables but an empty file."""
    raise NotImplementedError("migrations go forward only: restore a backup instead")


def _create_grants() -> None:
    op.create_table(
        "grants",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("user", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("grants_by_user", "grants", ["user", "id"])


def _create_exchanges() -> None:
    op.create_table(
        "exchanges",
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("stage_reason", sa.Text, nullable=False),
        sa.Column("version", sa.Text),
        sa.Column("arm", sa.Text, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("prompt_tokens", sa.Integer),
        sa.Column("completion_tokens", sa.Integer),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("first_byte_ms", sa.Float),
        sa.Column("total_ms", sa.Float, nullable=False),
        sa.Column("finish_reason", sa.Text),
        sa.Column("streamed", sa.Boolean, nullable=False),
        sa.Column("complete", sa.Boolean, nullable=False),
        sa.Column("valid", sa.Boolean),
        sa.Column("decision", sa.Text, nullable=False),
    )
    op.create_index("exchanges_by_time", "exchanges", ["at"])


def _create_contents() -> None:
    op.create_table(
        "exchange_contents",
        sa.Column(
            "request_id",
            sa.Text,
            sa.ForeignKey("exchanges.request_id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("user", sa.Text, nullable=False),
        sa.Column("conversation", sa.Text),
        sa.Column("purposes", sa.Text, nullable=False),
        sa.Column("request", sa.Text),
        sa.Column("response", sa.Text),
    )
    op.create_index("contents_by_user", "exchange_contents", ["user"])
    op.create_table(
        "feedback",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column(
            "request_id",
            sa.Text,
            sa.ForeignKey("exchange_contents.request_id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("correction", sa.Text),
        sa.Column("at", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("feedback_by_exchange", "feedback", ["request_id", "id"])


def _create_versions() -> None:
    op.create_table(
        "adapter_versions",
        sa.Column("version", sa.Text, primary_key=True),
        sa.Column("adapter", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("lineage", sa.Text, nullable=False),
        sa.Column("report", sa.Text),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("changed_at", sa.Float, nullable=False),
        sa.Column("last_event", sa.Integer, nullable=False),
    )
    op.create_index("versions_by_number", "adapter_versions", ["adapter", "number"], unique=True)
    is_active = sa.text("stage = 'active'")
    op.create_index(
        "one_active_version",
        "adapter_versions",
        ["adapter"],
        unique=True,
        sqlite_where=is_active,
        postgresql_where=is_active,
    )
    op.create_table(
        "adapter_events",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("adapter", sa.Text, nullable=False),
        sa.Column("version", sa.Text),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )


def _create_cycles() -> None:
    op.create_table(
        "cycles",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("adapter", sa.Text, nullable=False),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("ended", sa.Float),
        sa.Column("dataset_digest", sa.Text),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("verdict", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("report", sa.Text),
    )
    op.create_index("cycles_by_start", "cycles", ["started"])
