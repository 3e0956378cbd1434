"""Writes the two state diagrams of `docs/architecture.md` from the tables that the daemon runs on.

python tools/diagrams.py    (in .venv; a test says when it is due)
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"


def rendered(page: str) -> str:
    """Return `page` with each `<!-- diagram: NAME -->` block replaced by what the table says now."""
    from gaiad.gpu import handoff
    from gaiad.learner import cycle

    for name, diagram in (("handoff", handoff.render_diagram()), ("cycle", cycle.render_diagram())):
        opening, closing = f"<!-- diagram: {name} -->\n", f"<!-- end of {name} -->"
        before, found, rest = page.partition(opening)
        _, ended, after = rest.partition(closing)
        if not found or not ended:
            raise ValueError(f"{PAGE.name} has no block for the diagram {name!r}")
        page = f"{before}{opening}```mermaid\n{diagram.strip()}\n```\n{closing}{after}"
    return page


def main() -> int:
    """Bring the page up to date."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(rendered(page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
