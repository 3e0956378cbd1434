"""What a pattern cannot say: check digits, ranges, and whether something is a secret or only speaks of one.

Each check takes a match and returns the span that is to go, or None. Touches nothing.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping

PLACEHOLDER = re.compile(r"\[[A-Z][A-Z_]{1,30}_[a-z]{6}\]")
"""What stands in the place of what was replaced."""

# ISO 13616: how long an IBAN of each country is.
_IBAN_LENGTHS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29"
    " ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20"
    " LB28 LC32 LI21 LT20 LU20 LV21 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29"
    " RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20"
)
_LENGTH_OF = {word[:2]: int(word[2:]) for word in _IBAN_LENGTHS.split()}
_NO_SECRETS = frozenset(
    [
        "none",
        "null",
        "true",
        "false",
        "undefined",
        "nil",
        "required",
        "optional",
        "string",
        "str",
        "int",
        "text",
        "secret",
        "password",
        "passwd",
        "passwort",
        "token",
        "key",
        "hidden",
        "redacted",
        "masked",
        "changeme",
        "example",
        "your",
        "yourpassword",
        "mypassword",
        "missing",
        "empty",
        "wrong",
        "invalid",
        "expired",
        "incorrect",
        "needed",
        "forgotten",
        "reset",
        "change",
        "changed",
        "here",
        "value",
        "input",
        "field",
        "type",
        "todo",
        "tbd",
        "unset",
        "default",
        "enabled",
        "disabled",
        "erforderlich",
        "falsch",
        "vergessen",
        "abgelaufen",
        "ungültig",
        "nicht",
        "leer",
        "fehlt",
        "obligatoire",
        "incorrecta",
        "requerida",
    ]
)
_STAND_INS = re.compile(
    r"(?i)^(?:[x*.•_-]+|your[\w-]*|my[_-][\w-]*|<.*>|\{.*|\$.*|%.*|\[.*|&.*|\.\.\.|example[\w-]*|"
    r"(?:insert|enter|replace|put|add|paste)[\w-]*|dein[\w-]*|ihr[e_-][\w-]*)$"
)
_CODE = re.compile(r"^(?:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+|[A-Za-z_][\w.]*[(\[].*|new\s.*|await\s.*|lambda.*)$")
_FILE_ENDINGS = frozenset(["png", "jpg", "jpeg", "gif", "svg", "webp", "js", "py", "css"])
_SPEAKS_OF = re.compile(
    r"(?i)(?:type|name|url|uri|count|limit|length|hint|policy|format|field|_id|id)[\"'`\])]{0,3}\s*[:=]>?\s*[\"'`]?$"
)
_UUID = re.compile(r"(?i)^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
_VERSION_BEFORE = re.compile(
    r"(?i)(?:\bv|version|release|section|abschnitt|kapitel|chapter|§|art(?:ikel)?(?:[.-]?nr)?\.?|no|nr|build|rev)[\s.:=_-]{0,3}$"
)
_SETTING = re.compile(r"\s*(?:- |export |set )?[\w.-]*")
_LINE_END = re.compile(r"[ \t\r\"']*(?:\n|\Z)")
# A line may be as long as its text: a setting's name ends nearer to its beginning.
_NAME_END = 1000
_CARD_PREFIX = re.compile(r"^(?:4|5[0-5]|2(?:2[2-9]|[3-6]|7[01]|720)|3[0-8]|6)")


def span_of(match: re.Match[str]) -> tuple[int, int]:
    """What of a match is to go where nothing else is asked: its group `v`, else all."""
    return match.span("v") if "v" in match.re.groupindex else match.span()


def luhn(digits: str) -> bool:
    """The check digit of payment cards (ISO/IEC 7812)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = int(digit) * (1 + place % 2)
        total += number - 9 if number > 9 else number
    return total % 10 == 0


def is_card(text: str) -> bool:
    """Whether digits, spaces and dashes are a payment card's number."""
    digits = re.sub(r"[ -]", "", text)
    known = digits.isascii() and digits.isdigit() and 13 <= len(digits) <= 19 and bool(_CARD_PREFIX.match(digits))
    return known and len(set(digits)) > 1 and luhn(digits)


def is_secret_value(text: str) -> bool:
    """Whether a text that stands where a secret is expected is one: no word for one, no code, no stand-in."""
    bare = text.strip().strip("\"'`„“”«».,;")
    if len(bare) < 4 or bare.casefold() in _NO_SECRETS or _STAND_INS.match(bare) or _CODE.match(bare):
        return False
    return not PLACEHOLDER.fullmatch(bare)


def _looks_random(text: str) -> bool:
    """Letters and digits mixed as no word is, at 3 bits a character or more; a UUID is a name, not a secret."""
    if not re.search(r"\d", text) or not re.search(r"[A-Za-z]", text) or _UUID.match(text):
        return False
    shares = [count / len(text) for count in Counter(text).values()]
    return -sum(share * math.log2(share) for share in shares) >= 3.0


def _jwt(match: re.Match[str]) -> tuple[int, int] | None:
    """A header and what follows it; of a header alone the pattern takes all, so that no part of it is tried again."""
    return match.span() if "." in match[0] else None


def _card(match: re.Match[str]) -> tuple[int, int] | None:
    return match.span() if is_card(match[0]) else None


def _iban(match: re.Match[str]) -> tuple[int, int] | None:
    """The IBAN at the start of the match, whatever words follow it."""
    text = match[0]
    length = _LENGTH_OF.get(text[:2].upper(), 0)
    taken, end = "", 0
    for at, char in enumerate(text):
        if char.isalnum():
            taken, end = taken + char.upper(), at + 1
        if len(taken) == length:
            break
    # In any case the pattern's letters are more than ASCII's.
    whole = len(taken) == length > 0 and taken.isascii() and not text[end : end + 1].isalnum()
    if not whole or int("".join(str(int(char, 36)) for char in taken[4:] + taken[:4])) % 97 != 1:
        return None
    return match.start(), match.start() + end


def _ipv4(match: re.Match[str]) -> tuple[int, int] | None:
    before = match.string[max(0, match.start() - 16) : match.start()]
    parts = match[0].split(".")
    if any(int(part) > 255 or (len(part) > 1 and part[0] == "0") for part in parts) or _VERSION_BEFORE.search(before):
        return None
    return None if parts[0] in ("0", "127", "255") else match.span()


def _ipv6(match: re.Match[str]) -> tuple[int, int] | None:
    try:
        address = ipaddress.IPv6Address(match[0])
    except ValueError:
        return None
    local = address.is_loopback or address.is_unspecified
    return None if local or not re.search(r"\d", match[0]) or len(match[0]) < 6 else match.span()


def _phone(match: re.Match[str]) -> tuple[int, int] | None:
    start, end = span_of(match)
    text = match.string[start:end]
    digits = re.sub(r"\D", "", text)
    # A date, however it is written, and a number that only counts, are none.
    if re.fullmatch(r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}(?:\s.*)?", text) or len(set(digits)) == 1:
        return None
    return (start, end) if 6 <= len(digits) <= 15 else None


def _national(match: re.Match[str]) -> tuple[int, int] | None:
    return _phone(match) if 9 <= len(re.sub(r"\D", "", match[0])) <= 15 else None


def _secret(match: re.Match[str]) -> tuple[int, int] | None:
    """A value assigned to something that is named like a password."""
    start, end = span_of(match)
    value = match.string[start:end]
    if not is_secret_value(value):
        return None
    # 1. A number of tokens is none of them, and a path only says where a secret lies.
    name = match.string[match.start() : start].lower()
    if _SPEAKS_OF.search(name):
        return None
    if (value.isdigit() and not re.search("pass|pin|wort|pwd", name)) or re.match(r"[~.]{0,2}/[\w./-]+$", value):
        return None
    # 2. Quoted, or joined to its name: it is the value. 3. After a blank it may be a sentence's or a program's next
    # word, unless it ends the line of a configuration.
    spaced = match.string[start - 1 : start].isspace()
    return (start, end) if not spaced or _is_odd(value) or _ends_setting(match.string, match.start(), end) else None


def _ends_setting(text: str, start: int, end: int) -> bool:
    """Whether name and value are all that stands on their line, or between quotation marks."""
    line = text.rfind("\n", max(0, start - _NAME_END), start) + 1
    quote = text.rfind('"', max(0, start - _NAME_END), start) + 1
    if max(line, quote) == 0 and start > _NAME_END:
        return False
    if not _SETTING.fullmatch(text, max(line, quote), start):
        return False
    return bool(_LINE_END.match(text, end)) or (quote > line and text[end : end + 1] == '"')


def _spoken(match: re.Match[str]) -> tuple[int, int] | None:
    """A value that a sentence gives: one that is no plain word, or stands in quotation marks."""
    start, end = span_of(match)
    value = match.string[start:end].rstrip(".,;:!?)")
    end = start + len(value)
    quoted = match.string[start - 1 : start] in ("'", '"', "`", "„", "“", "«", "»")
    return (start, end) if is_secret_value(value) and (quoted or _is_odd(value)) else None


def _is_odd(value: str) -> bool:
    return bool(re.search(r"\d|[^\w\s.,;:!?()-]", value)) or bool(re.search(r"[a-z][-_]?[A-Z]", value))


def _random(match: re.Match[str]) -> tuple[int, int] | None:
    start, end = span_of(match)
    value = match.string[start:end]
    return (start, end) if is_secret_value(value) and _looks_random(value) else None


def _vendor(match: re.Match[str]) -> tuple[int, int] | None:
    """What has a vendor's shape: all but words that happen to have it."""
    return match.span() if _looks_random(match[0]) else None


def _mixed(match: re.Match[str]) -> tuple[int, int] | None:
    """Small and capital letters and digits in one long word between quotation marks, as only keys have them."""
    start, end = span_of(match)
    value = match.string[start:end]
    if re.match("call_|chatcmpl|cmpl|req_|msg_|toolu_|resp_|file-|run_|thread_", value):
        return None
    mixed = re.search("[a-z]", value) and re.search("[A-Z]", value) and len(re.findall(r"\d", value)) >= 2
    return (start, end) if mixed and _looks_random(value) and not _CODE.match(value) else None


def _pem(match: re.Match[str]) -> tuple[int, int] | None:
    return match.span() if re.search(r"[A-Za-z0-9+/=]{20}", match[0].partition("-----\n")[2] or match[0][30:]) else None


def _mail(match: re.Match[str]) -> tuple[int, int] | None:
    local, _, domain = match[0].rpartition("@")
    # A service's address is nobody's, and `icon@2x.png` is a file.
    is_file = domain.rpartition(".")[2].lower() in _FILE_ENDINGS
    return None if local == "git" or is_file else match.span()


def _quoted(match: re.Match[str]) -> tuple[int, int] | None:
    """A value between quotation marks, or where nothing else can stand."""
    start, end = span_of(match)
    return (start, end) if is_secret_value(match.string[start:end]) else None


def _assigned_quoted(match: re.Match[str]) -> tuple[int, int] | None:
    start, end = span_of(match)
    is_about = _SPEAKS_OF.search(match.string[match.start() : start])
    value = match.string[start:end]
    path = re.match(r"[~.]{0,2}/[\w./-]+$", value)
    return (start, end) if is_secret_value(value) and not is_about and not path else None


def _query(match: re.Match[str]) -> tuple[int, int] | None:
    start, end = span_of(match)
    return (start, end) if re.search(r"\d", match.string[start:end]) and re.search("[A-Za-z]", match["v"]) else None


def _flag(match: re.Match[str]) -> tuple[int, int] | None:
    start, end = span_of(match)
    value = match.string[start:end]
    return (start, end) if is_secret_value(value) and not value.startswith("-") else None


def _client(match: re.Match[str]) -> tuple[int, int] | None:
    """What follows a client's flag for a password; a port or a file is another flag's."""
    start, end = span_of(match)
    value = match.string[start:end]
    return (start, end) if is_secret_value(value) and not value.isdigit() and "/" not in value else None


def _auth(match: re.Match[str]) -> tuple[int, int] | None:
    """What follows `Bearer` or `Basic`: no word of a sentence about it."""
    start, end = span_of(match)
    value = match.string[start:end].rstrip(".")
    odd = bool(re.search(r"\d|[=_+/]|[a-z][A-Z]", value))
    return (start, start + len(value)) if is_secret_value(value) and odd else None


CHECKS: Mapping[str, Callable[[re.Match[str]], tuple[int, int] | None]] = {
    "card": _card,
    "jwt": _jwt,
    "iban": _iban,
    "ipv4": _ipv4,
    "ipv6": _ipv6,
    "phone": _phone,
    "national": _national,
    "secret": _secret,
    "spoken": _spoken,
    "random": _random,
    "mail": _mail,
    "mixed": _mixed,
    "pem": _pem,
    "vendor": _vendor,
    "quoted": _quoted,
    "assigned_quoted": _assigned_quoted,
    "query": _query,
    "flag": _flag,
    "client": _client,
    "secret_auth": _auth,
}
"""The checks that a rule may name."""
