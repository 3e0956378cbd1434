"""Why a request is not served, in OpenAI's error shape.

Names the refusals and their status codes; sends nothing. The texts for models hold "does not exist", which clients
look for before they fall back to the base.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

RETRY_AFTER_S = 5
BUSY_RETRY_AFTER_S = 1


@dataclass(frozen=True, slots=True)
class Rejection:
    """One refusal: `message` is for people, `kind` and `code` are what OpenAI clients switch on.

    `closes`: the connection is of no further use.
    """

    status: int
    message: str
    kind: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    retry_after_s: int | None = None
    closes: bool = False

    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON body that OpenAI clients parse into an exception."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> Rejection:
    """400: the request itself is wrong."""
    return Rejection(400, message, param=param, code=code)


def unknown_model(name: str, hint: str) -> Rejection:
    """404 for a name in `model` that means nothing here."""
    return Rejection(404, f"The model `{name}` does not exist. {hint}", code="model_not_found", param="model")


def unknown_path(method: str, path: str, known: Iterable[str]) -> Rejection:
    """404 for a path that this proxy does not have."""
    message = f"There is no {method} {path} here. Known paths: {', '.join(known)}."
    return Rejection(404, message, code="unknown_url")


def not_served_by_engine(path: str) -> Rejection:
    """404 for a path of ours that the engine lacks with the model it has."""
    message = f"The engine does not serve {path}: the model it was started with is not made for that."
    return Rejection(404, message, code="not_served_by_engine")


def wrong_method(method: str, path: str, allowed: Iterable[str]) -> Rejection:
    """405 for a known path asked with the wrong method."""
    return Rejection(405, f"{path} takes {' or '.join(allowed)}, not {method}.", code="method_not_allowed")


def nested_too_deeply() -> Rejection:
    """400 for a body that is JSON, but of no use."""
    return bad_request("The body is nested too deeply.", code="invalid_json")


def too_large(limit_bytes: int) -> Rejection:
    """413 for a body above the limit."""
    message = f"The request body is larger than {limit_bytes} bytes. The owner can raise proxy.max_body_bytes."
    return Rejection(413, message, code="request_too_large")


def no_http() -> Rejection:
    """400 for bytes that are no HTTP request, or could be read as two different ones."""
    return Rejection(400, "The request is no proper HTTP.", code="invalid_http", closes=True)


def headers_too_large(limit_bytes: int, limit_count: int) -> Rejection:
    """400 for headers above the limits."""
    message = (
        f"A header or the request line is longer than {limit_bytes} bytes, or there are over {limit_count} headers."
    )
    return Rejection(400, message, code="headers_too_large", closes=True)


def too_slow(limit_s: float) -> Rejection:
    """408 for a body that did not come in time."""
    message = f"The request body was not here within {limit_s:g} s (proxy.limits.body_timeout_s)."
    return Rejection(408, message, code="request_timeout", closes=True)


def too_many_at_once(limit: int) -> Rejection:
    """429 for one request more than a user may have under way."""
    message = f"This user has {limit} requests under way, as many as may be. Wait for one to end."
    return Rejection(429, message, "rate_limit_error", "rate_limit_exceeded", retry_after_s=BUSY_RETRY_AFTER_S)


def not_now(reason: str, hint: str = "") -> Rejection:
    """503 for a request that was held in vain or not held at all."""
    message = f"{_sentence(reason)} {_sentence(hint)}".strip()
    return Rejection(503, message, "service_unavailable", "engine_unavailable", retry_after_s=RETRY_AFTER_S)


def engine_failed(reason: str) -> Rejection:
    """502 for an engine that broke off before it answered."""
    message = f"The engine failed before it answered: {_sentence(reason)} Try again; it is restarted if it died."
    return Rejection(502, message, "server_error", "engine_failed")


def engine_timeout(limit_s: float) -> Rejection:
    """504 for an engine that did not answer in time."""
    message = f"The engine did not answer within {limit_s:g} s (proxy.upstream_timeout_s)."
    return Rejection(504, message, "server_error", "engine_timeout")


def unknown_exchange(request_id: str) -> Rejection:
    """404 for a request id that is not, or no longer, on record."""
    message = f"No exchange `{request_id}` is on record. Use the X-Gaia-Request-Id header of a reply."
    return Rejection(404, message, code="unknown_exchange", param="request_id")


def unknown_response(response_id: str) -> Rejection:
    """404 for a kept reply that was not asked for with the caller's key."""
    message = f"No response `{response_id}` was asked for with this key, or gaiad was started since."
    return Rejection(404, message, code="unknown_response")


def refused_feedback(reason: str, hint: str) -> Rejection:
    """409 for feedback that may not be kept."""
    message = f"{_sentence(reason)} {_sentence(hint)}".strip()
    return Rejection(409, message, code="feedback_refused")


def without_identity() -> Rejection:
    """403 for consent that nobody in particular gives or asks for."""
    message = "Consent is somebody's: send a key, or X-Gaia-User with a name that can be kept."
    return Rejection(403, message, "permission_error", "no_identity")


def not_your_consent() -> Rejection:
    """403 for consent of somebody else than the caller."""
    message = "A caller may speak about their own consent only: leave out `user`."
    return Rejection(403, message, "permission_error", "not_your_consent", param="user")


def refused_consent(reason: str, hint: str) -> Rejection:
    """400 for a grant or revocation that cannot be kept."""
    return bad_request(f"{_sentence(reason)} {_sentence(hint)}".strip(), code="consent_refused")


def internal_failure(request_id: str) -> Rejection:
    """500 for a fault in the proxy itself."""
    message = f"gaiad failed on this request; its log names the fault under {request_id}."
    return Rejection(500, message, "server_error", "internal_error")


def _sentence(text: str) -> str:
    text = text.strip()
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
