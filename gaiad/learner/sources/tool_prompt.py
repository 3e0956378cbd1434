"""The tool selection request, rendered as the runtime sends it, and the answer line it is to get.

Decides the text only: which tools stand in the catalogue and what is asked is the caller's. The wording comes from
the curriculum's `prompt.json`, so an owner whose runtime words it otherwise changes that file and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from gaiad.curriculum import Json
from gaiad.errors import CurriculumError
from gaiad.learner.dataset import REQUEST_MARK, Message

CATALOGUE_MARK = "AVAILABLE TOOLS:"


@dataclass(frozen=True, slots=True)
class Prompt:
    """The wording around catalogue and request."""

    system: str
    role: str
    usage: str
    format: str


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool of the registry; `parameters` is its JSON Schema."""

    name: str
    description: str
    parameters: Mapping[str, Json]

    @property
    def properties(self) -> Mapping[str, Mapping[str, Json]]:
        """The parameters' own schemas by name."""
        return cast("Mapping[str, Mapping[str, Json]]", self.parameters.get("properties", {}))

    def line(self) -> str:
        """The tool as one line of the catalogue: name, parameters ("?" where optional), description."""
        required = cast("list[str]", self.parameters.get("required", []))
        shown = [_parameter(name, schema, name in required) for name, schema in self.properties.items()]
        return f"- {self.name}({', '.join(shown)}): {self.description}"

    def narrowed(self, actions: Sequence[str], names: Sequence[str]) -> Tool:
        """The tool with only these actions and parameters, for a small catalogue."""
        kept: dict[str, Json] = {}
        for name, schema in self.properties.items():
            if name == "action":
                enum = [action for action in cast("list[str]", schema.get("enum", [])) if action in actions]
                kept[name] = {**schema, "enum": [*enum]}
            elif name in names:
                kept[name] = dict(schema)
        return replace(self, parameters={**self.parameters, "properties": kept})


def _parameter(name: str, schema: Mapping[str, Json], required: bool) -> str:
    shown = name if required else f"{name}?"
    if "enum" in schema:
        return f"{shown}: {'|'.join(str(value) for value in cast('list[Json]', schema['enum']))}"
    return shown if schema.get("type") == "string" else f"{shown}: {schema.get('type')}"


def parse_prompt(text: str, style: str) -> Prompt:
    """Read one style of `prompt.json`.

    Raises:
        CurriculumError: where the style or one of its texts is missing.
    """
    try:
        words = json.loads(text)[style]
        return Prompt(*(str(words[key]) for key in ("system", "role", "usage", "format")))
    except (ValueError, KeyError, TypeError) as error:
        raise CurriculumError(
            f"prompt.json has no usable style {style!r}: {error!r}", hint="give it system, role, usage and format"
        ) from error


def parse_tools(text: str) -> tuple[dict[str, Tool], dict[str, Tool]]:
    """Read `tools.json`: the registry's tools and the distractors, each by name in the file's order.

    Raises:
        CurriculumError: where an entry is not an OpenAI-style function, or a name stands twice.
    """
    try:
        document = json.loads(text)
        kinds = [[_tool(entry) for entry in document.get(kind, [])] for kind in ("tools", "distractors")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CurriculumError(
            f"tools.json cannot be read: {error!r}", hint="every entry needs function.name, .description, .parameters"
        ) from error
    names = [tool.name for kind in kinds for tool in kind]
    if len(set(names)) != len(names) or not kinds[0]:
        raise CurriculumError("tools.json is empty or names a tool twice", hint="each tool needs a name of its own")
    return {tool.name: tool for tool in kinds[0]}, {tool.name: tool for tool in kinds[1]}


def _tool(entry: Mapping[str, Mapping[str, Json]]) -> Tool:
    function = entry["function"]
    return Tool(str(function["name"]), str(function["description"]), cast("dict[str, Json]", function["parameters"]))


def request(prompt: Prompt, tools: Sequence[Tool], words: str) -> tuple[Message, ...]:
    """The messages of one tool selection request over `tools`; `words` are the user's own."""
    catalogue = "\n".join([CATALOGUE_MARK, *(tool.line() for tool in tools)])
    parts = [prompt.role, catalogue, prompt.usage, f"{REQUEST_MARK} {words}", prompt.format]
    return (Message("system", prompt.system), Message("user", "\n\n".join(parts)))


def answer(tool: str, params: Mapping[str, Json], reasoning: str, confidence: float) -> Message:
    """The assistant's one line of JSON; `params` travel as a string, as the runtime's schema has it."""
    line = {
        "selected_tool": tool,
        "params": json.dumps(dict(params), ensure_ascii=False, separators=(",", ":")),
        "reasoning": reasoning,
        "confidence": confidence,
    }
    return Message("assistant", json.dumps(line, ensure_ascii=False, separators=(",", ":")))
