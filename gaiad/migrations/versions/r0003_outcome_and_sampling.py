"""How an exchange ended, and under which sampling, engine and template its reply was made."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns, none of which an older row needs."""
    op.add_column("exchanges", sa.Column("outcome", sa.Text))
    op.add_column("exchange_contents", sa.Column("size", sa.Integer))
    for name in ("sampling", "engine", "template"):
        op.add_column("exchange_contents", sa.Column(name, sa.Text))


def downgrade() -> None:
    """Forward only."""
    raise NotImplementedError("migrations go forward only: restore a backup instead")
