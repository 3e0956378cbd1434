"""Adapter versions: their stage, their lineage, and the snapshot that routing relies on.

The file says what a version is; the engine says what is loaded (`mark_loaded`); together they are the snapshot. Every
change of stage is one transaction with one line of history. It decides nothing: the learner's loop is the only
writer, and says why.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gaiad import tables
from gaiad.adapter import AdapterName, RegistrySnapshot, VersionName, VersionStage, version_parts
from gaiad.curriculum import Json
from gaiad.db import Database
from gaiad.erasure import exchange_ids_of, stained
from gaiad.errors import AdapterError

FALLEN = frozenset({VersionStage.REJECTED, VersionStage.ROLLED_BACK, VersionStage.QUARANTINED})
"""Stages of versions that never serve."""

_SERVABLE = frozenset({VersionStage.ACTIVE, VersionStage.CANARY, VersionStage.RETIRED})
_EVENTS_IN_MEMORY = 1000


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One version. `reason` belongs to its present stage; `last_event` orders changes of stage, whatever the clock."""

    version: VersionName
    adapter: AdapterName
    number: int
    path: Path
    sha256: str
    stage: VersionStage
    reason: str
    lineage: Mapping[str, Json]
    report: Mapping[str, Json] | None
    created_at: float
    changed_at: float
    last_event: int

    def to_json(self) -> dict[str, Json]:
        """The row as the control socket shows it."""
        return {
            "version": self.version,
            "adapter": self.adapter,
            "number": self.number,
            "path": str(self.path),
            "sha256": self.sha256,
            "stage": self.stage.value,
            "reason": self.reason,
            "lineage": dict(self.lineage),
            "report": None if self.report is None else dict(self.report),
            "created_at": self.created_at,
            "changed_at": self.changed_at,
        }


@dataclass(frozen=True, slots=True)
class RegistryEvent:
    """One line of history: `what` is `added`, `base` (nothing serves any more) or the stage that was entered."""

    id: int
    at: float
    adapter: AdapterName
    version: VersionName | None
    what: str
    reason: str

    def to_json(self) -> dict[str, Json]:
        """The event as the control socket shows it."""
        return {
            "at": self.at,
            "adapter": self.adapter,
            "version": self.version,
            "what": self.what,
            "reason": self.reason,
        }


class Registry:
    """The versions of all adapters. `load` once; reads are from memory, writes are durable when they return."""

    def __init__(self, db: Database, *, adapters: Iterable[AdapterName] = ()) -> None:
        self._db = db
        self._named = frozenset(adapters)
        self._rows: Mapping[VersionName, VersionRow] = {}
        self._events: tuple[RegistryEvent, ...] = ()
        self._loaded: frozenset[VersionName] = frozenset()
        self._snapshot = RegistrySnapshot(adapters=self._named)

    async def load(self) -> None:
        """Read everything from the database."""
        async with self._db.read() as connection:
            self._publish(await _rows(connection), await _events(connection))

    @property
    def snapshot(self) -> RegistrySnapshot:
        """What a request may rely on; replaced whole at every change, never altered."""
        return self._snapshot

    @property
    def loaded(self) -> frozenset[VersionName]:
        """What the engine has, as last told by `mark_loaded`."""
        return self._loaded

    @property
    def active(self) -> Mapping[AdapterName, VersionName]:
        """What each alias should serve, loaded or not."""
        return {row.adapter: row.version for row in self._rows.values() if row.stage is VersionStage.ACTIVE}

    @property
    def active_not_loaded(self) -> Mapping[AdapterName, VersionName]:
        """Active versions that the engine does not have: their aliases serve nothing now."""
        return {adapter: version for adapter, version in self.active.items() if version not in self._loaded}

    def know_adapters(self, adapters: Iterable[AdapterName]) -> None:
        """Add names that an alias may have before it has any version (stages, curricula)."""
        self._named |= frozenset(adapters)
        self._rebuild()

    def mark_loaded(self, versions: frozenset[VersionName]) -> None:
        """Take over what the engine has now."""
        self._loaded = versions
        self._rebuild()

    def version(self, version: VersionName) -> VersionRow | None:
        """One version, or None."""
        return self._rows.get(version)

    def versions(self, adapter: AdapterName | None = None) -> list[VersionRow]:
        """All versions, of one adapter where named, by adapter and number."""
        rows = [row for row in self._rows.values() if adapter is None or row.adapter == adapter]
        return sorted(rows, key=lambda row: (row.adapter, row.number))

    def stained(self, exchange_ids: Iterable[str]) -> list[VersionRow]:
        """The versions that learned from one of these exchanges, and what was imported with the weights of one."""
        rows = self.versions()
        learned = frozenset(stained({row.version: row.lineage for row in rows}, exchange_ids))
        weights = {row.sha256 for row in rows if row.version in learned}
        return [row for row in rows if row.version in learned or (_is_imported(row) and row.sha256 in weights)]

    async def erased_with(self, sha256: str) -> VersionName | None:
        """The version with these weights that learned from what was erased since, if there is one."""
        twins = [row for row in self.versions() if row.sha256 == sha256 and row.stage is VersionStage.QUARANTINED]
        async with self._db.read() as connection:
            reports = (await connection.execute(sa.select(tables.erasures.c.report))).scalars().all() if twins else []
        gone = {one for report in reports for one in exchange_ids_of(json.loads(report))}
        return next((row.version for row in twins if not gone.isdisjoint(exchange_ids_of(row.lineage))), None)

    def events(self, limit: int = 50) -> list[RegistryEvent]:
        """The newest decisions, newest first."""
        return list(self._events[: max(limit, 0)])

    def wanted(self) -> list[VersionRow]:
        """What the engine should have after a restart: active versions first, then those a rollback flips to."""
        active = [row for row in self.versions() if row.stage is VersionStage.ACTIVE]
        previous = [row for adapter in _adapters(self._rows) if (row := _previous(self._rows, adapter)) is not None]
        return [*active, *previous]

    async def next_number(self, adapter: AdapterName) -> int:
        """The number that the next version of `adapter` gets; none is ever used twice."""
        return 1 + max((row.number for row in self.versions(adapter)), default=0)

    async def add(
        self,
        version: VersionName,
        path: Path,
        sha256: str,
        lineage: Mapping[str, Json],
        stage: VersionStage = VersionStage.CANDIDATE,
        *,
        at: float,
        reason: str = "published",
    ) -> None:
        """Enter a published version.

        Raises:
            AdapterError: the name is not a version's, or is taken, or its number is; or `stage` is active.
        """
        parts = version_parts(version)
        if parts is None or stage is VersionStage.ACTIVE:
            raise AdapterError(f"{version!r} cannot be entered as {stage}", hint="enter it as candidate, then activate")
        async with self._db.write() as connection:
            rows = await _rows(connection)
            for row in rows.values():
                if row.version == version or (row.adapter, row.number) == (parts.adapter, parts.number):
                    # It may have been added by a commit of which the answer was lost: the next number is another one.
                    self._publish(rows, await _events(connection))
                    raise AdapterError(f"{row.version} is already there", hint="take the next number for a new version")
            event = await _append_event(connection, at, parts.adapter, version, "added", reason)
            values = {"version": version, "adapter": parts.adapter, "number": parts.number, "path": str(path)}
            values |= {"sha256": sha256, "lineage": json.dumps(lineage), "stage": stage.value, "reason": reason}
            values |= {"created_at": at, "changed_at": at, "last_event": event}
            await connection.execute(sa.insert(tables.adapter_versions).values(values))
            fresh = await _rows(connection), await _events(connection)
        self._publish(*fresh)

    async def set_stage(
        self,
        version: VersionName,
        stage: VersionStage,
        reason: str,
        at: float,
        report: Mapping[str, Json] | None = None,
    ) -> None:
        """Move a version to another stage, keeping its report; becoming active goes through `activate`.

        Raises:
            AdapterError: no such version; or `stage` is active; or it is retired, which only follows active.
        """
        if stage is VersionStage.ACTIVE:
            raise AdapterError(f"{version} cannot become active by set_stage", hint="activate it")
        async with self._db.write() as connection:
            row = _known(await _rows(connection), version)
            # A retired version is what a rollback flips to, so it must have proved itself.
            if stage is VersionStage.RETIRED and row.stage is not VersionStage.ACTIVE:
                raise AdapterError(f"{version} is {row.stage} and cannot retire", hint="reject it instead")
            await _enter(connection, row, stage, reason, at, report)
            fresh = await _rows(connection), await _events(connection)
        self._publish(*fresh)

    async def activate(
        self, version: VersionName, reason: str, at: float, *, override: bool = False
    ) -> VersionName | None:
        """Flip the alias to `version`; the one that was active is retired, and returned.

        Raises:
            AdapterError: no such version; or it fell once (`override` allows that, except for a quarantined one).
        """
        async with self._db.write() as connection:
            rows = await _rows(connection)
            row = _known(rows, version)
            if row.stage is VersionStage.QUARANTINED or (row.stage in FALLEN and not override):
                raise AdapterError(f"{version} is {row.stage}: {row.reason}", hint="activate another version")
            old = _active(rows, row.adapter)
            if old is not None and old.version != version:
                await _enter(connection, old, VersionStage.RETIRED, f"{version} became active", at)
            if old is None or old.version != version:
                await _enter(connection, row, VersionStage.ACTIVE, reason, at)
            fresh = await _rows(connection), await _events(connection)
        self._publish(*fresh)
        return None if old is None or old.version == version else old.version

    async def rollback(
        self, adapter: AdapterName, reason: str, at: float, to_stage: VersionStage = VersionStage.ROLLED_BACK
    ) -> VersionName | None:
        """Flip the alias to the newest former version that is still good, or to none, and return that.

        Raises:
            AdapterError: no version of `adapter` is active, or `to_stage` is no end of one.
        """
        if to_stage not in {*FALLEN, VersionStage.RETIRED}:
            raise AdapterError(f"a rolled back version cannot become {to_stage}", hint="use rolled_back")
        async with self._db.write() as connection:
            rows = await _rows(connection)
            old, new = _active(rows, adapter), _previous(rows, adapter)
            if old is None:
                raise AdapterError(f"{adapter} has no active version", hint="there is nothing to roll back")
            await _enter(connection, old, to_stage, reason, at)
            if new is None:
                await _append_event(connection, at, adapter, None, "base", reason)
            else:
                await _enter(connection, new, VersionStage.ACTIVE, f"rolled back to: {reason}", at)
            fresh = await _rows(connection), await _events(connection)
        self._publish(*fresh)
        return None if new is None else new.version

    def _publish(self, rows: Mapping[VersionName, VersionRow], events: tuple[RegistryEvent, ...]) -> None:
        # Of two changes that end together, the one that saw the longer history is the newer.
        if self._events and (not events or events[0].id < self._events[0].id):
            return
        self._rows, self._events = rows, events
        self._rebuild()

    def _rebuild(self) -> None:
        adapters = _adapters(self._rows)
        previous = {name: row.version for name in adapters if (row := _previous(self._rows, name)) is not None}
        servable = frozenset(row.version for row in self._rows.values() if row.stage in _SERVABLE)
        self._snapshot = RegistrySnapshot(
            adapters=self._named | frozenset(adapters),
            active={name: version for name, version in self.active.items() if version in self._loaded},
            previous=previous,
            servable=servable & self._loaded,
            active_unloaded=self.active_not_loaded,
            servable_unloaded=servable - self._loaded,
        )


def _is_imported(row: VersionRow) -> bool:
    return row.lineage.get("kind") == "import"


def _adapters(rows: Mapping[VersionName, VersionRow]) -> list[AdapterName]:
    return sorted({row.adapter for row in rows.values()})


def _active(rows: Mapping[VersionName, VersionRow], adapter: AdapterName) -> VersionRow | None:
    return next((row for row in rows.values() if row.adapter == adapter and row.stage is VersionStage.ACTIVE), None)


def _previous(rows: Mapping[VersionName, VersionRow], adapter: AdapterName) -> VersionRow | None:
    """Of the versions that served once and never fell, the one that retired last."""
    retired = [row for row in rows.values() if row.adapter == adapter and row.stage is VersionStage.RETIRED]
    return max(retired, key=lambda row: row.last_event, default=None)


def _known(rows: Mapping[VersionName, VersionRow], version: VersionName) -> VersionRow:
    if version not in rows:
        raise AdapterError(f"there is no version {version}", hint="see `gaiadctl adapters list`")
    return rows[version]


async def _enter(
    connection: AsyncConnection,
    row: VersionRow,
    stage: VersionStage,
    reason: str,
    at: float,
    report: Mapping[str, Json] | None = None,
) -> None:
    event = await _append_event(connection, at, row.adapter, row.version, stage.value, reason)
    values: dict[str, object] = {"stage": stage.value, "reason": reason, "changed_at": at, "last_event": event}
    if report is not None:
        values["report"] = json.dumps(report)
    versions = tables.adapter_versions
    await connection.execute(sa.update(versions).where(versions.c.version == row.version).values(values))


async def _append_event(
    connection: AsyncConnection, at: float, adapter: AdapterName, version: VersionName | None, what: str, reason: str
) -> int:
    values = {"at": at, "adapter": adapter, "version": version, "what": what, "reason": reason}
    query = sa.insert(tables.adapter_events).values(values).returning(tables.adapter_events.c.id)
    return int((await connection.execute(query)).scalar_one())


async def _rows(connection: AsyncConnection) -> dict[VersionName, VersionRow]:
    found = (await connection.execute(sa.select(tables.adapter_versions))).mappings().all()
    return {
        row["version"]: VersionRow(
            **{
                **row,
                "path": Path(row["path"]),
                "stage": VersionStage(row["stage"]),
                "lineage": json.loads(row["lineage"]),
                "report": None if row["report"] is None else json.loads(row["report"]),
            }
        )
        for row in found
    }


async def _events(connection: AsyncConnection) -> tuple[RegistryEvent, ...]:
    events = tables.adapter_events
    query = sa.select(events).order_by(events.c.id.desc()).limit(_EVENTS_IN_MEMORY)
    return tuple(RegistryEvent(**row) for row in (await connection.execute(query)).mappings())
