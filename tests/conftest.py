"""What all tests share: no test reaches a real model hub, and where it counts the same cases are tried each time."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

# Chance looks for new cases at a developer's desk; a gate that another change must pass may not throw dice.
settings.register_profile("same", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("same")
