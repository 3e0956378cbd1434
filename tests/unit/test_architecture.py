"""The house as a test: which module lies in which layer, who may import whom, and what pure code may not touch.

A new module is put into `LAYERS` by hand: deciding its layer is part of writing it. `docs/architecture.md` has the
picture.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

NOUNS, PURE, WORLD, LOOPS, COMPOSE, CHILD = 0, 1, 2, 3, 4, 9

LAYERS: dict[int, str] = {
    NOUNS: """
        errors config curriculum adapter exchange keys options user learner.protocol
    """,
    PURE: """
        card_page consent consent_history content cycle_page ending erasure idle redact redact_checks redact_columns
        control.explain control.metrics control.status gpu.command gpu.handoff learner.allotment learner.controls
        learner.course
        learner.cycle learner.datacard learner.dataset learner.diversity learner.earlier_spec learner.evenness
        learner.example learner.exams.answers learner.exams.kinds learner.exams.score learner.exams.tool_choice
        learner.gate learner.lengths learner.likeness learner.packing learner.paraphrase learner.parity
        learner.plain_text learner.self_made learner.self_reply learner.self_work learner.shares
        learner.sources.computed learner.sources.open_prompts learner.base_shape learner.flops learner.lying
        learner.memory learner.steadiness
        learner.sources.document_frames learner.sources.document_questions learner.sources.epistemic_material
        learner.sources.guard_answers learner.sources.guard_reviews learner.sources.judgements redact_doubts
        redact_numbers redact_pattern redact_rules redact_said redact_view redact_words report retention rollout signals
        learner.sources.packet_faults learner.sources.packet_flow learner.sources.packet_material
        learner.sources.matters learner.sources.packet_tasks learner.sources.packet_text learner.sources.passages
        learner.sources.persona learner.sources.plan_tasks learner.sources.registry_forms learner.sources.requests
        learner.sources.rows learner.sources.schema_faults learner.sources.schema_patterns
        learner.sources.schema_values learner.sources.tool_catalogues learner.sources.tool_frames
        learner.sources.tool_prompt learner.sources.tool_requests learner.sources.tool_words learner.wholes
        proxy.agreeing proxy.ask proxy.body proxy.credentials proxy.dialect proxy.endpoints proxy.features proxy.forms
        proxy.gaia proxy.limits proxy.options proxy.overflow proxy.passages proxy.recognition proxy.refusals
        proxy.rename proxy.reply proxy.routing proxy.rule_schema proxy.said proxy.sampling proxy.splice proxy.sse
        proxy.stages proxy.turns proxy.validity
    """,
    WORLD: """
        aside conversations copies cycles dataset_files db disk erasures feedback grants keyfile logs migrations
        migrations.env migrations.versions notify postgres redact_file registry shape sqlite_file tables
        control.listener gpu.admission gpu.child gpu.engine gpu.identity gpu.probe learner.artifacts
        learner.base_model learner.examiner learner.inquiry learner.made_file learner.ports learner.runner
        learner.sources.catalogue learner.sources.documents
        learner.sources.epistemics learner.sources.exchanges learner.sources.jsonl learner.sources.judgement
        learner.sources.material learner.sources.own_tools learner.sources.packets learner.sources.registry_files
        learner.sources.replay learner.sources.self_instruct learner.sources.self_made_files
        learner.sources.self_replay learner.sources.source learner.sources.tool_registry learner.sources.voice
        learner.template proxy.early proxy.incoming proxy.outbox proxy.ports proxy.recorder proxy.relay
        proxy.replies proxy.rulebook proxy.upstream proxy.ways proxy.whole
    """,
    LOOPS: """
        eraser housekeeper schedule
        control.app control.commands
        gpu.loop
        learner.attempt learner.comparison learner.events learner.guards learner.history learner.lookout learner.loop
        learner.slots learner.steps
        proxy.app proxy.inference proxy.server proxy.shared proxy.stored
    """,
    COMPOSE: """
        daemon __main__
        cli.__main__ cli.adapters cli.backup cli.build cli.client cli.command cli.config cli.consent cli.curriculum
        cli.dataset cli.erase cli.exchanges cli.explain cli.keys cli.lines cli.main cli.output cli.self_made cli.stages
        cli.scene cli.status cli.train cli.watch
    """,
    CHILD: """
        learner.answer_loss learner.attention learner.base learner.checkpoint learner.child learner.device
        learner.dropout learner.flex learner.flex_check learner.fused learner.losses learner.origins
        learner.parity_child learner.ranks learner.rendering learner.scripted learner.snapshot learner.train
        learner.usage
    """,
}
LAYER_OF = {f"gaiad.{name}": layer for layer, names in LAYERS.items() for name in names.split()}
PACKAGES = (
    "gaiad",
    *(f"gaiad.{name}" for name in ("cli", "control", "gpu", "learner", "learner.exams", "learner.sources", "proxy")),
)
MIGRATION = re.compile(r"gaiad\.migrations\.versions\.r\d{4}_\w+")

# What nouns and pure code may not import: the clock, chance without a seed, files, processes, the network, logs.
_IMPURE = """
aiohttp aiosqlite alembic apscheduler asyncio contextvars ctypes fcntl glob http httpx io logging multiprocessing os
requests secrets select shutil signal socket sqlalchemy sqlite3 ssl structlog subprocess sys tempfile threading time
urllib.request uuid
"""
IMPURE = frozenset(_IMPURE.split())
_HEAVY = """
torch transformers peft bitsandbytes vllm accelerate safetensors numpy scipy tokenizers jinja2
"""
HEAVY = tuple(_HEAVY.split())
BANNED_WORDS = frozenset({"manager", "handler", "helper", "util", "misc"})
MAX_LINES = 500


@cache
def modules() -> dict[str, Path]:
    """Every module of gaiad, packages included."""
    found = {}
    for path in sorted((ROOT / "gaiad").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def layer_of(module: str) -> int | None:
    return WORLD if MIGRATION.fullmatch(module) else LAYER_OF.get(module)


@cache
def imports(path: Path) -> set[str]:
    """Every module that `path` imports anywhere in it, type-checking blocks apart."""
    known, found = modules(), set()
    skipped = {id(inner) for node in ast.walk(tree(path)) if _is_typing_block(node) for inner in ast.walk(node)}
    for node in ast.walk(tree(path)):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & known.keys()) or {node.module}
    return found


def _is_typing_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def package_of(module: str) -> str:
    """The package that counts for the same-layer rule: the first folder, or the root; migrations belong to `db`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 and parts[1] != "migrations" else ""


def test_every_module_has_a_layer_and_every_layer_only_real_modules() -> None:
    found = {name for name in modules() if name not in PACKAGES and not MIGRATION.fullmatch(name)}
    assert found - LAYER_OF.keys() == set(), "put these modules into LAYERS"
    assert LAYER_OF.keys() - found == set(), "these modules are gone: take them out of LAYERS"


def test_imports_point_downward_only() -> None:
    wrong = []
    for module, path in modules().items():
        mine = layer_of(module)
        for target in imports(path):
            theirs = layer_of(target)
            if mine is None or theirs is None or theirs == CHILD:
                continue
            # 1. The trainer is a program of its own, above the pure layer; who imports it is checked below.
            ceiling = PURE if mine == CHILD else mine
            # 2. Nouns may be made of nouns; above them, same-layer packages do not know each other.
            neighbours = theirs == mine != NOUNS and package_of(module) != package_of(target)
            if theirs > ceiling or neighbours:
                wrong.append(f"{module} (L{mine}) imports {target} (L{theirs})")
    assert wrong == []


def test_nobody_imports_the_trainer() -> None:
    wrong = [
        f"{module} imports {target}"
        for module, path in modules().items()
        for target in imports(path)
        if (layer_of(target) == CHILD and layer_of(module) != CHILD) or target == "gaiad.learner.train"
    ]
    assert wrong == []


def test_nouns_and_pure_code_touch_no_clock_chance_file_or_network() -> None:
    wrong = []
    for module, path in modules().items():
        if layer_of(module) not in (NOUNS, PURE):
            continue
        banned = {name for name in imports(path) if name in IMPURE or name.split(".")[0] in IMPURE}
        wrong += [f"{module} imports {name}" for name in sorted(banned)]
        wrong += [f"{module}:{line} {what}" for line, what in impure_calls(tree(path))]
    assert wrong == []


_FILE_CALLS = """
read_text read_bytes write_text write_bytes mkdir unlink exists is_file is_dir iterdir rglob resolve stat rename touch
rmdir chmod symlink_to
"""
_FILE_METHODS = frozenset(_FILE_CALLS.split())


def impure_calls(module: ast.Module) -> list[tuple[int, str]]:
    """Calls that reach outside although their import is allowed: open(), Path methods, unseeded random."""
    found = []
    for node in ast.walk(module):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Name(id="open" | "print" | "input" | "Random") if isinstance(node.func, ast.Name):
                if node.func.id != "Random" or not node.args:
                    found.append((node.lineno, f"calls {node.func.id}()"))
            case ast.Attribute(value=ast.Name(id="random"), attr=name) if name != "Random" or not node.args:
                found.append((node.lineno, f"calls random.{name} without a seed"))
            case ast.Attribute(attr=name) if name in _FILE_METHODS:
                found.append((node.lineno, f"calls .{name}()"))
            case ast.Attribute(value=ast.Name(id="datetime" | "date"), attr="now" | "today" | "utcnow"):
                found.append((node.lineno, "reads the clock"))
    return found


@pytest.mark.parametrize(
    "text",
    [
        "random.choice([1])",
        "random.Random()",
        "Random()",
        "open('x')",
        "Path('x').read_text()",
        "datetime.now()",
        "print(1)",
    ],
)
def test_the_purity_check_sees(text: str) -> None:
    assert impure_calls(ast.parse(text))


@pytest.mark.parametrize(
    "text", ["random.Random(7).choice([1])", "Random(seed)", "Path('x') / 'y'", "'a'.replace('a', 'b')"]
)
def test_the_purity_check_allows(text: str) -> None:
    assert impure_calls(ast.parse(text)) == []


def test_package_files_hold_a_docstring_only() -> None:
    for name in PACKAGES:
        body = tree(modules()[name]).body
        assert len(body) == 1, name
        assert ast.get_docstring(tree(modules()[name])), name


def test_every_module_says_what_it_decides_or_touches() -> None:
    assert [name for name, path in modules().items() if not ast.get_docstring(tree(path))] == []


def test_no_module_is_longer_than_500_lines() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_names_avoid_the_words_that_say_nothing() -> None:
    wrong = []
    for module, path in modules().items():
        wrong += [module for part in module.split(".") if banned_word(part)]
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and banned_word(node.name):
                wrong.append(f"{module}:{node.lineno} {node.name}")
    assert wrong == []


def banned_word(name: str) -> bool:
    """Whether a name uses a banned word; `data`, `process` and `do` are banned as whole names or first words."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_").split("_")
    return (
        bool(BANNED_WORDS & {word.removesuffix("s") for word in words})
        or words[0] in ("process", "do")
        or words == ["data"]
    )


@pytest.mark.parametrize("name", ["GpuManager", "error_handler", "utils", "process_request", "_do_it", "data"])
def test_the_word_check_sees(name: str) -> None:
    assert banned_word(name)


@pytest.mark.parametrize("name", ["engine_process", "database", "doors", "metadata_days", "dataset"])
def test_the_word_check_allows(name: str) -> None:
    assert not banned_word(name)


def test_the_daemon_loads_no_training_or_engine_library() -> None:
    assert loaded_by("gaiad.daemon", HEAVY) == []


def test_an_online_command_loads_neither_the_store_nor_a_server() -> None:
    assert loaded_by("gaiad.cli.main", (*HEAVY, "sqlalchemy", "alembic", "aiohttp", "asyncio")) == []


def loaded_by(module: str, names: tuple[str, ...]) -> list[str]:
    """Which of `names` a fresh interpreter has loaded after importing `module`."""
    code = f"import sys, {module}\nprint(*(name for name in {names!r} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return result.stdout.split()


def test_online_commands_import_nouns_and_each_other_only() -> None:
    offline = {
        "gaiad.cli.build",
        "gaiad.cli.curriculum",
        "gaiad.cli.dataset",
        "gaiad.cli.config",
        "gaiad.cli.keys",
        "gaiad.cli.self_made",
        "gaiad.cli.stages",
    }
    wrong = [
        f"{module} imports {target}"
        for module, path in modules().items()
        if module.startswith("gaiad.cli.") and module not in offline
        for target in imports(path)
        if target.startswith("gaiad.") and not target.startswith("gaiad.cli.") and layer_of(target) != NOUNS
    ]
    assert wrong == []


def test_a_task_without_an_owner_is_refused_by_the_linter() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert {"asyncio.create_task", "asyncio.ensure_future"} <= settings["flake8-tidy-imports"]["banned-api"].keys()
    exempt = [pattern for pattern, rules in settings["per-file-ignores"].items() if "TID251" in rules]
    assert exempt == ["tests/**"]
    assert "TID" in settings["select"]
