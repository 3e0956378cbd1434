"""A way's side of the conversation with `bench.train`: waits to be told how many steps to run, says how long they took.

Whoever trains calls `stepped` after each step; between windows the process stands still, so that ways take turns.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import TextIO


class Pace:
    """Lines in from stdin (`run N`, `end`), lines of JSON out; everything else that is printed goes to stderr."""

    def __init__(self, told: TextIO, out: TextIO) -> None:
        self._told = told
        self._out = out
        self._left = 0
        self._began = 0.0
        self._tokens = 0
        self._computed = 0
        self.steps = 0

    @classmethod
    def claimed(cls) -> Pace:
        """Take stdout away from the libraries."""
        out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        return cls(sys.stdin, out)

    def say(self, **told: object) -> None:
        """One line out."""
        self._out.write(json.dumps(told) + "\n")
        self._out.flush()

    def job(self) -> Mapping[str, object]:
        """The first line in."""
        read = json.loads(self._told.readline())
        assert isinstance(read, dict)
        return read

    def wait(self) -> bool:
        """Stand still until steps are wanted; False where no more are."""
        word, _, count = self._told.readline().strip().partition(" ")
        if word != "run":
            return False
        self._left, self._tokens, self._computed, self._began = int(count), 0, 0, time.monotonic()
        return True

    def stepped(self, tokens: int, computed: int) -> bool:
        """Count a step, report at a window's end and wait there; False where no more steps are wanted."""
        self.steps += 1
        self._left -= 1
        self._tokens += tokens
        self._computed += computed
        if self._left:
            return True
        seconds = time.monotonic() - self._began
        self.say(seconds=seconds, tokens=self._tokens, computed_tokens=self._computed)
        return self.wait()
