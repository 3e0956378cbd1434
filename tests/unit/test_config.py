"""Settings: every mistake is told with its key and value, all at once; defaults and paths are what the docs say."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import pytest

from gaiad.adapter import lora_rank_slot
from gaiad.config import DEFAULT_STAGES, Config, parse_config
from gaiad.errors import ConfigError
from gaiad.options import StageOptions

ROOT = Path(__file__).resolve().parents[2]
HERE = Path("/etc/gaiad")
MINIMAL = '[engine]\nbase_model = "/srv/base"\n'
SECTIONS = ("proxy", "proxy.limits", "engine", "learning", "consent", "keys", "store", "redact", "log")


def parse(text: str) -> Config:
    return parse_config(text, relative_to=HERE)


def keys() -> Iterator[tuple[str, str, object]]:
    """Every key: its table (empty at the top), its name, its default."""
    config = parse(MINIMAL)
    yield "", "state_dir", str(config.state_dir)
    yield "", "control_socket", str(config.control_socket)
    for section in SECTIONS:
        kind = type(attrgetter(section)(config))
        for field in dataclasses.fields(kind):
            if dataclasses.is_dataclass(field.default_factory):
                assert f"{section}.{field.name}" in SECTIONS
                continue
            default = field.default
            yield section, field.name, list(default) if isinstance(default, tuple) else default
    for field in dataclasses.fields(StageOptions):
        yield "proxy.options.STAGE", field.name, field.default
    for stage, adapter in DEFAULT_STAGES.items():
        yield "stages", stage, adapter


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ('listen = "x"', "'listen'", ""),
        ("state_dir = 3", "state_dir", "3"),
        ('state_dir = ""', "state_dir", "''"),
        ("control_socket = true", "control_socket", "True"),
        ('proxy = "x"', "[proxy]", "table"),
        ("[proxy]\nlisten = 6430", "proxy.listen", "6430"),
        ('[proxy]\nlisten = "6430"', "proxy.listen", "'6430'"),
        ('[proxy]\nlisten = "127.0.0.1:70000"', "proxy.listen", "'127.0.0.1:70000'"),
        ('[proxy]\nlisten = "127.0.0.1:http"', "proxy.listen", "'127.0.0.1:http'"),
        ('[proxy]\nlissen = "127.0.0.1:6430"', "proxy.lissen", "known: "),
        ('[proxy]\nbase_names = "auto"', "proxy.base_names", "'auto'"),
        ("[proxy]\nbase_names = [1]", "proxy.base_names", "[1]"),
        ("[proxy]\nhold_s = 0", "proxy.hold_s", "0"),
        ("[proxy]\nhold_s = -1.5", "proxy.hold_s", "-1.5"),
        ('[proxy]\nhold_s = "2m"', "proxy.hold_s", "'2m'"),
        ("[proxy]\nmax_held = 1.5", "proxy.max_held", "1.5"),
        ("[proxy]\nmax_held = true", "proxy.max_held", "True"),
        ('[proxy]\nstream_errors = "ignore"', "proxy.stream_errors", "'event', 'close'"),
        ('[proxy]\ndefault_stage = "chat"', "proxy.default_stage", "'chat'"),
        ("[proxy]\nearly_headers_s = -1", "proxy.early_headers_s", "-1"),
        ("[proxy]\noptions = 1", "[proxy.options]", "table for each stage"),
        ("[proxy.options]\nintent = 1", "[proxy.options.intent]", "table"),
        ("[proxy.options.chat]\nmax_tokens = 1", "[proxy.options.chat]", "tool_review"),
        ("[proxy.options.intent]\nmaxtokens = 1", "proxy.options.intent.maxtokens", "known: "),
        ("[proxy.options.intent]\nmax_tokens = -1", "proxy.options.intent.max_tokens", "-1"),
        ("[proxy.options.intent]\nmax_tokens = 1.5", "proxy.options.intent.max_tokens", "1.5"),
        ("[proxy.options.intent]\ntemperature = nan", "proxy.options.intent.temperature", "finite"),
        ("[proxy.options.intent]\nfence_json = 1", "proxy.options.intent.fence_json", "1"),
        ("[proxy.options.intent]\nprelude_file = 1", "proxy.options.intent.prelude_file", "1"),
        ("[proxy]\nexchange_routes = 1", "proxy.exchange_routes", "1"),
        ("[proxy]\nlimits = 3", "[proxy.limits]", "table"),
        ("[proxy.limits]\nmax_tokens = 0", "proxy.limits.max_tokens", "0"),
        ("[proxy.limits]\nstreams_per_user = -1", "proxy.limits.streams_per_user", "-1"),
        ("[proxy.limits]\nbody_timeout_s = nan", "proxy.limits.body_timeout_s", "finite"),
        ('[proxy.limits]\nallow_cache_salt = "yes"', "proxy.limits.allow_cache_salt", "'yes'"),
        ("[proxy.limits]\nmax_token = 5", "proxy.limits.max_token", "known: "),
        ('[engine]\nmode = "cloud"', "engine.mode", "'cloud'"),
        ('[engine]\nurl = "127.0.0.1:7777"', "engine.url", "'127.0.0.1:7777'"),
        ('[engine]\nurl = "http://192.168.1.5:7777"', "engine.url", "loopback"),
        ('[engine]\nbase_model = ""', "engine.base_model", "must be set"),
        ('[engine]\nmode = "external"', "engine.base_model", "where learning.enabled is true"),
        ('[engine]\nurl = "http://127.0.0.1:7777/v1"', "engine.url", "must be http://127.0.0.1:7777 alone"),
        ('[engine]\nurl = "https://127.0.0.1/?key=1"', "engine.url", "must be https://127.0.0.1 alone"),
        ('[engine]\nurl = "http://127.0.0.1:1#a"', "engine.url", "must be http://127.0.0.1:1 alone"),
        ('[engine]\nurl = "http://me:pw@[::1]:1"', "engine.url must be http://[::1]:1", "engine.api_key_file"),
        ('[consent]\nanonymous_user = "' + "x" * 201 + '"', "consent.anonymous_user", "200 characters"),
        ("[engine]\nmax_lora_rank = 12", "engine.max_lora_rank", "12"),
        ("[engine]\nmax_loras = 0", "engine.max_loras", "0"),
        ("[engine]\nmax_loras = 8\nmax_cpu_loras = 4", "engine.max_cpu_loras", "4"),
        ('[engine]\ndevice = "cuda"', "engine.device", "'cuda'"),
        ("[learning]\nidle_minutes = -1", "learning.idle_minutes", "-1"),
        ("[learning]\ntick_s = 0", "learning.tick_s", "0"),
        ('[learning]\nbackground_stages = ["chat"]', "learning.background_stages", "'chat'"),
        ("[learning]\nguard_window = 3\nguard_max_failures = 4", "learning.guard_max_failures", "guard_window"),
        ('[learning]\nenabled = "yes"', "learning.enabled", "'yes'"),
        ("[consent]\nanonymous_user = 1", "consent.anonymous_user", "1"),
        ("[keys]\nfile = 5", "keys.file", "5"),
        ('[keys]\nfile = "a\\u0000b"', "keys.file", "path"),
        ("[store]\nqueue_size = 0", "store.queue_size", "0"),
        ('[log]\nlevel = "trace"', "log.level", "'trace'"),
        ('[stages]\nbase = "gaia-voice"', "stages.base", "cannot be set"),
        ('[stages]\nintent = "Not An Adapter"', "stages.intent", "'Not An Adapter'"),
        ("[stages]\nintent = 5", "stages.intent", "5"),
        ("state_dir = ", "TOML", "end of document"),
        ('state_dir = "a\\u0000b"', "state_dir", "path"),
        ('[proxy]\nlisten = "127.0.0.1:\u00b2"', "proxy.listen", "HOST:PORT"),
        ("[proxy]\nhold_s = nan", "proxy.hold_s", "finite"),
        ("[proxy]\nhold_s = inf", "proxy.hold_s", "finite"),
        ('[engine]\nurl = "http://[::1"', "engine.url", "http://HOST:PORT"),
        ('[engine]\nurl = "http://127.0.0.1:99999"', "engine.url", "http://HOST:PORT"),
        ('[learning]\ndocuments = [" "]', "learning.documents", "' '"),
        ("[learning]\nregistries = 'tools.json'", "learning.registries", "a list of strings"),
        ('[stages]\n"a\\nb" = "gaia-voice"', "stages", "letters, digits"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(text: str, key: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert key in caught.value.message
    assert value in caught.value.message
    assert caught.value.hint


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse('colour = 1\n[proxy]\nlisten = "x"\n[engine]\nmax_loras = -1\n[log]\nlevel = "loud"\n')
    for key in ("colour", "proxy.listen", "engine.max_loras", "log.level", "engine.base_model"):
        assert key in caught.value.message


def test_an_empty_stage_means_the_base_and_new_stages_may_be_added() -> None:
    config = parse(MINIMAL + '[stages]\nintent = ""\npoetry = "gaia-voice"\n[proxy]\ndefault_stage = "poetry"\n')
    assert config.stages["intent"] == ""
    assert config.stages["poetry"] == "gaia-voice"
    assert config.stages["tool_selection"] == "json-architect"


def test_a_stage_may_have_options_the_base_too() -> None:
    config = parse(
        MINIMAL + '[proxy.options.base]\nmax_tokens = 5\n[proxy.options.intent]\nprelude_file = "identity.txt"\n'
    )
    assert config.options == {
        "base": StageOptions(max_tokens=5),
        "intent": StageOptions(prelude_file="/etc/gaiad/identity.txt"),
    }
    assert parse(MINIMAL).options == {}


def test_paths_count_from_the_settings_file_and_urls_lose_their_slash() -> None:
    config = parse(
        'state_dir = "var"\ncontrol_socket = "run/c.sock"\n'
        '[engine]\nbase_model = "models/base"\napi_key_file = "key"\nurl = "http://localhost:1/"\n'
        '[learning]\ncurricula = "own"\ndocuments = ["notes", "/srv/more.md"]\n'
        'registries = ["tools.json", "gaia_common.utils.tools_registry:TOOLS"]\n'
    )
    assert config.state_dir == HERE / "var"
    assert config.control_socket == HERE / "run/c.sock"
    assert config.engine.base_model == "/etc/gaiad/models/base"
    assert config.engine.api_key_file == "/etc/gaiad/key"
    assert config.engine.url == "http://localhost:1"
    assert config.learning.curricula == "/etc/gaiad/own"
    assert config.learning.documents == ("/etc/gaiad/notes", "/srv/more.md")
    assert config.learning.registries == ("/etc/gaiad/tools.json", "gaia_common.utils.tools_registry:TOOLS")
    assert config.adapters_dir == HERE / "var/adapters"


def test_a_served_name_alone_stays_a_name_where_nothing_is_learnt() -> None:
    text = (
        '[engine]\nmode = "external"\nurl = "http://gpu-box:8000"\nbase_model = "qwen"\n[learning]\nenabled = false\n'
    )
    assert parse(text).engine.base_model == "qwen"


@pytest.mark.parametrize(("text", "address"), [("0.0.0.0:1", ("0.0.0.0", 1)), ("[::1]:6430", ("::1", 6430))])
def test_listen_is_split_into_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert parse(f'{MINIMAL}[proxy]\nlisten = "{text}"\n').listen_address == address


@pytest.mark.parametrize(("needed", "slot"), [(1, 1), (2, 8), (16, 16), (17, 32), (512, 512)])
def test_a_rank_is_rounded_up_to_what_the_engine_accepts(needed: int, slot: int) -> None:
    assert lora_rank_slot(needed) == slot


def test_a_rank_above_the_largest_is_refused() -> None:
    with pytest.raises(ConfigError, match="513"):
        lora_rank_slot(513)


def test_the_example_sets_every_key_to_its_default() -> None:
    text = (ROOT / "examples/gaiad.toml").read_text()
    document = tomllib.loads(text)
    parse(text)
    must_be_chosen = {("engine", "base_model")}
    for section, key, default in keys():
        table = document
        for name in section.split(".") if section else ():
            table = table["tool_selection" if name == "STAGE" else name]
        assert key in table, f"examples/gaiad.toml lacks {section}.{key}"
        if (section, key) not in must_be_chosen:
            assert table[key] == default, f"{section}.{key}"


def test_the_local_example_is_valid_and_stays_inside_the_checkout() -> None:
    folder = ROOT / "examples"
    config = parse_config((folder / "gaiad-local.toml").read_text(), relative_to=folder)
    assert config.state_dir.resolve() == ROOT / "var/state"
    assert config.control_socket.resolve() == ROOT / "var/control.sock"


def test_the_page_describes_every_key_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.*?) \|", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE))
    for section, key, default in keys():
        name = f"{section}.{key}" if section else key
        assert name in rows, f"docs/configuration.md lacks {name}"
        assert rows.pop(name).strip("`") == shown(default), name
    assert rows == {}, "these keys are gone"


def shown(default: object) -> str:
    """A default as the page shows it."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, list):
        return "[" + ", ".join(f'"{item}"' for item in default) + "]"
    return f"{default:g}" if isinstance(default, float) else str(default) or "empty"


@pytest.mark.parametrize("url", ["http://me:pw@127.0.0.1:1", "ftp://me:pw@127.0.0.1:1", "http://me:pw@gpu-box:1/v1"])
def test_a_password_in_the_engines_url_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f'[engine]\nurl = "{url}"\n')
    assert "engine.url" in caught.value.message
    assert "pw" not in str(caught.value)
