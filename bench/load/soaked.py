"""What a soak left behind, and whether that is what may be left. Pure: sends, samples and reads nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass

GROWTH_MB = 10.0
FILES_GROWTH = 8
"""The store may open another connection to its file; each one that leaks with a client makes hundreds."""

SHARE_BROKEN_OFF = 0.5
"""At least this much of what was to be broken off is, and is recorded so: the last of a stream may be out already."""

_LINE_WIDTH = 30


@dataclass(frozen=True, slots=True)
class Sample:
    """The daemon at rest after `requests`. `connections` are those that the engine has open."""

    requests: int
    rss_mb: float
    allocated_mb: float
    open_files: int
    connections: int

    @property
    def other_files(self) -> int:
        """Open files besides the pool of connections to the engine, which is judged for itself."""
        return self.open_files - self.connections


@dataclass(frozen=True, slots=True)
class Sent:
    """What the clients did and saw.

    `granted` are the requests of the user who granted everything, `unsent` those that were broken off before their
    last byte was written.
    """

    clients: int
    abort_percent: int
    begun: int
    granted: int
    done: int
    streams_done: int
    aborted: int
    unsent: int
    failed: int
    first_failure: str
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Kept:
    """What the daemon tells of itself once all is quiet, and what stands in its database file.

    `with_content` are the records that say what was said, `torn` those of them that are complete without the engine's
    whole reply, or say of a part that it is the whole.
    """

    active: int
    held: int
    waiting: int
    dropped: int
    failed: int
    rows: int
    complete: int
    with_content: int
    torn: int


@dataclass(frozen=True, slots=True)
class Bar:
    """One thing that must hold: what was found is at most the limit."""

    title: str
    found: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether it does."""
        return self.found <= self.limit

    def line(self) -> str:
        """One line for people."""
        return f"{self.title:58}{self.found:10,.4g}, at most {self.limit:,.4g}{'' if self.holds else '  MISSED'}"


@dataclass(frozen=True, slots=True)
class Soak:
    """A whole soak: the daemon before any traffic, after the warm-up, and after each slice from there on."""

    untouched: Sample
    warm: Sample
    after: tuple[Sample, ...]
    sent: Sent
    kept: Kept

    @property
    def growth_mb(self) -> float:
        """How far memory was above that after the warm-up, at its highest: RSS or what is allocated."""
        rss = max(sample.rss_mb for sample in self.after) - self.warm.rss_mb
        return max(rss, max(sample.allocated_mb for sample in self.after) - self.warm.allocated_mb)

    def bars(self) -> list[Bar]:
        """Everything that must hold, in the order in which it is told."""
        return [*_bars_of_size(self), *_bars_of_records(self.sent, self.kept)]

    @property
    def holds(self) -> bool:
        """Whether all of it does."""
        return all(bar.holds for bar in self.bars())


def _bars_of_size(soak: Soak) -> list[Bar]:
    """Memory, files, connections and leases."""
    # One that is broken off may still be closing while its client asks anew.
    room = soak.sent.clients + (soak.sent.clients + 1) // 2
    files = max(sample.other_files for sample in soak.after) - soak.warm.other_files
    connections = max(sample.connections for sample in soak.after)
    return [
        Bar("memory's growth after the warm-up, MB", soak.growth_mb, GROWTH_MB),
        Bar("open files besides connections to the engine, growth", files, FILES_GROWTH),
        Bar("connections to the engine, 3 for 2 clients", connections, room),
        Bar("leases still out", soak.kept.active, 0),
        Bar("requests still held", soak.kept.held, 0),
    ]


def _bars_of_records(sent: Sent, kept: Kept) -> list[Bar]:
    """Who was answered, and what was written down of it."""
    planned = sent.begun * sent.abort_percent / 100
    missing = max(sent.begun - sent.unsent - kept.rows, kept.rows - sent.begun, 0)
    content = max(sent.granted - sent.unsent - kept.with_content, kept.with_content - sent.granted, 0)
    told = "requests that failed" + (f" ({sent.first_failure})" if sent.failed else "")
    return [
        Bar(told, sent.failed, 0),
        Bar("too few broken off, by", max(0.0, planned * SHARE_BROKEN_OFF - sent.aborted), 0),
        Bar("records dropped", kept.dropped, 0),
        Bar("records that could not be written", kept.failed + kept.waiting, 0),
        Bar("requests without a record, or with two", missing, 0),
        Bar("answered, but not recorded as complete", max(0, sent.done - kept.complete), 0),
        Bar("broken off, but recorded as complete", kept.complete - sent.done, sent.aborted * (1 - SHARE_BROKEN_OFF)),
        Bar("records without granted content, or with any other", content, 0),
        Bar("records with half a reply", kept.torn, 0),
    ]


def table(soak: Soak) -> list[str]:
    """The table's lines: a row a sample, with memory's growth drawn towards its bar; then what must hold."""
    sent, kept = soak.sent, soak.kept
    plain = sent.done - sent.streams_done
    lines = [
        f"{sent.begun:,} requests in {sent.elapsed_s:.0f} s, {sent.begun / sent.elapsed_s:,.0f}/s: {plain:,} answered "
        f"plain and {sent.streams_done:,} streamed, {sent.aborted:,} broken off by their client",
        f"{kept.rows:,} records, {kept.complete:,} of them complete, {kept.with_content:,} with their content",
        "",
        f"{'requests':>12}{'RSS MB':>9}{'allocated':>11}{'files':>7}{'to engine':>11}",
        _row(soak.untouched, "  before any request"),
        _row(soak.warm, f"  warm; from here to | {GROWTH_MB:g} MB more"),
        *(_row(sample, f"  {_drawn(sample.allocated_mb - soak.warm.allocated_mb)}") for sample in soak.after),
        "",
    ]
    return lines + [bar.line() for bar in soak.bars()]


def _row(sample: Sample, told: str) -> str:
    sizes = f"{sample.requests:12,}{sample.rss_mb:9.1f}{sample.allocated_mb:11.1f}"
    return f"{sizes}{sample.open_files:7}{sample.connections:11}{told}"


def _drawn(growth_mb: float) -> str:
    """Growth as a line towards the bar."""
    length = round(max(0.0, growth_mb) / GROWTH_MB * _LINE_WIDTH)
    if length > _LINE_WIDTH:
        return "#" * _LINE_WIDTH + "|>"
    return "#" * length + " " * (_LINE_WIDTH - length) + "|"


def as_json(soak: Soak) -> dict[str, object]:
    """All of it for machines."""
    bars = [{"bar": bar.title, "found": bar.found, "limit": bar.limit, "holds": bar.holds} for bar in soak.bars()]
    return {**asdict(soak), "growth_mb": soak.growth_mb, "bars": bars, "holds": soak.holds}
