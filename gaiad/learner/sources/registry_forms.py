"""Tool registries of other projects, read into tools: three forms, and what is wrong with an entry by its name.

Known are a list of tools as chat interfaces take them (bare, or under the key `tools`), a map of names to JSON Schemas,
and a map of names to a description and `params`. An entry that cannot be used is left out with its reason; the rest
goes on. Takes text and reads no file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from gaiad.curriculum import Json
from gaiad.errors import CurriculumError
from gaiad.learner.sources.schema_faults import names_some_keyword, schema_fault
from gaiad.learner.sources.tool_prompt import Tool

LONGEST_TEXT = 4 << 20
"""Characters (or bytes) of a registry: thousands of tools; what is longer is no registry."""
MOST_TOOLS = 2000
_LONGEST_NAME, _LONGEST_DESCRIPTION = 64, 4000
_NAME = re.compile(r"[\w.:/-]+")
_SCHEMAS = ("parameters", "params", "input_schema", "inputSchema", "schema")
_HINT = "a list of tools, a map of names to JSON Schemas, or a map of names to description and params"


@dataclass(frozen=True, slots=True)
class Unusable:
    """An entry that was left out: its name, or its place where it has none, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Read:
    """A registry's usable tools in its own order, and what was left out."""

    tools: tuple[Tool, ...]
    unusable: tuple[Unusable, ...]


class _Once(dict[str, Json]):
    """A JSON object that keeps the first of two equal keys and remembers the second."""

    def __init__(self, pairs: Iterable[tuple[str, Json]]) -> None:
        super().__init__()
        self.twice: list[str] = []
        for key, value in pairs:
            if key in self:
                self.twice.append(key)
            else:
                self[key] = value


def read_registry(text: str, origin: str) -> Read:
    """Read a registry of any known form; `origin` names it in what is raised.

    Raises:
        CurriculumError: where it is no registry, is empty, or none of its tools can be used.
    """
    if len(text) > LONGEST_TEXT:
        raise CurriculumError(
            f"{origin} has {len(text)} characters, a registry {LONGEST_TEXT} at most", hint="name a registry of tools"
        )
    try:
        document = json.loads(text, object_pairs_hook=_Once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise CurriculumError(f"{origin} is not usable JSON: {error}", hint="mend the place it names") from error
    entries = list(_entries(document, origin))
    if not entries:
        raise CurriculumError(f"{origin} holds no tools", hint=_HINT)
    if len(entries) > MOST_TOOLS:
        raise CurriculumError(f"{origin} has {len(entries)} tools, {MOST_TOOLS} at most", hint="name fewer of them")
    return _sifted(entries, origin)


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is no JSON value")


def _sifted(entries: Iterable[tuple[str, Json, str]], origin: str) -> Read:
    tools: dict[str, Tool] = {}
    unusable = []
    for name, entry, twice in entries:
        found = twice or _tool(name, entry)
        if isinstance(found, Tool) and found.name in tools:
            found = "named twice; the first one is taken"
        if isinstance(found, Tool):
            tools[found.name] = found
        else:
            unusable.append(Unusable(name[:_LONGEST_NAME], found))
    if not tools:
        first = unusable[0]
        raise CurriculumError(
            f"none of the {len(unusable)} tools of {origin} can be used; {first.name}: {first.reason}", hint=_HINT
        )
    return Read(tuple(tools.values()), tuple(unusable))


def _entries(document: Json, origin: str) -> Iterator[tuple[str, Json, str]]:
    """Each entry with its name and, where its name stands twice in one object, the reason against it."""
    if isinstance(document, dict) and isinstance(document.get("tools"), list):
        document = document["tools"]
    if isinstance(document, list):
        for place, entry in enumerate(document):
            inner = entry.get("function", entry) if isinstance(entry, dict) else None
            name = inner.get("name") if isinstance(inner, dict) else None
            yield name if isinstance(name, str) else f"entry {place}", inner, "" if isinstance(name, str) else "no name"
    elif isinstance(document, _Once):
        yield from ((name, entry, "") for name, entry in document.items())
        yield from ((name, None, "named twice; the first one is taken") for name in document.twice)
    else:
        raise CurriculumError(f"{origin} is no registry of tools: {type(document).__name__}", hint=_HINT)


def _tool(name: str, entry: Json) -> Tool | str:
    """The tool, or why it cannot be used."""
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        return f"a name must be letters, digits and . _ : / -, {_LONGEST_NAME} at most"
    if not isinstance(entry, dict):
        return f"no tool but {_kind(entry)}"
    described = entry.get("description", "")
    if not isinstance(described, str):
        return f"the description is no text but {_kind(described)}"
    if len(described) > _LONGEST_DESCRIPTION:
        return f"a description of {len(described)} characters is too long"
    key = next((key for key in _SCHEMAS if key in entry), None)
    # 1. A map of names to JSON Schemas: the entry is itself the schema. 2. Else it holds one, or takes no parameters.
    if key is None and any(word in entry for word in ("type", "properties", "$ref", "anyOf", "oneOf", "allOf")):
        schema: Json = {word: value for word, value in entry.items() if word not in ("description", "name", "title")}
    else:
        schema = entry[key] if key is not None else {}
    fault = _plain_map(schema) or schema_fault(schema)
    if fault:
        return fault
    return Tool(name, " ".join(described.split()), cast("Mapping[str, Json]", _plain(schema)))


def _plain_map(schema: Json) -> str | None:
    if isinstance(schema, dict) and not names_some_keyword(schema):
        return f"{', '.join([*schema][:3])} stand where a JSON Schema was expected: put them under properties"
    return None


def _plain(value: Json) -> Json:
    """The same without the marks of reading, so that it is compared and written like any other."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _kind(value: Json) -> str:
    kinds = {"NoneType": "nothing", "bool": "a yes or no", "int": "a number", "float": "a number", "list": "a list"}
    return kinds.get(type(value).__name__, "an object" if isinstance(value, dict) else "a text")
