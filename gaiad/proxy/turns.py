"""How many requests of one user are under way, and whether one more may begin.

Counts only, and only where there is a limit. Who a user is was decided before; all who are nobody count as one.
"""

from __future__ import annotations


class Turns:
    """What the proxy counts: a turn that was taken must be given back exactly once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken: dict[str | None, int] = {}

    @property
    def taken(self) -> int:
        """How many are under way, of all users."""
        return sum(self._taken.values())

    def take(self, user: str | None) -> bool:
        """Begin one more request of `user`; False where it has to wait for another to end."""
        if not self.limit:
            return True
        count = self._taken.get(user, 0)
        if count >= self.limit:
            return False
        self._taken[user] = count + 1
        return True

    def give_back(self, user: str | None) -> None:
        """End one request of `user`."""
        if not self.limit:
            return
        count = self._taken[user] - 1
        # Users that have none are forgotten, or their names would pile up.
        if count:
            self._taken[user] = count
        else:
            del self._taken[user]
