"""What all tests share: no test reaches a real model hub, and where it counts the same cases are tried each time.

A test that takes `store_at` is run over each kind of database.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from gaiad.config import StoreConfig
from tests.postgres_server import PostgresServer, missing

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

# Chance looks for new cases at a developer's desk; a gate that another change must pass may not throw dice.
settings.register_profile("same", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("same")

# A script that runs tests in its background has them ignore Ctrl-C, and so would every child that they interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The collector looks through what is new after each 700 objects, which is a tenth of the unit tests' time.
gc.set_threshold(20_000, 20, 50)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One real server for all tests, each of which has a database of its own on it."""
    lacking = missing()
    if lacking:
        pytest.skip(f"PostgreSQL: {lacking}")
    server = PostgresServer()
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def store_at(request: pytest.FixtureRequest) -> Iterator[StoreConfig]:
    """Where a test keeps its exchanges: a file, or a fresh database on the server."""
    if request.param == "sqlite":
        yield StoreConfig()
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    with server.database() as url:
        yield StoreConfig(url=url)


@pytest.fixture
def on_disk(request: pytest.FixtureRequest, tmp_path: Path, store_at: StoreConfig) -> Callable[[], bytes]:
    """All bytes that the database has in the files of its tables."""
    if store_at.url:
        server: PostgresServer = request.getfixturevalue("postgres")
        return lambda: server.files(store_at.url)
    return lambda: b"".join(path.read_bytes() for path in tmp_path.rglob("gaiad.db*"))
