"""The gate: order, limits, leases, and nobody forgotten."""

from __future__ import annotations

import asyncio

from gaiad.adapter import VersionName
from gaiad.errors import Refuse
from gaiad.gpu.admission import Gate, Lease

VERSION = VersionName("json-architect@v1-0123abcd")
OTHER = VersionName("json-architect@v2-0123abcd")


def gate(max_held: int = 4) -> tuple[Gate, list[str]]:
    users: list[str] = []
    return Gate(max_held, lambda: users.append("user")), users


async def enter(door: Gate, *, is_user: bool = False, timeout_s: float = 5) -> Lease:
    lease = await door.admit(is_user=is_user, timeout_s=timeout_s)
    assert isinstance(lease, Lease)
    return lease


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_open_gate_lets_in_at_once_and_tells_nobody_about_the_user() -> None:
    door, users = gate()
    door.open()
    lease = await enter(door, is_user=True)
    assert (door.active, users) == (1, [])
    lease.release()
    lease.release()
    assert door.active == 0
    assert door.last_user_end is not None


async def test_closed_gate_holds_in_order_and_announces_each_user() -> None:
    door, users = gate()
    served: list[int] = []

    async def ask(number: int) -> None:
        lease = await enter(door, is_user=number % 2 == 0)
        served.append(number)
        lease.release()

    asked = [asyncio.ensure_future(ask(number)) for number in range(4)]
    await settle()
    assert (door.held, served, users) == (4, [], ["user", "user"])
    door.open()
    await asyncio.gather(*asked)
    assert served == [0, 1, 2, 3]


async def test_request_given_up_while_waiting_leaves_the_line_and_no_lease() -> None:
    door, _ = gate()
    asked = asyncio.ensure_future(door.admit(is_user=False, timeout_s=5))
    await settle()
    asked.cancel()
    await asyncio.wait([asked])
    assert door.held == 0
    door.open()
    assert door.active == 0


async def test_lease_granted_in_the_moment_the_caller_goes_is_given_back() -> None:
    door, _ = gate()
    asked = asyncio.ensure_future(door.admit(is_user=False, timeout_s=5))
    await settle()
    door.open()
    asked.cancel()
    await asyncio.wait([asked])
    assert door.active == 0


async def test_wait_that_is_too_long_and_a_line_that_is_full_are_refusals() -> None:
    door, _ = gate(max_held=1)
    asked = asyncio.ensure_future(door.admit(is_user=False, timeout_s=0.05))
    await settle()
    assert isinstance(await door.admit(is_user=False, timeout_s=5), Refuse)
    late = await asked
    assert isinstance(late, Refuse)
    assert "0.05 s" in late.reason
    assert door.held == 0


async def test_refused_gate_answers_all_at_once_until_it_opens() -> None:
    door, _ = gate()
    asked = asyncio.ensure_future(door.admit(is_user=False, timeout_s=5))
    await settle()
    door.refuse(Refuse("no engine"))
    assert await asked == Refuse("no engine")
    assert await door.admit(is_user=True, timeout_s=5) == Refuse("no engine")
    door.open()
    assert (await enter(door)).is_user is False


async def test_versions_are_counted_from_pin_to_release() -> None:
    door, _ = gate()
    door.open()
    first, second = await enter(door), await enter(door)
    first.pin(VERSION)
    second.pin(VERSION)
    second.pin(OTHER)
    assert (door.leases(VERSION), door.leases(OTHER)) == (1, 1)
    first.release()
    second.release()
    first.pin(VERSION)
    assert (door.leases(VERSION), door.leases(OTHER)) == (0, 0)


async def test_idle_means_no_lease_and_quiet_means_no_user_for_a_while() -> None:
    door, _ = gate()
    door.open()
    user, observer = await enter(door, is_user=True), await enter(door)
    idle = asyncio.ensure_future(door.until_idle())
    quiet = asyncio.ensure_future(door.until_quiet(0.05))
    await settle()
    user.release()
    await settle()
    assert not idle.done()
    assert not quiet.done()
    await quiet
    observer.release()
    await idle
