"""What replacing secrets costs: texts that were never seen, texts that were, and one exchange as it is recorded.

    python -m bench.redact

Fresh texts are made of words of two kinds: talk, as people do with an assistant, and the documentation of this project,
which speaks of keys, tokens and passwords all the time. Each is looked through once, and once more. What counts is
the time that the thread has a core, so that other work on the machine matters little. The last column says how long the
interpreter's lock was held at most while a fresh text was looked through in another thread, which is how long a reply
may have to wait. No GPU and no other process is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from bench.load.traffic import messages
from gaiad.daemon import SWITCH_INTERVAL_S
from gaiad.redact import Scrubber
from gaiad.redact_file import shipped_rules

ROOT = Path(__file__).resolve().parents[1]
SIZES = ((512, 400), (2048, 400), (8192, 100), (1 << 20, 5))
"""Characters of a text, and how many of them are timed."""
LONG = 1 << 20
EXCHANGES = 400
ASKED, ANSWERED = 1200, 600
BAR_US = 210.0
"""What is left of 300 us for recording a consented exchange, of which 90 us are other things."""

Words = Sequence[str]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `held_ms` where it was looked at."""

    kind: str
    size: str
    fresh_us: float
    again_us: float
    held_ms: float | None = None


def talk() -> Words:
    """Words of the requests that the other benchmarks send."""
    return " ".join(message["content"] for message in messages(1400)).split()


def docs() -> Words:
    """Every word of the documentation once."""
    return sorted(
        {word for path in sorted(ROOT.glob("docs/*.md")) for word in re.findall(r"\S+", path.read_text("utf-8"))}
    )


def text(random: Random, words: Words, size: int) -> str:
    """A text that nobody has seen: words in any order, a number now and then, lines."""
    parts, length = list[str](), 0
    while length < size:
        word = random.choice(words) if random.random() < 0.97 else str(random.randrange(3000))
        parts.append(word + ("\n" if random.random() < 0.03 else " "))
        length += len(parts[-1])
    return "".join(parts)[:size]


def exchange(random: Random, words: Words) -> tuple[object, object]:
    """A chat request and its reply, about 2 KB of JSON."""
    said = text(random, words, ASKED)
    request = {
        "model": "gaia:generation",
        "messages": [{"role": "system", "content": said[:900]}, {"role": "user", "content": said[900:]}],
        "max_tokens": 256,
        "temperature": 0.7,
    }
    message = {"role": "assistant", "content": text(random, words, ANSWERED), "tool_calls": []}
    reply = {
        "id": f"chatcmpl-{random.getrandbits(128):032x}",
        "object": "chat.completion",
        "created": 1_700_000_000 + random.randrange(10**7),
        "model": "gaia:generation",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 300, "completion_tokens": 150, "total_tokens": 450},
    }
    return request, reply


def timed_us(scrubber: Scrubber, values: Sequence[Sequence[object]]) -> float:
    """The median time that a thread spends on one, which may be of several parts."""
    times = []
    for parts in values:
        began = time.thread_time()
        for part in parts:
            scrubber.scrub(part, "c")
        times.append(time.thread_time() - began)
    return statistics.median(times) * 1e6


def held_ms(scrubber: Scrubber, value: object) -> float:
    """How long this thread could not run at most while another scrubbed."""
    thread = threading.Thread(target=scrubber.scrub, args=(value, "c"))
    longest, last = 0.0, time.perf_counter()
    thread.start()
    while thread.is_alive():
        time.sleep(0)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    thread.join()
    return longest * 1e3


def measured(kind: str, size: str, values: Sequence[Sequence[object]], long: str | None = None) -> Row:
    """One line: each value once, and once more; and `long` beside a thread that wants to go on."""
    scrubber = Scrubber(shipped_rules(), b"k" * 32)
    fresh, again = timed_us(scrubber, values), timed_us(scrubber, values)
    return Row(kind, size, fresh, again, None if long is None else held_ms(scrubber, long))


def rows(seed: int) -> list[Row]:
    """The table."""
    found, random = [], Random(seed)
    for kind, words in (("talk", talk()), ("docs", docs())):
        for size, count in SIZES:
            texts = [[text(random, words, size)] for _ in range(count)]
            long = text(random, words, size) if size >= LONG else None
            found.append(measured(kind, f"{size / 1024:g} KB", texts, long))
        found.append(measured(kind, "exchange", [exchange(random, words) for _ in range(EXCHANGES)]))
    return found


def as_table(found: Sequence[Row]) -> str:
    """The table and the bar."""
    device = f"{platform.machine()}, {os.cpu_count()} cores, no GPU, Python {platform.python_version()}"
    lines = [f"{device}; medians of a thread's time", f"{'':16}{'fresh us':>12}{'again us':>12}{'lock held ms':>14}"]
    for row in found:
        held = "-" if row.held_ms is None else f"{row.held_ms:.1f}"
        lines.append(f"{row.kind + ', ' + row.size:16}{row.fresh_us:12,.1f}{row.again_us:12,.1f}{held:>14}")
    cost = next(row.fresh_us for row in found if (row.kind, row.size) == ("talk", "exchange"))
    lines.append(f"an exchange of talk: {cost:.0f} us; bar {BAR_US:.0f} us: {'holds' if cost <= BAR_US else 'missed'}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7, help="of the texts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    # As the daemon has it, so that whoever waits for the lock is not kept waiting by Python itself.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    found = rows(options.seed)
    print(json.dumps([asdict(row) for row in found]) if options.json else as_table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
