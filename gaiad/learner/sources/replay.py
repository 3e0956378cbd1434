"""The source `replay`: general requests with short, right answers, so that an adapter forgets no skill of its base.

Reads JSON lines of skill, request and answer: `replay/general.jsonl` beside the curricula's folders, which comes with
gaiad, or the file that the option `file` names within the curriculum's folder. Option `skills` names the skills to
take; all where absent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from gaiad.curriculum import Json, SourceSpec
from gaiad.errors import CurriculumError
from gaiad.learner.example import Example, Message
from gaiad.learner.sources.source import Gathered, Ground, Refused

KIND = "replay"

_OPTIONS = {"skills", "file"}
_KEYS = {"skill", "request", "answer"}
_MOST_BYTES = 8 * 1024 * 1024
_CHARACTERS_A_TOKEN, _MARGIN = 3.2, 0.9
