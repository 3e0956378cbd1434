"""The allow-list: what is in it, and that an id can carry nothing but itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.proxy.endpoints import ERRANDS, INFERENCE, RESPONSES, stored_response


def test_the_list_is_this_one() -> None:
    assert {*INFERENCE, *ERRANDS} == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/embeddings",
        "/v1/score",
        "/v1/rerank",
        "/tokenize",
        "/detokenize",
    }
    assert all(endpoint.path == path for path, endpoint in {**INFERENCE, **ERRANDS}.items())


@pytest.mark.parametrize(
    ("path", "method"), [("/v1/responses/resp_0aB-_9", "GET"), ("/v1/responses/resp_0a/cancel", "POST")]
)
def test_a_kept_response_is_read_or_cancelled_by_its_id(path: str, method: str) -> None:
    stored = stored_response(path)
    assert stored is not None
    assert (stored.method, stored.path) == (method, path)


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "resp_",
        "0a",
        "resp_0a/",
        "resp_0a//cancel",
        "resp_0a/cancel/",
        "resp_0a/input_items",
        "resp_0a/../../sleep",
        "../sleep",
        "resp_%2e%2e",
        "resp_0a?x",
        "resp_0a\n",
        "resp_0a b",
        "resp_ä",
        "resp_" + "a" * 65,
        "render",
    ],
)
def test_an_id_holds_letters_digits_and_nothing_else(rest: str) -> None:
    assert stored_response(RESPONSES + rest) is None


@given(st.text(alphabet=st.sampled_from("resp_0a/.%\r\n cancel"), max_size=20))
def test_no_path_of_an_id_leads_elsewhere(rest: str) -> None:
    stored = stored_response(RESPONSES + rest)
    assert stored is None or stored.path in (RESPONSES + stored.id, f"{RESPONSES}{stored.id}/cancel")
    assert stored is None or not {"/", ".", "%", " ", "\r", "\n"} & set(stored.id)
