"""What can go wrong, and what is merely refused.

A failure is an exception with a hint that says what to try. A refusal is a value: a normal result of a
decision. Nothing here formats for a protocol; the proxy and the command line each do that themselves.
"""

from __future__ import annotations

from dataclasses import dataclass


class GaiadError(Exception):
    """A failure with one sentence of what happened and one of what to try."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(GaiadError):
    """The settings file cannot be used."""


class CurriculumError(GaiadError):
    """A curriculum spec or its shipped material cannot be used."""


class DatasetError(GaiadError):
    """A dataset could not be built or would not be trustworthy."""


class StoreError(GaiadError):
    """The database could not be opened, locked, migrated or written.

    `passes`: its server is away or busy, so that what is to be written may wait until that is over.
    """

    def __init__(self, message: str, *, hint: str, passes: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.passes = passes


class EngineError(GaiadError):
    """The serving engine could not be started, reached or told something."""


class TrainingError(GaiadError):
    """A run ended without a usable adapter.

    `of_data`: it says something about what was to be learnt, so that the same dataset would break it again.
    """

    def __init__(self, message: str, *, hint: str, of_data: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.of_data = of_data


class AdapterError(GaiadError):
    """An adapter directory or version cannot be used."""


class ControlError(GaiadError):
    """The control socket could not be served or reached."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """A final no: `reason` is one sentence, `hint` says what to try."""

    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class NotYet:
    """A no that time may change: `reason` is one sentence for the status page."""

    reason: str
