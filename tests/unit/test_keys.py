"""A key opens what it says and nothing else, no file holds a secret, and a file that cannot be read opens nothing."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaiad.errors import ConfigError, GaiadError
from gaiad.keyfile import LOOK_EVERY_S, WatchedKeys, change_keys, new_key, read_keys
from gaiad.keys import Key, Keyring, consent_of, digest_of, key_name, parse, render, stages_of


def made(name: str = "ada", **held: frozenset[str] | None) -> tuple[Key, str]:
    return new_key(name, **{"stages": None, "consent": None, **held}, created=1.0)


def ring_of(*keys: Key) -> Keyring:
    return Keyring({key.id: key for key in keys})


def test_a_key_is_found_by_its_whole_text_alone() -> None:
    (ada, text), (bob, other) = made("ada"), made("bob")
    ring = ring_of(ada, bob)
    assert (ring.find(text), ring.find(other)) == (ada, bob)
    last = "0" if text[-1] != "0" else "1"
    for wrong in (
        "",
        "gaia",
        text[:-1],
        text + "0",
        text[:-1] + last,
        text.upper(),
        other[:13] + text[13:],
        ada.digest,
    ):
        assert ring.find(wrong) is None
    assert Keyring().find(text) is None


def test_a_key_is_256_random_bits_of_which_only_the_hash_is_kept() -> None:
    key, text = made()
    secret = text.rsplit("-", 1)[1]
    assert len(bytes.fromhex(secret)) == 32
    assert secret not in render(ring_of(key)) + repr(key)
    assert key.digest == digest_of(text)
    assert key.digest not in repr(key)
    assert made()[1] != made()[1]


@given(
    names=st.lists(st.text(min_size=1, max_size=20).filter(lambda text: key_name(text) is not None), unique=True),
    stages=st.none() | st.frozensets(st.sampled_from(["intent", "base"])),
    consent=st.none() | st.sampled_from([frozenset[str](), frozenset({"log", "train"})]),
)
def test_what_is_written_down_is_read_again(
    names: list[str], stages: frozenset[str] | None, consent: frozenset[str] | None
) -> None:
    ring = ring_of(*(made(name, stages=stages, consent=consent)[0] for name in names))
    assert parse(render(ring)) == ring


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_a_file_that_is_none_is_told(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)


ROW = {"name": "ada", "id": "01234567", "sha256": "0" * 64, "stages": None, "consent": None, "created": 1}


@pytest.mark.parametrize(
    "row",
    [
        {**ROW, "name": ""},
        {**ROW, "name": " ada"},
        {**ROW, "name": "a\nb"},
        {**ROW, "name": "x" * 201},
        {**ROW, "id": "1"},
        {**ROW, "sha256": "abc"},
        {**ROW, "stages": "intent"},
        {**ROW, "stages": [1]},
        {**ROW, "consent": ["sell"]},
        {**ROW, "created": None},
        {**ROW, "admin": True},
        {key: value for key, value in ROW.items() if key != "sha256"},
        5,
    ],
)
def test_a_row_that_is_no_key_is_refused_rather_than_guessed(row: object) -> None:
    assert parse(json.dumps({"keys": [ROW]})).keys.keys() == {"01234567"}
    with pytest.raises(ConfigError, match="number 1"):
        parse(json.dumps({"keys": [row]}))


def test_two_keys_of_one_name_or_id_are_refused() -> None:
    for other in ({**ROW, "id": "89abcdef"}, {**ROW, "name": "bob"}):
        with pytest.raises(ConfigError, match="share"):
            parse(json.dumps({"keys": [ROW, other]}))


@pytest.mark.parametrize(
    ("words", "purposes"),
    [
        ("none", frozenset()),
        ("log", {"log"}),
        ("Train", {"log", "train"}),
        ("train, evaluate", {"log", "train", "evaluate"}),
        ("none,log", None),
        ("sell", None),
        ("", None),
    ],
)
def test_consent_is_none_or_purposes_with_what_they_include(words: str, purposes: set[str] | None) -> None:
    assert consent_of(words) == purposes


def test_a_key_narrows_and_never_widens() -> None:
    granted = frozenset({"log", "evaluate"})
    assert made(consent=consent_of("train"))[0].narrowed(granted) == {"log"}
    assert made(consent=consent_of("none"))[0].narrowed(granted) == frozenset()
    assert made(consent=consent_of("train"))[0].narrowed(frozenset()) == frozenset()
    assert made()[0].narrowed(granted) == granted


def test_stages_are_known_ones() -> None:
    assert stages_of("intent, base,", ["intent", "base"]) == {"intent", "base"}
    for words in ("", ",", "intent,poetry"):
        with pytest.raises(ConfigError):
            stages_of(words, ["intent"])


# --- the file ---------------------------------------------------------------------------------------------------------


def add(path: Path, name: str) -> str:
    key, text = made(name)
    change_keys(path, lambda ring: ring.with_key(key))
    return text


def test_the_file_is_its_owners_alone_and_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    add(path, "ada")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open() as before:
        add(path, "bob")
        assert "bob" not in before.read()
    assert os.listdir(tmp_path) == ["keys.json"]


def test_changes_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    threads = [threading.Thread(target=add, args=(path, f"user-{at}")) for at in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ring = read_keys(path)
    assert ring is not None
    assert {key.name for key in ring.keys.values()} == {f"user-{at}" for at in range(12)}


def test_a_file_that_cannot_be_read_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("{")
    with pytest.raises(ConfigError):
        add(path, "ada")
    assert path.read_text() == "{"
    with pytest.raises(GaiadError, match="no folder"):
        add(tmp_path / "none" / "keys.json", "ada")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_written_by_root_is_its_folders_owners(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    add(tmp_path / "keys.json", "ada")
    found = (tmp_path / "keys.json").stat()
    assert (found.st_uid, found.st_gid) == (12345, 12345)


def test_a_change_is_noticed_at_once(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    text = add(path, "ada")
    watched = WatchedKeys(path)
    for name in ("bob", "eve"):
        other = add(path, name)
        ring = watched.current()
        assert ring is not None
        assert ring.find(other)
        assert ring.find(text)
    change_keys(path, lambda ring: ring.without("ada"))
    ring = watched.current()
    assert ring is not None
    assert ring.find(text) is None
    assert watched.current() is ring


def test_the_first_key_closes_the_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("gaiad.keyfile.time.monotonic", lambda: now)
    watched = WatchedKeys(tmp_path / "keys.json")
    assert watched.current() is None
    text = add(tmp_path / "keys.json", "ada")
    now += LOOK_EVERY_S
    ring = watched.current()
    assert ring is not None
    assert ring.find(text)


@pytest.mark.parametrize("harm", ["vanished", "torn", "empty", "folder"])
def test_a_file_that_vanishes_or_breaks_opens_nothing_until_it_is_back(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "keys.json"
    text = add(path, "ada")
    whole = path.read_text()
    watched = WatchedKeys(path)
    path.unlink()
    match harm:
        case "torn":
            path.write_text(whole[:-20])
        case "empty":
            path.write_text("")
        case "folder":
            path.mkdir()
    for _ in range(2):
        assert watched.current() == Keyring()
    if harm == "folder":
        path.rmdir()
    path.write_text(whole)
    ring = watched.current()
    assert ring is not None
    assert ring.find(text)


def test_a_daemon_does_not_start_with_keys_that_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{}")
    with pytest.raises(ConfigError):
        WatchedKeys(tmp_path / "keys.json")


def test_revoking_the_last_key_leaves_the_door_closed(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    add(path, "ada")
    change_keys(path, lambda ring: ring.without("ada"))
    assert WatchedKeys(path).current() == Keyring()
