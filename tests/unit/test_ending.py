"""What is said about a child that ended."""

from __future__ import annotations

import pytest

from gaiad.ending import failure_line, how_it_ended, last_words

LIMIT = (
    "(APIServer pid=3120) WARNING 11-24 22:41:00 [system_utils.py:255] Found ulimit of 20000 and failed to raise it."
    " This can cause fd limit errors like `OSError: [Errno 24] Too many open files`. Consider increasing it."
)
KERNELS = "Failed to load CPU gemm_4bit_forward from kernels-community: No module named 'kernels'. Please install it"
CAUSE = "(EngineCore pid=2) ERROR 11-23 07:58:50 [core.py:5] ValueError: no such dtype"
ECHO = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-11, "was killed by signal 11 (SIGSEGV)"),
        (-9, "was killed by signal 9 (SIGKILL): somebody, or the kernel for want of memory, ended it"),
        (-63, "was killed by signal 63"),
    ],
)
def test_an_exit_code_is_told_in_words(code: int, words: str) -> None:
    assert how_it_ended(code) == words


def test_failure_is_the_last_error_without_the_loggers_prefix() -> None:
    assert failure_line([CAUSE, ECHO]) == "ValueError: no such dtype"
    assert failure_line(["all is well"]) == ""


def test_an_echo_of_another_failure_is_told_only_where_nothing_better_is() -> None:
    assert failure_line([ECHO]).startswith("RuntimeError: Engine core initialization failed")


@pytest.mark.parametrize(
    "line",
    [
        LIMIT,
        KERNELS,
        "WARNING:root:ValueError: not so bad",
        "2026-11-24 22:41:00,123 - INFO - retrying after TimeoutError: slow",
        "[2026-11-24 22:41:00] WARNING [x.py:1] OSError: again",
        "/x/y.py:3: UserWarning: There appear to be 1 leaked shared_memory objects to clean up: Error: none",
        "  warnings.warn(f'Error: {x}')",
        "Loading weights: 100%|#####| Error: none",
    ],
)
def test_a_warning_is_never_named_as_the_cause(line: str) -> None:
    assert failure_line([line]) == ""
    assert last_words([line]) == ""
    assert last_words(["torch.OutOfMemoryError: no room", line]) == "torch.OutOfMemoryError: no room"


def test_an_error_that_speaks_of_a_warning_is_still_an_error() -> None:
    told = "(APIServer pid=1) ERROR 11-23 07:58:50 [a.py:1] ValueError: no level named INFO"
    assert failure_line([told]) == "ValueError: no level named INFO"


def test_last_words_are_the_last_line_where_no_error_stands() -> None:
    assert last_words(["reading", "", "cannot go on  ", "\n"]) == "cannot go on"
    assert last_words([]) == ""
