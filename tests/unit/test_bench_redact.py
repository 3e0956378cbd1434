"""What the benchmark of redaction measures, without measuring."""

from __future__ import annotations

import json
from random import Random

from bench.redact import BAR_US, Row, as_table, docs, exchange, talk, text


def test_texts_are_of_their_size_and_never_the_same() -> None:
    for words in (talk(), docs()):
        random = Random(1)
        first, second = text(random, words, 2048), text(random, words, 2048)
        assert (len(first), len(second)) == (2048, 2048)
        assert first != second


def test_an_exchange_is_about_2_kb() -> None:
    assert 2000 < len(json.dumps(exchange(Random(1), talk()))) < 2800


def test_the_table_says_whether_the_bar_holds() -> None:
    rows = [Row("talk", "1024 KB", 50_000.0, 1.0, 20.0), Row("talk", "exchange", BAR_US, 30.0)]
    assert as_table(rows).endswith("holds")
    assert as_table([Row("talk", "exchange", BAR_US + 1, 30.0)]).endswith("missed")
