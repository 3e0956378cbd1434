"""What sentences say of secrets: a value behind its name, before it, beside it, or in groups.

Each check takes a match and returns the span that is to go, or None. Touches nothing.
"""

from __future__ import annotations

import re

from gaiad.redact_doubts import (
    is_about,
    is_amount,
    is_code,
    is_drawn,
    is_identifier,
    is_odd,
    is_place,
    is_secret_value,
    is_term,
    speaks_of,
)
from gaiad.redact_numbers import Span

_MARKS = ("'", '"', "`", "„", "“", "«", "»")
_QUOTED = re.compile(r"([\"'`])[^\"'`\n\\]{4,100}\1|„[^“”\n]{4,100}[“”]|“[^”\n]{4,100}”|«[^»\n]{4,100}»")
_KEPT = re.compile(
    r"pass|wo?or[dt]|wi-?fi|wlan|wpa|adgangs|senord|pin\b|pw|psk|clave|contrase|senha|mdp|secret|parola|heslo|"
    r"salasana|"
    r"lozinka|jelsz|has|\d\W*$"
)
_PIN = re.compile(r"\bpin\b(?!.*(?:pass|wor[dt]))")
_DIRECT = re.compile(r"(?:\b(?:is|ist|est|es|lautet|to|auf|now|jetzt|was|war|je|er|on)|[:=→—–èéä]r?|c'est)\s{1,3}\W*$")
_TYPED = re.compile(r"\b(?:says|steht|typed?|chose|used?|tried|try|ich|enter(?:ed)?|in)\s{1,3}\W*$|\?\s")
_ACCOUNT = re.compile(
    r"(?i)(?:user|account|konto|benutzer|compte|cuenta|called|named|namens|login|host|server|file|datei)\W{0,3}$"
)
_PINS = re.compile(
    r"(?<![a-z])pin(?:s|nen)?\b|pin[_-]?[ck]|\bpuk|ombination|pas{1,2}w|passcode|kennwort|\bпин|\bπιν\b|暗証|密码|"
    r"비밀|비번|\bm?tan\b|"
    r"\bt?otp\b|\b2fa\b|homekit|matter|geheim|secreto?\b|segreto|haustür|garagentor|schloss|schlüssel|lock ?box|"
    r"key ?box|digicode|keypad"
)
_GIVES = re.compile(
    r"(?:\b(?:is|ist|lautet|est|es|er|är|je|jest|to|on|su|este)\b|(?<!\w)[èé]|[:=：]|は|是|은|는)[\s\"'(#*]{0,3}$"
)
_NEXT = re.compile(
    r"(?:(?<![a-z])pin|pin[_-]?[ck]\w{2,3}|\bpuk\d?|\bпин(?:-?код)?|\bπιν|密码|비밀번호|비번|번호|ombination|passcode|"
    r"pas{1,2}wor[dt]|kennwort|\bm?tan|\bt?otp|"
    r"\b2fa|homekit|matter code|geheim(?:zahl|nummer)|secreto?|segreto|haustür|garagentor|schloss|schlüssel\w+|"
    r"lock ?box|key ?box|digicode|keypad|pin number|number)"
    r"(?:[\s\"'#*]{0,3}|\s\()$"
)
_PIN_NEXT = re.compile(r"(?:(?<![a-z])pin|\bpuk|pin[_-]?code)[\s\"'(]{1,3}$")
_PLACES = (
    r"door|gate|backup|recovery|alarm|entry|entrance|access|unlock|lock\w*|safe|garage|keypad|key ?box|airbnb|"
    r"security|verif\w+|one-?time|pin|pairing|"
    r"homekit|setup|log-?in|sms|otp|2fa|wifi|voicemail|tür|tor|toröffner|zugangs|eingangs|tresor|sperr|"
    r"bestätigungs|sicherheits|"
    r"einmal|porte|portail|coffre|entrée|puerta|portal|caja|portone|cancello|cassaforte|porta|portão|cofre|"
    r"bramy|drzwi|domofon|"
    r"brance|dveř|vchod|dörr|dør|ovi|ajtó|kapu|kapı|pintu|deur|poort|toegangs|kluis|двер|домофон|подъезд|калит|сейф"
)
_CODES = r"(?:code|código|codice|kode?n?|kodu?|koodi|kód\w{0,2}|код\w{0,2})"
_OPENS = re.compile(
    rf"(?:(?:{_PLACES})[ -]?|\bport){_CODES}[\s\"'#*(]{{1,3}}$|"
    rf"{_CODES} (?:\S{{1,6}} ){{0,2}}?(?:d')?(?:{_PLACES})\w{{0,5}}[\s#*]{{1,2}}$"
)
_YOURS = (
    rf"\b(?:your|ihr|dein|votre|ton|su|tu|il tuo|uw|je|din|twój|ваш)\s{_CODES}\W{{0,3}}(?:is|lautet|est|es|è|är|"
    rf"to|je)?\W{{0,3}}$"
)
_DOORS = re.compile(rf"(?:{_PLACES})[ -]?{_CODES}|\bport{_CODES}|{_YOURS}")
_CODE_OF = re.compile(
    rf"{_CODES} (?:(?:for|to|für|de|du|del|della|dell'|per|d'|van|do|da|til|k|od|от|к|zum|zur)\b ?|"
    rf"(?:d')?(?:{_PLACES}))"
)


def pin(match: re.Match[str]) -> Span | None:
    """A number that is called a PIN, or a code that opens something."""
    start, end = match.span("v")
    before = match.string[max(0, match.start() - 24) : start].lower()
    # 1. Directly behind its name, or behind a verb or a colon. 2. A year needs those, but behind PIN itself.
    said = _GIVES.search(before)
    year = re.fullmatch(r"(?:19|20)\d\d", match["v"])
    if said:
        called = bool(_PINS.search(before)) or _is_door(before)
    else:
        called = not year and (bool(_NEXT.search(before)) or _is_place(before))
    called = called or bool(year and _PIN_NEXT.search(before))
    counts = is_about(match["v"], match.string[end : end + 16]) or speaks_of(before)
    return (start, end) if called and not counts else None


def spoken(match: re.Match[str]) -> Span | None:
    """A value that a sentence gives: one that is no plain word, or stands in quotation marks."""
    start, end = match.span("v")
    value = match["v"].rstrip(".,;:!?)*]}")
    end = start + len(value)
    if not value or not is_secret_value(value) or is_place(value) or is_term(value.lstrip("(")) or is_amount(value):
        return None
    name = match[0][: start - match.start()].lower()
    before = match.string[max(0, match.start() - 20) : match.start()].lower()
    if speaks_of(before + name) or is_about(value, match.string[end : end + 16]):
        return None
    if _PIN.search(name) and not value.isdigit():
        return None
    # A code is many things: there it must look like a secret, or open something.
    if not _KEPT.search(name):
        if _TYPED.search(name):
            return None
        return (start, end) if is_drawn(value, 10) or (_is_door(before + name) and is_odd(value)) else None
    if match.string[start - 1 : start] in _MARKS:
        closed = _QUOTED.match(match.string, start - 1)
        return (start, closed.end() - 1 if closed else end)
    return (start, end) if _is_said(name, value) else None


def _is_said(name: str, value: str) -> bool:
    """Whether a value without quotation marks is no word of the sentence, and no piece of a program."""
    if is_code(value):
        return False
    # 1. A secret is much else, and `clave` a key to everything. 2. Some words further on a name such as KeePass may
    # stand, which has but a capital letter within.
    if re.match(r"(?:secret|clave)\b", name) and not (re.search(r"\d", value) and re.search(r"[A-Za-z]", value)):
        return False
    return is_odd(value) and bool(_DIRECT.search(name) or re.search(r"\d|[^\w\s.,;:!?()/-]", value))


def spoken_line(match: re.Match[str]) -> Span | None:
    """A word joined of several at the end of a line that names it."""
    start, end = match.span("v")
    fits = is_secret_value(match["v"]) and not is_place(match["v"]) and not is_term(match["v"])
    return (start, end) if fits and not speaks_of(match.string[match.start() : start]) else None


def _is_place(name: str) -> bool:
    """Whether a code's name ends with what it opens, or begins with it and ends there."""
    return bool(_OPENS.search(name))


def _is_door(name: str) -> bool:
    """Whether a code is one that opens something."""
    return bool(_DOORS.search(name) or _CODE_OF.search(name))


def pair(match: re.Match[str]) -> Span | None:
    """What stands behind a name or an address as its password does."""
    start, end = match.span("v")
    value = match.string[start:end].rstrip(".,;:)")
    fits = is_secret_value(value) and is_odd(value) and not is_place(value) and not is_code(value)
    fits = fits and re.search(r"[^\W\d]", value) is not None
    in_address = re.search(r"://\S*$", match.string[max(0, match.start() - 80) : match.start()])
    return (start, start + len(value)) if fits and "@" not in value[1:-1] and not in_address else None


def pair_of(match: re.Match[str]) -> Span | None:
    """An old value and a new one."""
    start, end = match.span("v")
    words = match.string[start:end].rstrip(".,;:!?)").split()
    fits = all(
        is_secret_value(word) and is_odd(word) and not is_place(word) for word in (words[0].strip(","), words[-1])
    )
    return (start, end) if fits else None


def phrase(match: re.Match[str]) -> Span | None:
    """Words behind a name that begins a line, or what stands between quotation marks."""
    begin = match.start()
    line = re.split(r"[\n\"]", match.string[max(0, begin - 40) : begin])[-1]
    named = re.fullmatch(r"\s{0,20}(?:wpa_?|ma |meine |my )?(?:phrase de |master.)?", line, re.IGNORECASE)
    return match.span("v") if named and is_secret_value(match["v"]) else None


_PRINTED = re.compile(
    r"(?i)(?:app(?:lication|-specific|le)?[ -]?|\bbit|"
    r"\b(?:2fa|setup|totp|authenticator|recovery|backup|reserve|wiederherstellungs)[ -]?)$"
)


def groups(match: re.Match[str]) -> Span | None:
    """Groups of letters and digits, as machines print secrets for people to copy."""
    start, end = match.span("v")
    if not _PRINTED.search(match.string[max(0, match.start() - 24) : match.start()]):
        return None
    parts = re.split(r"[ ,\n-]+", match["v"])
    same = len({len(group) for group in parts}) == 1
    # Words of a sentence may be of one length too: four of four letters are what an application is let in by.
    four = [len(group) for group in parts] == [4] * 4 and re.search("[:=]", match[0])
    printed = four or any(re.search(r"\d", group) for group in parts)
    return (start, end) if same and printed else None


def chosen(match: re.Match[str]) -> Span | None:
    """A word of letters and digits, some words behind the name of a secret that somebody says to have chosen."""
    start, end = match.span("v")
    value = match["v"].rstrip(".!?")
    fits = is_secret_value(value) and not is_place(value) and not is_term(value) and not is_amount(value)
    named = _ACCOUNT.search(match.string[max(0, start - 40) : start])
    return (start, end) if fits and not named and not is_identifier(value) and not speaks_of(match[0][:24]) else None


def line(match: re.Match[str]) -> Span | None:
    """A word with letters and digits, or with a symbol, that is a whole line behind the name of a secret."""
    value = match["v"]
    mixed = re.search(r"[^\W\d]", value) and re.search(r"\d|[!#$%&+?*-]", value)
    fits = mixed and is_secret_value(value) and is_odd(value) and not is_place(value) and not is_term(value)
    return (
        match.span("v")
        if fits and not re.search(r"[=(){}<>;,|]|^[\w*.~-]*/|^@|^\w+\.[a-z]|pass\w*\d?$", value)
        else None
    )


_JOINTS = re.compile(r"(?i)[-_](?:of|to|the|in|by|and|on|a|und|de|la|et|up|off|out)[-_]")
_WORDINGS = frozenset(
    ["anders", "immer", "jetzt", "nicht", "folgendermaßen", "gleich", "genauso", "noch", "aber", "auch"]
)
_FUNCTION_WORDS = (
    "the and not for with you your our its has have can will must should that this from are was but any all"
    " only der die das und nicht ein eine mit für den dem ist sind hat bitte beim vom zum wie auf les des une"
    " pas pour avec dans que los las del una con por para non per che della het een niet van voor met"
)
_SENTENCE = frozenset(_FUNCTION_WORDS.split())


def words(match: re.Match[str]) -> Span | None:
    """Four words and more that make no sentence."""
    said = re.split(r"[ -]", match["v"].casefold())
    return None if _SENTENCE.intersection(said) or len(set(said)) < 4 else match.span("v")


def joined(match: re.Match[str]) -> Span | None:
    """A word that is joined of three or more, and what is said to be the wording."""
    value = match["v"]
    fits = (
        is_secret_value(value)
        and not _JOINTS.search(value)
        and not speaks_of(match[0][: match.start("v") - match.start()])
    )
    return match.span("v") if fits and value.casefold() not in _WORDINGS else None


def wifi(match: re.Match[str]) -> Span | None:
    """What stands behind a network's name as its key; a kind of network is none."""
    return None if re.match(r"802\.|\d+(?:[.,]\d+)?[A-Za-z]{1,4}$|0x", match["v"]) else pair(match)


_ITS = "the|my|your|our|a|an|das|mein|dein|unser|ein|le|mon|ma|votre|un|une|la|mi|tu|su|una|il|mio|het|mijn"
_KIND = (
    r"new|neue\w*|old|alte\w*|wifi|wlan|admin|root|access|guest|api|strong|good|safe|secure|weak|sicheres|gutes|"
    r"starkes"
    r"|bon|buena"
)
_VERBS = (
    "when it asks for|when asked for|wenn er nach "
    "dem|as|is|ist|for|für|als|est|come|como|es|è|war|was|that's|das ist|c'est"
)
_BEFORE = re.compile(
    r"(?i)(?:\b(?:from|von|de|da|van)\s(?P<v>\S{4,64}\s(?:to|auf|zu|in|à|a|naar)\s\S{4,64})[,;]\s"
    rf"(?:{_ITS})|(?P<w>[^\s\"'`„“«]{{4,64}})[\"'`”“»]?(?:,?\s(?:{_VERBS})|\s?,(?=\sthe\s|\sdas\s)|(?=\sa\s|"
    rf"\sein|\s\())"
    rf"(?:\s(?:{_ITS}))?(?:\s(?:{_KIND}))?)(?:[\s-]|\s\()$"
)
# The last words before the name of a secret where its value may stand before them.
_WORDS = (
    "as is ist for für als est come como es è war was the my your our a an das mein dein unser ein le mon ma votre un"
    " une la mi tu su una il mio het mijn new neue neues neuen old alte altes wifi wlan admin root access guest api"
    " jako strong good safe secure weak sicheres gutes starkes bon buena"
)
_LEADS = frozenset(_WORDS.split())


def said_before(match: re.Match[str]) -> Span | None:
    """The value that a sentence gives before it says what it is."""
    # The pattern's match is the word alone: what is before it is read from there.
    lead = match.string[max(0, match.start() - 16) : match.start()].lower().split()[-1:]
    if not lead or (lead[0].rstrip("-") not in _LEADS and lead[0] != "("):
        return None
    begin = max(0, match.start() - 160)
    found = _BEFORE.search(match.string[begin : match.start()])
    if found is None:
        return None
    start, end = found.span("v" if found["v"] else "w")
    value = found.string[start:end]
    words = value.split()
    fits = all(is_secret_value(word) and is_odd(word) and not is_place(word) for word in (words[0], words[-1]))
    return (begin + start, begin + end) if fits and len(words) in (1, 3) else None
