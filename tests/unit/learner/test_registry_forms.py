"""Claims about registries of other projects: which forms are read, and that what cannot be used is named."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gaiad.errors import CurriculumError
from gaiad.learner.sources.registry_files import registry_text
from gaiad.learner.sources.registry_forms import LONGEST_TEXT, read_registry
from tests.fakes.tools_of_a_runtime import TOOLS

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
FINE: dict[str, Any] = {"fine": {"description": "Read a file.", "params": SCHEMA}}


@pytest.mark.parametrize(
    "document",
    [
        [{"type": "function", "function": {"name": "look", "description": "Look.", "parameters": SCHEMA}}],
        [{"name": "look", "description": "Look.", "parameters": SCHEMA}],
        {"tools": [{"name": "look", "description": "Look.", "inputSchema": SCHEMA}]},
        {"look": {"description": "Look.", "params": SCHEMA}},
        {"look": {"description": "Look.", **SCHEMA}},
    ],
)
def test_every_known_form_gives_the_same_tool(document: Any) -> None:
    read = read_registry(json.dumps(document), "here")
    assert [(tool.name, tool.description, dict(tool.parameters)) for tool in read.tools] == [("look", "Look.", SCHEMA)]
    assert read.unusable == ()


@pytest.mark.parametrize("entry", [{"description": "Look.", "params": {}}, {"description": "Look."}, {}])
def test_a_tool_may_take_nothing(entry: Any) -> None:
    assert read_registry(json.dumps({"look": entry}), "here").tools[0].parameters == {}


def test_seventy_tools_of_a_runtime_are_all_usable() -> None:
    read = read_registry(json.dumps(TOOLS), "here")
    assert len(read.tools) == 70
    assert read.unusable == ()


def parameters(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


BAD_SCHEMAS: list[tuple[Any, str]] = [
    ({"$ref": "#/$defs/a", "$defs": {"a": parameters(next={"$ref": "#/$defs/a"})}}, "recursive"),
    (parameters(tree={"$ref": "#"}), "recursive"),
    (parameters(a={"$ref": "https://example.org/schema"}), "leads outside"),
    (parameters(a={"$ref": "#/$defs/none"}), "leads nowhere"),
    (parameters(a={"$ref": "#/properties/b"}, b={"$ref": "#/properties/a"}), "recursive"),
    (parameters(a={"$dynamicRef": "#x"}), "dynamic"),
    (parameters(a={"type": "integer", "enum": ["one"]}), "'one' is not of type integer"),
    (parameters(a={"type": "string", "const": 7}), "7 is not of type string"),
    (parameters(a={"enum": []}), "a: enum names no value"),
    (parameters(a={"type": "integer", "minimum": 5, "maximum": 3}), "minimum 5 and maximum 3 leave no value"),
    (parameters(a={"type": "number", "exclusiveMinimum": 3, "maximum": 3}), "leave no value"),
    (parameters(a={"type": "string", "minLength": 9, "maxLength": 2}), "leave no value"),
    (parameters(a={"type": "string", "minLength": 100_000}), "more than a request can say"),
    (parameters(a={"type": "array", "minItems": 50}), "more than a request can say"),
    ({**parameters(a={}), "required": ["b"]}, "required names b"),
    ({**parameters(a=False), "required": ["a"]}, "a is required and can have no value"),
    (parameters(a={"type": "string", "pattern": "(?=x)y"}), "a group of a kind"),
    (parameters(a={"type": "string", "pattern": "^(a+)+$"}), "too many ways"),
    (parameters(a={"type": "wood"}), "not a JSON Schema"),
    ({"path": {"type": "string"}}, "put them under properties"),
    ({"type": "string"}, "not that of an object"),
    (["path"], "no JSON Schema object"),
    ({"type": "object", "properties": {f"p{n}": {} for n in range(3000)}}, "more than 2000 parts"),
]


@pytest.mark.parametrize(("schema", "reason"), BAD_SCHEMAS)
def test_a_contradictory_schema_is_refused_by_its_tools_name_and_the_rest_goes_on(schema: Any, reason: str) -> None:
    read = read_registry(json.dumps({"bad": {"description": "Do.", "params": schema}, **FINE}), "here")
    assert [tool.name for tool in read.tools] == ["fine"]
    assert [one.name for one in read.unusable] == ["bad"]
    assert reason in read.unusable[0].reason


@pytest.mark.parametrize(
    ("entry", "name", "reason"),
    [
        ('"bad": {"description": 7}', "bad", "no text but a number"),
        ('"bad": 7', "bad", "no tool but a number"),
        ('"bad": null', "bad", "no tool but nothing"),
        ('"a tool": {}', "a tool", "a name must be letters"),
        ('"fine": {}', "fine", "named twice"),
        (f'"{"x" * 99}": {{}}', "x" * 64, "a name must be letters"),
        (f'"bad": {{"description": "{"x" * 5000}"}}', "bad", "too long"),
    ],
)
def test_an_entry_that_is_no_tool_is_refused_by_name(entry: str, name: str, reason: str) -> None:
    read = read_registry(f'{{"fine": {json.dumps(FINE["fine"])}, {entry}}}', "here")
    assert [tool.name for tool in read.tools] == ["fine"]
    assert (read.unusable[0].name, reason in read.unusable[0].reason) == (name, True)


def test_two_entries_of_one_name_leave_the_first() -> None:
    twice = [
        {"name": "look", "description": "First."},
        {"name": "look", "description": "Second."},
        {"description": "x"},
    ]
    read = read_registry(json.dumps(twice), "here")
    assert [tool.description for tool in read.tools] == ["First."]
    assert [(one.name, one.reason) for one in read.unusable] == [
        ("look", "named twice; the first one is taken"),
        ("entry 2", "no name"),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "holds no tools"),
        ("[]", "holds no tools"),
        ("7", "no registry of tools"),
        ("{", "not usable JSON"),
        ('{"a": NaN}', "not usable JSON"),
        ("[" * 100_000, "not usable JSON"),
        ('{"bad": {"description": 7}}', "none of the 1 tools.*bad: the description is no text"),
        (json.dumps({f"t{n}": {} for n in range(2001)}), "2001 tools"),
        (" " * (LONGEST_TEXT + 1), "characters, a registry"),
    ],
)
def test_what_holds_no_usable_tool_is_an_error_that_names_it(text: str, told: str) -> None:
    with pytest.raises(CurriculumError, match=told) as raised:
        read_registry(text, "here.json")
    assert "here.json" in str(raised.value)


# --- Where they are read from -----------------------------------------------------------------------------------


def test_a_file_is_read_below_the_folder_or_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text("[1]")
    assert registry_text("tools.json", tmp_path) == "[1]"
    assert registry_text(str(tmp_path / "tools.json"), Path("/")) == "[1]"


def test_a_file_of_fifty_megabytes_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "big.json"
    with path.open("wb") as file:
        file.truncate(50 << 20)
    with pytest.raises(CurriculumError, match="52428800 bytes"):
        registry_text(str(path), tmp_path)


@pytest.mark.parametrize("name", ["none.json", "folder", "binary.json", "no such thing"])
def test_what_cannot_be_read_as_text_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(CurriculumError, match=name):
        registry_text(name, tmp_path)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "strange_tools.py"


def test_an_attribute_of_a_module_is_read_without_importing_it_here(module: Path) -> None:
    module.write_text(
        "import sys\nprint('hello', flush=True)\nclass Registry:\n    TOOLS = {'look': {'description': 'Schön.'}}\n"
    )
    text = registry_text("strange_tools:Registry.TOOLS", module.parent)
    assert read_registry(text, "x").tools[0].description == "Schön."
    assert "strange_tools" not in sys.modules


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise RuntimeError('not today }')", "RuntimeError: not today }"),
        ("TOOLS = {1, 2}", "set is not JSON serializable"),
        ("OTHER = 1", "has no attribute 'TOOLS'"),
        ("import sys\nsys.exit(3)", "SystemExit"),
        ("import os\nos._exit(0)", "ended without an answer"),
        ("TOOLS = 'x' * (5 << 20)", "characters"),
    ],
)
def test_a_module_that_cannot_be_used_is_named_with_the_reason(module: Path, code: str, told: str) -> None:
    module.write_text(code)
    with pytest.raises(CurriculumError, match="cannot import strange_tools:TOOLS") as raised:
        registry_text("strange_tools:TOOLS", module.parent)
    assert told in str(raised.value)


def test_an_import_without_an_end_is_ended_with_what_it_started(module: Path) -> None:
    module.write_text("import subprocess\nsubprocess.run(['sleep', '60'])\n")
    began = time.monotonic()
    with pytest.raises(CurriculumError, match="took longer"):
        registry_text("strange_tools:TOOLS", module.parent, import_s=1.0)
    assert time.monotonic() - began < 20
