"""The managed engine's command line and environment, and what its log says, as pure functions of the settings.

Decides which flags vLLM gets on which device. Starts nothing and reads no file: `gpu.engine` does. Secrets never
stand on the command line, where every user of the machine could read them; the API key goes into the environment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from gaiad.config import EngineConfig
from gaiad.gpu.handoff import Device

MODULE = "vllm.entrypoints.openai.api_server"

_NOT_FOR_THE_ENGINE = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "VLLM_API_KEY")

_STARTUP = (
    ("Resolved architecture", "reading the model's configuration"),
    ("Initializing a V1 LLM engine", "starting the engine core"),
    ("Starting to load model", "loading weights"),
    ("Loading weights took", "weights loaded"),
    ("Loading model took", "weights loaded"),
    ("Model loading took", "weights loaded"),
    ("Compiling a graph", "compiling"),
    ("Warming up model", "warming up"),
    ("Capturing CUDA graph", "capturing graphs"),
    ("KV cache size", "KV cache ready"),
    ("Warming up done", "warmed up"),
    ("Starting vLLM server", "opening the port"),
    ("Application startup complete", "answering"),
)


def engine_address(engine: EngineConfig) -> tuple[str, int]:
    """Return the host and port that a managed engine listens on."""
    url = urlsplit(engine.url)
    return url.hostname or "127.0.0.1", url.port or (443 if url.scheme == "https" else 80)


def served_name(engine: EngineConfig) -> str:
    """Return the base model's name at a managed engine: as set, or its folder's name."""
    return engine.served_name or engine.base_model.rstrip("/").rpartition("/")[2]


def engine_command(engine: EngineConfig, *, python: str, device: Device, max_lora_rank: int) -> list[str]:
    """Return the words that start vLLM; `extra_args` come last, so that they win."""
    host, port = engine_address(engine)
    words = [python, "-m", MODULE, "--model", engine.base_model, "--served-model-name", served_name(engine)]
    words += ["--host", host, "--port", str(port), "--dtype", "bfloat16", "--disable-uvicorn-access-log"]
    words += ["--enable-lora", "--max-loras", str(engine.max_loras), "--max-cpu-loras", str(engine.max_cpu_loras)]
    words += ["--max-lora-rank", str(max_lora_rank)]
    if engine.max_model_len:
        words += ["--max-model-len", str(engine.max_model_len)]
    # 1. Sleep mode frees a GPU's memory. 2. On the CPU it is a start-up error; compiling there only costs time, and a
    #    small batch keeps answers quick.
    if device == "gpu":
        words += ["--enable-sleep-mode"]
    else:
        words += ["--enforce-eager", "--max-num-seqs", "32"]
    return [*words, *engine.extra_args]


def engine_environment(
    inherited: Mapping[str, str], engine: EngineConfig, *, device: Device, api_key: str
) -> dict[str, str]:
    """Return the engine's environment: no network for models, no telemetry, runtime adapters and pausing on."""
    kept = {name: value for name, value in inherited.items() if name not in _NOT_FOR_THE_ENGINE}
    kept |= {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "VLLM_LOGGING_COLOR": "0",
    }
    if device == "cpu":
        kept["VLLM_CPU_KVCACHE_SPACE"] = str(engine.cpu_kv_cache_gib)
    if api_key:
        kept["VLLM_API_KEY"] = api_key
    return kept


def startup_phase(lines: Iterable[str]) -> str:
    """Name what the engine is at while it starts, from the last line of its log that tells."""
    phase = "loading libraries"
    for line in lines:
        for mark, meaning in _STARTUP:
            if mark in line:
                phase = meaning
    return phase
