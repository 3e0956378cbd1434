"""The managed engine's words, environment and log, without an engine."""

from __future__ import annotations

from gaiad.config import EngineConfig
from gaiad.gpu.command import (
    engine_address,
    engine_command,
    engine_environment,
    served_name,
    startup_phase,
)
from gaiad.gpu.handoff import Device

SETTINGS = EngineConfig(url="http://127.0.0.1:7777", base_model="/models/smollm2/", extra_args=("--seed", "7"))


def words(settings: EngineConfig = SETTINGS, device: Device = "cpu") -> str:
    return " ".join(engine_command(settings, python="python3", device=device, max_lora_rank=16))


def test_engine_listens_where_the_settings_say_and_nowhere_else() -> None:
    assert engine_address(SETTINGS) == ("127.0.0.1", 7777)
    assert engine_address(EngineConfig(url="http://[::1]:9")) == ("::1", 9)
    assert "--host 127.0.0.1 --port 7777" in words()


def test_base_is_served_under_its_folders_name_unless_named() -> None:
    assert served_name(SETTINGS) == "smollm2"
    assert served_name(EngineConfig(base_model="/models/x", served_name="prime")) == "prime"


def test_adapter_slots_and_rank_reach_the_engine() -> None:
    assert "--enable-lora --max-loras 4 --max-cpu-loras 12 --max-lora-rank 16" in words()


def test_sleep_mode_is_for_gpus_only() -> None:
    assert "--enable-sleep-mode" in words(device="gpu")
    assert "--enable-sleep-mode" not in words(device="cpu")
    assert "--enforce-eager" in words(device="cpu")


def test_own_arguments_come_last_so_that_they_win() -> None:
    assert words().endswith("--seed 7")


def test_window_is_left_to_the_model_unless_set() -> None:
    assert "--max-model-len" not in words()
    assert "--max-model-len 2048" in words(EngineConfig(base_model="/m", max_model_len=2048))


def test_key_goes_by_environment_and_the_supervisors_variables_stay_here() -> None:
    inherited = {"PATH": "/bin", "NOTIFY_SOCKET": "/run/x", "VLLM_API_KEY": "stale"}
    environment = engine_environment(inherited, SETTINGS, device="cpu", api_key="")
    assert environment["PATH"] == "/bin"
    assert "NOTIFY_SOCKET" not in environment
    assert "VLLM_API_KEY" not in environment
    assert engine_environment(inherited, SETTINGS, device="cpu", api_key="k")["VLLM_API_KEY"] == "k"


def test_engine_loads_adapters_at_run_time_pauses_and_calls_nobody() -> None:
    environment = engine_environment({}, SETTINGS, device="cpu", api_key="")
    on = ("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_SERVER_DEV_MODE", "HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS")
    assert {environment[name] for name in on} == {"1"}
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert "VLLM_CPU_KVCACHE_SPACE" not in engine_environment({}, SETTINGS, device="gpu", api_key="")


def test_progress_is_the_last_thing_the_log_tells() -> None:
    lines = [
        "(APIServer pid=1) INFO 11-23 07:58:50 [model.py:5] Resolved architecture: LlamaForCausalLM",
        "(Worker pid=2) INFO 11-23 07:59:01 [cpu_model_runner.py:7] Starting to load model /m...",
        "something nobody knows",
    ]
    assert startup_phase([]) == "loading libraries"
    assert startup_phase(lines) == "loading weights"
