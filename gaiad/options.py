"""What the owner may have done to the requests of a stage; all of it is off unless set.

A noun: `config` parses it, `proxy.options` does it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StageOptions:
    """`[proxy.options.STAGE]`. `max_tokens` 0 and a `temperature` below 0 bound nothing."""

    prelude_file: str = ""
    fence_json: bool = False
    max_tokens: int = 0
    temperature: float = -1.0

    def problems(self, name: str) -> list[str]:
        """What is wrong with the values, each with its key."""
        found = []
        if self.max_tokens < 0:
            found.append(f"{name}.max_tokens = {self.max_tokens} must not be below 0")
        if not math.isfinite(self.temperature):
            found.append(f"{name}.temperature = {self.temperature} must be a finite number")
        return found
