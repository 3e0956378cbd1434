"""What a pattern cannot say: whether something at a secret's place, or in its shape, is a secret or only speaks of one.

Each check takes a match and returns the span that is to go, or None. Touches nothing.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Mapping

from gaiad.redact_doubts import (
    PLACEHOLDER,
    is_about,
    is_drawn,
    is_identifier,
    is_line_of_many,
    is_odd,
    is_place,
    is_public,
    is_secret_value,
    is_stand_in,
    is_term,
    is_uuid,
    looks_random,
    speaks_of,
)
from gaiad.redact_numbers import abroad, called, card, iban, ipv4, ipv6, local, national, span_of
from gaiad.redact_said import (
    chosen,
    groups,
    joined,
    line,
    pair,
    pair_of,
    phrase,
    pin,
    said_before,
    spoken,
    spoken_line,
    wifi,
    words,
)

_FILE_ENDINGS = frozenset(["png", "jpg", "jpeg", "gif", "svg", "webp", "js", "ts", "py", "css", "html", "service"])
_SETTING = re.compile(r"[\s*_>|]*(?:[-+] |\d\. |export |set |const |ENV |declare )?[*_]{0,2}(?:[\w.-]+[ \t]?){0,3}")
_PARTED = re.compile(r"[/|,;(] ?\Z")
_LINE_END = re.compile(r"[ \t\r\"'`*|]*(?:\n|\Z)")
# A line may be as long as its text: a setting's name ends nearer to its beginning.
_NAME_END = 1000


def _jwt(match: re.Match[str]) -> tuple[int, int] | None:
    """A header and what follows it; of a header alone the pattern takes all, so that no part of it is tried again."""
    return match.span() if "." in match[0] else None


# What makes of a key, whose name is used for much else, one that is kept.
_KEPT = re.compile(
    r"pass?w|pass|pw|wort|secret|pragma|credential|psk|wireless|wi-?fi|wlan|wpa|netzwerkschl|geheimschl|"
    r"(?:api|access|auth|private|encryption|master|signing|account|license|pre-?shared|network|bot|setup|client|"
    r"lizenz)"
    r"[ _-]?(?:key|schl|sleutel|nyckel|n[øo]kkel)"
)
_WEAK = re.compile(r"(?:key|schlüssel|sleutel|nyckel|kkel|sid|session\w*|cookie|auth|jwt|sig|code)\W*$")


_NETWORK = re.compile(r"(?i)\bssid\b|wi-?fi|wlan")


def _weak(name: str) -> bool:
    """Whether a name is used for much else: what it names must look like a secret by itself."""
    return _WEAK.search(name) is not None and _KEPT.search(name) is None


def _named(match: re.Match[str], start: int) -> str:
    """The name before a value, in small letters, with what it is joined to."""
    return match.string[max(0, match.start() - 24) : start].lower().rpartition("\n")[2]


def _secret(match: re.Match[str]) -> tuple[int, int] | None:
    """A value assigned to something that is named like a password."""
    if match["q"] is not None:
        return _assigned_quoted(match)
    start, end = match.span("w")
    value = match["w"]
    while value[-1:] in (")", "]", "}") and not re.search(r"[(\[{]", value):
        value = value[:-1]
    end = start + len(value)
    name = _named(match, start)
    if _weak(name) and _NETWORK.search(match.string, max(0, match.start() - 120), match.start()):
        name = f"wifi {name}"
    # A name that is given to itself is a variable.
    itself = re.fullmatch(r"[a-z_]+", value) and value in name
    if not value or itself or not is_secret_value(value) or not _may_name(name, value):
        return None
    # 1. Quoted, or joined to its name: it is the value. 2. After a blank it may be a sentence's or a program's next
    # word, unless it ends the line of a configuration.
    spaced = match.string[start - 1 : start].isspace()
    if is_about(value, match.string[end : end + 16]) or (spaced and is_term(value)):
        return None
    return (start, end) if not spaced or is_odd(value) or _ends_setting(match.string, match.start(), end) else None


def _may_name(name: str, value: str) -> bool:
    if speaks_of(name) or is_place(value):
        return False
    # 1. A number of tokens is none of them. 2. Of a chip's contacts one is called pin too.
    if value.isdigit() and not re.search(
        "pass|pin|wort|pwd|pw|psk|code|puk|tan|wpa|schl|key|contrase|clave|mdp|senha|has", name
    ):
        return False
    if re.search(r"(?<![a-z])pin\W*$", name) and not re.fullmatch(r"\d{4,12}", value):
        return False
    return not _weak(name) or is_drawn(value, 12)


def _ends_setting(text: str, start: int, end: int) -> bool:
    """Whether name and value are all that stands on their line, or between quotation marks."""
    line = text.rfind("\n", max(0, start - _NAME_END), start) + 1
    if parted := _PARTED.search(text, max(line, start - 3), start):
        line = parted.end()
    quote = text.rfind('"', max(0, start - _NAME_END), start) + 1
    if max(line, quote) == 0 and start > _NAME_END:
        return False
    if not _SETTING.fullmatch(text, max(line, quote), start):
        return False
    return bool(_LINE_END.match(text, end)) or (quote > line and text[end : end + 1] == '"')


# What a word drawn by lot is called by, some words before it.
_NAMES = re.compile(
    r"(?i)(?:token|secret|key|schlüssel|clé|clave|credential|sess(?:ion)?(?:[_-]?id)?|cookie|sig(?:nature)?|"
    r"jeton|klucz|"
    r"sleutel|chiave|chave|nyckel|nøkkel|nøgle|ключ|токен|密钥|密鑰|令牌|トークン|キー|シークレット|秘密鍵|키|토큰|anahtar|kulcs|cheie|"
    r"klíč|kľúč|ključ|κλειδί|"
    r"khóa|mã|kunci|مفتاح|رمز|מפתח|segredo|võti|avain|raktas|jwt|webhook|auth(?:orization)?|hmac|seed|login|"
    r"service install|--body|\bsid|app_?id)"
    r"(?:[_-]?(?:api|user|id|key|token))?[\"'`\])*]{0,3}\W{1,4}"
    r"(?:[\w'’]{1,12}\W{1,3}){0,4}$"
)


_CONSTANT = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|\S+\.[a-z]{1,4}")
# A name of a key, and no more than a verb before its value: what it is may look like an identifier.
_GIVES_KEY = re.compile(
    r"(?i)(?:api[ _-]?(?:key|token|schlüssel|sleutel|nyckel)|(?:clé|clave|chave|chiave) (?:de |da |d')?api|"
    r"secret(?:[ _-]?(?:key|id))?|token)"
    r"[\"'`]?[\s:=]{1,4}(?:(?:is|ist|lautet|est|es|è|é)\s{1,2})?[\"'`]?$"
)
# As seeds of one-time passwords are written.
_BASE_32 = re.compile(r"(?=\D*\d)[A-Z2-7]{16}")


def _random(match: re.Match[str]) -> tuple[int, int] | None:
    """A word drawn by lot, with the name of a secret before it."""
    start, value = match.start("v"), match["v"].rstrip(".")
    if is_uuid(value):
        named = _GIVES_KEY.search(match.string[max(0, start - 48) : start])
        return (start, start + len(value)) if named else None
    if len(value) < 15 or is_identifier(value) or _CONSTANT.fullmatch(value):
        return None
    if not (looks_random(value) if len(value) >= 20 else is_drawn(value) or _BASE_32.fullmatch(value)):
        return None
    name = match.string[max(0, start - 80) : start]
    named = _NAMES.search(name)
    if named is None:
        return None
    # An identifier of a session is as good as a password, whatever its name says.
    session = re.match("(?i)sess|sid|cookie|app", named[0]) is not None
    if not session and (is_public(name) or speaks_of(name[max(0, named.start() - 12) :])):
        return None
    return (start, start + len(value)) if is_secret_value(value) and not is_place(value) else None


def _bare(match: re.Match[str]) -> tuple[int, int] | None:
    """A long word drawn by lot from letters of both kinds and digits, that nothing says to be an identifier."""
    start, end = span_of(match)
    value = match["v"]
    before = match.string[max(0, start - 40) : start]
    mixed = re.search("[a-z]", value) and re.search("[A-Z]", value) and len(re.findall(r"\d", value)) >= 3
    if not mixed or not is_drawn(value, 28) or is_identifier(value) or is_public(before):
        return None
    return (
        None
        if is_line_of_many(match.string, start, end)
        or re.search(r"ssh-\S+ $|base64[:,]?\s?$|/$|(?<!PRIVATE KEY)-----\n$", before)
        else (start, end)
    )


def _vendor(match: re.Match[str]) -> tuple[int, int] | None:
    """What has a vendor's shape: all but words that happen to have it."""
    start, end = span_of(match)
    return (start, end) if looks_random(match.string[start:end]) else None


def _drawn_shape(match: re.Match[str]) -> tuple[int, int] | None:
    """What has a vendor's shape where words are likely to have it too."""
    text = match[0].rstrip(".%")
    # So begin the names of tests too.
    if text.startswith("test_") and not re.fullmatch(r"test_[A-Za-z0-9]{20,}", text):
        return None
    return (match.start(), match.start() + len(text)) if is_drawn(text, 12, 0.15, 1) else None


def _exact(match: re.Match[str]) -> tuple[int, int] | None:
    """What has a vendor's shape to the character: all but stand-ins."""
    return None if is_stand_in(match[0]) else match.span()


def _mixed(match: re.Match[str]) -> tuple[int, int] | None:
    """Small and capital letters and digits in one long word between quotation marks, as only keys have them."""
    start, end = span_of(match)
    value = match.string[start:end]
    mixed = re.search("[a-z]", value) and re.search("[A-Z]", value) and len(re.findall(r"\d", value)) >= 2
    if not mixed or not is_drawn(value) or not is_secret_value(value) or is_identifier(value):
        return None
    return None if is_public(match.string[max(0, start - 40) : start]) else (start, end)


def _pem_in_base64(match: re.Match[str]) -> tuple[int, int] | None:
    """A private key in Base64 once more, as a cluster's secrets hold it; certificates begin alike."""
    return match.span() if b"PRIVATE KEY" in b64decode(match[0][:52]) else None


def _pem(match: re.Match[str]) -> tuple[int, int] | None:
    return match.span() if re.search(r"[A-Za-z0-9+/=]{20}", match[0].partition("-----\n")[2] or match[0][30:]) else None


_NO_MAILBOX = re.compile(r"(?i)\.(?:lan|local|localhost|localdomain|home|internal|intern|intra|box|corp|invalid|arpa)$")
_LOG_INTO = re.compile(
    r"(?:\b(?:ssh|mosh|ssh-copy-id|autossh|sshfs|sftp)(?:\s+-\w+(?:\s+[^\s@-][^\s@]{0,40})?){0,6}\s+|"
    r"\b(?:scp|rsync)\b[^\n|;&]{0,80}\s|(?<!:)//)$"
)


def _mail(match: re.Match[str]) -> tuple[int, int] | None:
    text, start = match.string, match.start()
    local, _, domain = match[0].rpartition("@")
    # In an address of the web the name begins behind what divides its parts.
    kept = re.split(r"[/?&={}|]", local)[-1]
    start += len(local) - len(kept)
    # 1. A service's address is nobody's, and `icon@2x.png` is a file. 2. Who logs in somewhere has no mailbox there.
    is_file = domain.rpartition(".")[2].lower() in _FILE_ENDINGS
    if not kept or kept == "git" or is_file or "$" in kept or kept.startswith("%"):
        return None
    before = text[max(0, start - 100) : start]
    logs_in = (
        _LOG_INTO.search(before) or before.endswith("://") or re.match(r":[~/]", text[match.end() : match.end() + 2])
    )
    return None if logs_in or (_NO_MAILBOX.search(domain)) else (start, match.end())


def _quoted(match: re.Match[str]) -> tuple[int, int] | None:
    """A value between quotation marks, or where nothing else can stand."""
    start, end = span_of(match)
    return (start, end) if is_secret_value(match.string[start:end]) else None


def _odd(match: re.Match[str]) -> tuple[int, int] | None:
    """A value at a place where a plain word may stand too."""
    start, end = span_of(match)
    value = match.string[start:end].rstrip(".,;)") if start < end else ""
    fits = (
        is_secret_value(value)
        and is_odd(value)
        and not is_place(value)
        and not is_term(value)
        and not value.endswith(":")
    )
    return (start, start + len(value)) if fits and not speaks_of(match.string[match.start() : start]) else None


def _drawn(match: re.Match[str]) -> tuple[int, int] | None:
    start, end = span_of(match)
    return (start, end) if is_drawn(match.string[start:end]) else None


def _assigned_quoted(match: re.Match[str]) -> tuple[int, int] | None:
    start, end = span_of(match)
    value = match.string[start:end]
    if not is_secret_value(value) or (value.endswith((": ", ":", "?")) and " " in value.strip()):
        return None
    return (start, end) if _may_name(_named(match, start), value) else None


def _query(match: re.Match[str]) -> tuple[int, int] | None:
    start, end = span_of(match)
    value = match.string[start:end]
    return (start, end) if re.search(r"\d", value) and re.search("[A-Za-z]", value) and is_secret_value(value) else None


# The flag of a program, up to its value; of keys only those that are kept.
_FLAG = re.compile(
    r"(?i)(?:^|[\s\"'`(\[=])--?(?:(?:[a-z]{1,20}-){0,2}(?:pass\w{0,8}|pw|token|secret|psk)|(?:src|"
    r"dest)?(?:store|key)pass|"
    r"(?:[a-z]{1,20}-)?(?:api|secret|access|auth|setup)-?(?:key|token))[\s=]+[\"']?$"
)


def _flag(match: re.Match[str]) -> tuple[int, int] | None:
    start, end = span_of(match)
    value = match.string[start:end]
    name = match.string[max(0, match.start() - 28) : start]
    fits = is_secret_value(value) and not value.startswith("-") and not is_place(value)
    return (start, end) if fits and _FLAG.search(name) and not speaks_of(name) else None


# A program, what is between, and the letter of its flag for a password.
_CLIENT = re.compile(
    r"(?i)(?:\b(?:redis-cli|mosquitto_(?:pub|sub)|sqlcmd|bcp)\b[^|;]{0,80}? -[aP]|\bsnmp\w+\b[^|;]{0,80}? -[AX]|"
    r"\brar\b[^|;]{0,80}? -hp|"
    r"\b(?:docker|podman|az|helm registry) login\b[^|;]{0,80}? -p|"
    r"\b(?:ldap\w+|ipmitool)\b[^|;]{0,80}? -[wP]|\bsnmp\w+\b[^|;]{0,80}? -c|\bopenssl\b[^|;]{0,80}? -k|"
    r"\b(?:my(?:sql|loader|dumper)\w*|mariadb[\w-]*|mongo\w*|psexec\w*|sshpass|smbclient|zip|unzip|7z\w?|"
    r"rdesktop|xfreerdp|psql|"
    r"usermod|useradd|hydra|crackmapexec|netexec|nxc|evil-winrm|unrar|rar|sqlcmd|bcp)"
    r"\b[^|;]{0,80}? -p|(?: -u ?|--user(?:name)?[ =])[^\s:]{1,40} (?:-\w+ |\S+ )?-p)$"
)


def _client(match: re.Match[str]) -> tuple[int, int] | None:
    """What follows a client's flag for a password; a port or a file is another flag's."""
    start, end = span_of(match)
    value = match.string[start:end]
    before = match.string[max(0, match.start() - 100) : match.start()].rpartition("\n")[2]
    fits = is_secret_value(value) and not re.fullmatch(r"[\d:.-]+|.*/.*", value)
    return (start, end) if fits and _CLIENT.search(before + match[0][: 3 if match[0][1] == "h" else 2]) else None


def _user(match: re.Match[str]) -> tuple[int, int] | None:
    """What follows a user's name and a colon; two numbers are a user and a group."""
    start, end = span_of(match)
    value = match.string[start:end]
    return (start, end) if is_secret_value(value) and not (value.isdigit() and len(value) < 6) else None


def _auth(match: re.Match[str]) -> tuple[int, int] | None:
    """What follows `Bearer` or `Basic`: no word of a sentence about it."""
    start, end = span_of(match)
    value = match.string[start:end].rstrip(".")
    return (start, start + len(value)) if is_secret_value(value) and is_odd(value) else None


def _odd_argument(match: re.Match[str]) -> tuple[int, int] | None:
    """What is handed over beside the name of a secret; a sentence is a prompt, and a name another name."""
    start, end = span_of(match)
    value = match.string[start:end]
    plain = " " in value or re.fullmatch(r"[a-z_]+\d?|[A-Z_]+\d?|[\w-]+\[.*|[#.].*", value)
    return (start, end) if not plain and is_odd(value) and is_secret_value(value) and not is_place(value) else None


# What lines of a configuration of routers, and of servers that are set in their manner, begin with.
_DEVICE = re.compile(
    r"(?i)[ \t]*(?:enable|bindpw|rootpw|username|user|snmp-server|neighbor|ppp|tacacs[\w-]*|radius[\w-]*|crypto|ip|"
    r"standby|env|arg|setx|masterauth|rootpw|wpa-psk|key-string|r[ow]community|com2sec|set|ntp|authentication|"
    r"password|secret|requirepass|masterauth|isakmp|peer|"
    r"key|line|pre-shared-key|server|address)\b[^\n:=]*$"
)


def _device(match: re.Match[str]) -> tuple[int, int] | None:
    """The secret in a line of a router's configuration."""
    start, end = span_of(match)
    value, text = match["v"], match.string
    line = max(text.rfind("\n", max(0, match.start() - 120), match.start()) + 1, match.start() - 120)
    fits = is_secret_value(value) and is_odd(value) and not re.match(r"\$\d", value)
    return (start, end) if fits and _DEVICE.match(text[max(0, line) : start]) else None


def _mail_words(match: re.Match[str]) -> tuple[int, int] | None:
    return match.span() if match.string[match.end() : match.end() + 1] not in ("-", "/") else None


def _webhook(match: re.Match[str]) -> tuple[int, int] | None:
    """The part of an address by which alone it is entered, from the first piece that is drawn by lot."""
    start, end = match.span("v")
    at = start
    for piece in match["v"].split("/"):
        name = piece.rpartition(".")[0] or piece
        if len(piece) >= 7 and re.search(r"\d", name) and re.search(r"[a-z]", name) and not PLACEHOLDER.search(piece):
            changes = len(re.findall(r"(?i)[a-z]\d|\d[a-z]", name)) >= 2
            return (at, end) if changes or is_identifier(name) or looks_random(name) else None
        at += len(piece) + 1
    return None


CHECKS: Mapping[str, Callable[[re.Match[str]], tuple[int, int] | None]] = {
    "card": card,
    "jwt": _jwt,
    "iban": iban,
    "ipv4": ipv4,
    "ipv6": ipv6,
    "phone": national,
    "national": national,
    "secret": _secret,
    "spoken": spoken,
    "spoken_line": spoken_line,
    "random": _random,
    "mail": _mail,
    "mixed": _mixed,
    "pem": _pem,
    "pem_in_base64": _pem_in_base64,
    "vendor": _vendor,
    "drawn_shape": _drawn_shape,
    "quoted": _quoted,
    "assigned_quoted": _assigned_quoted,
    "query": _query,
    "flag": _flag,
    "client": _client,
    "secret_auth": _auth,
    "abroad": abroad,
    "called": called,
    "local": local,
    "bare": _bare,
    "odd": _odd,
    "drawn": _drawn,
    "user": _user,
    "pair": pair,
    "said_before": said_before,
    "pair_of": pair_of,
    "odd_argument": _odd_argument,
    "device": _device,
    "groups": groups,
    "phrase": phrase,
    "mail_words": _mail_words,
    "webhook": _webhook,
    "pin": pin,
    "chosen": chosen,
    "line": line,
    "wifi": wifi,
    "joined": joined,
    "words": words,
    "exact": _exact,
}
"""The checks that a rule may name."""
