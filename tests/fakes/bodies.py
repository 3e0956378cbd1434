"""Bodies as the tests of what is done with them get them: read by the proxy's own reader."""

from __future__ import annotations

from gaiad.proxy.body import Fields, read_request
from gaiad.proxy.refusals import Rejection


def read_fields(raw: bytes) -> Fields | Rejection:
    """The top level of a body, without what else was found out about it."""
    read = read_request(raw)
    return read if isinstance(read, Rejection) else read[0]
