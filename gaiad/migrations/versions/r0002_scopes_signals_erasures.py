"""Consent by conversation and for a time; scores, notes and signals; backups and erasures."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns, none of which an older row needs, and the new tables."""
    op.add_column("grants", sa.Column("conversation", sa.Text))
    op.add_column("grants", sa.Column("expires_at", sa.Float))
    op.add_column("feedback", sa.Column("score", sa.Float))
    op.add_column("feedback", sa.Column("note", sa.Text))
    for name in ("consent", "scrubbed", "question"):
        op.add_column("exchange_contents", sa.Column(name, sa.Text))
    op.create_index("contents_by_conversation", "exchange_contents", ["conversation"])
    op.create_index("contents_by_question", "exchange_contents", ["question"])
    _create_signals()
    _create_erasures()


def downgrade() -> None:
    """Forward only."""
    raise NotImplementedError("migrations go forward only: restore a backup instead")


def _create_signals() -> None:
    content = sa.ForeignKey("exchange_contents.request_id", ondelete="CASCADE")
    op.create_table(
        "signals",
        sa.Column("request_id", sa.Text, content, nullable=False),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("request_id", "what"),
    )


def _create_erasures() -> None:
    op.create_table(
        "backups",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "erasures",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("ended", sa.Float),
        sa.Column("report", sa.Text, nullable=False),
    )
    op.create_index("erasures_by_time", "erasures", ["at"])
