"""What `gaiadctl erase` tells of a report."""

from __future__ import annotations

from gaiad.cli.erase import _lines


def test_copies_and_damaged_stores_that_may_still_hold_it_are_named() -> None:
    report: dict[str, object] = {
        "exchange_ids": ["r1", "r2"],
        "versions": [{"version": "a@v3", "adapter": "a", "now_serves": None}],
        "backups": [{"path": "/b/one.db", "at": 1.0, "there": True}, {"path": "/b/two.db", "at": 2.0, "there": False}],
        "unread": ["/state/gaiad.db.damaged-1"],
        "beyond": ["the server's own log"],
        "checks": {"rows": 0, "unread": 1},
        "signed_off": False,
    }
    told = "\n".join(_lines(report, done=True))
    assert "erased 2 exchanges" in told
    assert "set aside: a@v3" in told
    assert "/b/one.db\n" in told
    assert "/b/two.db (not there any more)" in told
    assert "could not be looked through: /state/gaiad.db.damaged-1" in told
    assert "bytes of it may still be in the server's own log" in told
    assert "NOT clean: {'rows': 0, 'unread': 1}" in told
    assert "NOT clean" not in "\n".join(_lines(report, done=False))
