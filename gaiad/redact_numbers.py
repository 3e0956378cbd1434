"""Numbers that a pattern alone does not know: cards, accounts, addresses of machines, telephones.

Each check takes a match and returns the span that is to go, or None. Touches nothing.
"""

from __future__ import annotations

import ipaddress
import re

Span = tuple[int, int]

# ISO 13616: how long an IBAN of each country is.
_IBAN_LENGTHS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29"
    " ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20"
    " LB28 LC32 LI21 LT20 LU20 LV21 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29"
    " RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20"
)
_LENGTH_OF = {word[:2]: int(word[2:]) for word in _IBAN_LENGTHS.split()}
_VERSION_BEFORE = re.compile(
    r"(?i)(?:\bv|\bver|\b[fs]w|version\w*|release|section|abschnitt|kapitel|chapter|§|art(?:ikel)?(?:[.-]?nr)?\.?|"
    r"build|rev|firmware|driver|treiber|kernel|oid|windows(?: nt)?|chrome|firefox|android|[=<>~]=|\^)[\s.:=_-]{0,3}$"
)
_PERHAPS_BEFORE = re.compile(r"(?i)(?:no|nr|update\w*|update\w* (?:to|auf|from|von))[\s.:=_-]{0,3}$")
_MACHINE_BEFORE = re.compile(
    r"(?i)(?:\bip\b|host|://|@|addr|adress|server|ping|from|gateway|\bdns|nameserver|\bvia|\s-[sd]|\bsrc|\bdst|"
    r"listen|bind|peer|"
    r"remote|connect\w*(?: to)?|client|\bban|whois|traceroute|route\w*|router|"
    r"\bin a)\W{0,3}\w{0,8}(?:\W{1,3}\w{1,8})?\W{0,3}$"
)
_MACHINE_AFTER = re.compile(r":\d{2,5}\b|/\d{1,2}\b| - - \[")
_RESOLVERS = frozenset(["1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9"])
# How long the number of each network's cards is, by how it begins.
_CARDS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:2[2-9]|[3-6]\d|7[0-2])\d{13}|(?:5[06-8]\d|6\d\d)\d{10,16}|"
    r"3[47]\d{13}"
    r"|3(?:0[0-5]|[689]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12,15}"
)


_GROUPS = re.compile(r"\d{4}(?:([ -])\d{4}\1\d{4}\1\d{4}|([ -])\d{6}\2\d{5})(?=[ -]\d\d?(?:\D|\Z))")


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
    digits = re.sub(r"[ .\xa0-]", "", text)
    return bool(digits.isascii() and _CARDS.fullmatch(digits)) and len(set(digits)) > 1 and luhn(digits)


def card(match: re.Match[str]) -> Span | None:
    """A payment card's number."""
    # Behind a number in groups its month may stand.
    groups = _GROUPS.match(match[0])
    if groups and is_card(groups[0]) and not is_card(match[0]):
        return match.start(), match.start() + groups.end()
    return match.span() if is_card(match[0]) else None


def iban(match: re.Match[str]) -> Span | None:
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


def ipv4(match: re.Match[str]) -> Span | None:
    """An address of a machine, and no version of a program."""
    before = match.string[max(0, match.start() - 24) : match.start()]
    parts = match[0].split(".")
    if any(int(part) > 255 or (len(part) > 1 and part[0] == "0") for part in parts) or _VERSION_BEFORE.search(before):
        return None
    if int(parts[0]) < 30 and _PERHAPS_BEFORE.search(before):
        return None
    # 1. Of a program: `Chrome/120.0.0.0`. 2. Four small numbers are those of a version, or of a chapter.
    of_program = re.search(r"[A-Za-z]/$", before) and not re.search(r"[\w-]\.[a-z]{2,}/$", before)
    if of_program and parts[0] not in ("10", "172", "192"):
        return None
    small = all(len(part) < 3 and int(part) < 30 for part in parts)
    if small and parts[0] != "10" and match[0] not in _RESOLVERS:
        told = _MACHINE_BEFORE.search(before) or _MACHINE_AFTER.match(match.string, match.end())
        return match.span() if told else None
    return None if parts[0] in ("0", "127", "255") else match.span()


def ipv6(match: re.Match[str]) -> Span | None:
    """An address of a machine, and no place of a card in a network."""
    try:
        address = ipaddress.IPv6Address(match[0])
    except ValueError:
        return None
    local = (
        address.is_loopback or address.is_unspecified or re.fullmatch(r"(?:[0-9A-Fa-f]{2}:){7}[0-9A-Fa-f]{2}", match[0])
    )
    return None if local or not re.search(r"\d", match[0]) or len(match[0]) < 6 else match.span()


# What is counted or kept under a number, and not dialled.
_NUMBERED = re.compile(
    r"(?i)(?:(?:best(?:ell)?\.?-?|kunden|konto|rechnungs?|steuer|serien|vertrags?|artikel|mitglieds?|auftrags?|"
    r"vorgangs?|ticket|sendungs?|"
    r"paket|z(?:ä|ae)hler|modell|produkt|teile|personal|matrikel|versicherungs?|referenz|buchungs?|fall|id|haus|"
    r"zimmer|"
    r"prüf|los|raum)[ -]?(?:nummern?|nr|no|code|stand)?\b|\b(?:order|customer|account|invoice|serial|ticket|tracking|"
    r"reference|ref|imei|isbn|ean|gtin|sku|policy|member(?:ship)?|case|booking|model|part|product|item|document|"
    r"passport|"
    r"tax|vat|meter|batch|lot|job|build|issue|page|line|row|project|vin|iccid|"
    r"commande|client|facture|dossier|pedido|cliente|factura|fattura|ordine|bestelling|klant|factuur|"
    r"zamówieni\w+|faktury|"
    r"klienta|konta|contrat|contrato|siret|siren|nip|pesel|regon|iban|steuer-id|aktenzeichen|blz|plz|gps|isin|wkn|"
    r"sendung|parcel|paket|colis)(?![a-z]))[\s_-]?(?:number|no|nr|num|id|n°|numer\w*|"
    r"núm\w*)?[\"'.:#=\s*-]{0,6}(?:is|ist|est|es|to|lautet)?"
    r"\s?[\"'#]?[A-Z]{0,3}[\s-]?$"
)
_DIALLED = re.compile(r"\+|\(?0|\(|[78] ?\(?9|[1-9]\d{2}[ .-]\d{3}[ .-]\d{3,4}$")
_COMPOUND = re.compile(r"\w(?:nummer|number)|[a-z]_number")
_NUMBER = (
    r"(?:nummer|number|numéro|n[uú]mero|numer|contact\w{0,2}|erreich\w{2,5}|reach|text|dial\w{0,3}|номер|stacj|kom)\b"
)
_CALL = (
    r"(?:\btel|phone|fon\b|mobil|handy|\bcell?\b|wa\.me|\bfax|\bruf|\bcall|\bring|m[oó]vil|telem[oó]vel|celular|"
    r"portable|"
    r"cellulare|\bwhats\s?:|\bzap\b|\bwpp\b|微信|휴대폰|هاتف|جوال|joignable|reachable (?:at|on|under)|erreichbar|"
    r"dzwoń|\bhp\s?:|\bno\.? hp\b|"
    r"\bsms\b|\btlf|télé|τηλ|тел|звони|\bll[aá]m|appel|zadzwo|\bbel\b|chiam|\blig(?:ue|ar|a)\b|"
    r"durchwahl|fijo|fixe|festnetz|natel|\bpuh|\bgsm\b|电话|電話|手机|携帯)"
)
_BETWEEN = r"\w{0,9}は?(?:\W{1,5}[^\W\d]{1,12}){0,6}\W{0,5}$"
_CALLED, _SAID = re.compile(f"(?i){_CALL}{_BETWEEN}"), re.compile(f"(?i){_NUMBER}{_BETWEEN}")


_MINE = re.compile(
    r"(?i)\b(?:my|meine|mi|mio|meu|minha|mon|moj|mój|mitt|mijn|můj|мой|мій)\s(?:new\s|neue\s|cell\s)?"
    r"(?:number|nummer|nr|numero|número|num[ée]ro|numer|номер)\W{1,3}(?:(?:is|ist|es|è|é|est|to|er|är|je)\W{1,3})?$"
)


def phone(match: re.Match[str]) -> Span | None:
    """A telephone number, and no date."""
    start, end = span_of(match)
    text = match.string[start:end]
    digits = re.sub(r"\D", "", text)
    # A date, however it is written, and a number that only counts, are none.
    if re.fullmatch(r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}(?:\s.*)?", text) or len(set(digits)) == 1:
        return None
    return (start, end) if 6 <= len(digits) <= 15 else None


def national(match: re.Match[str]) -> Span | None:
    """A telephone number of one's own country."""
    if not 9 <= len(re.sub(r"\D", "", match[0])) <= 15:
        return None
    # What goes on a longer number, or is said to count something.
    before = match.string[max(0, match.start() - 48) : match.start()]
    return None if re.search(r"\w*\d\w*[ -]$", before) or _NUMBERED.search(before) else phone(match)


def abroad(match: re.Match[str]) -> Span | None:
    """A number with its country's; two noughts may begin a number that counts something, or go on another."""
    before = match.string[max(0, match.start() - 48) : match.start()]
    if match[0].startswith("00") and (_NUMBERED.search(before) or re.search(r"\d[ -]$", before)):
        return None
    return phone(match) if 9 <= len(re.sub(r"\D", "", match[0])) <= 15 else None


def local(match: re.Match[str]) -> Span | None:
    """A number without its town's, directly behind a word for telephones."""
    digits = re.sub(r"\D", "", match["v"])
    return match.span("v") if 5 <= len(digits) <= 8 and len(set(digits)) > 1 else None


def called(match: re.Match[str]) -> Span | None:
    """A number behind a word for telephones; behind `number` alone, one that is written as those are."""
    start, value = match.start(), match[0]
    digits = re.sub(r"\D", "", value)
    before = match.string[max(0, start - 64) : start].rpartition("\n\n")[2]
    if not 8 <= len(digits) <= 15 or "\n" in value or re.search(r"\d[.,]\d{1,2}$", value):
        return None
    # Digits that only count stand alone, or in threes from the right.
    said = _DIALLED.match(value) and not _COMPOUND.search(before) and _SAID.search(before)
    if not said and not _CALLED.search(before) and not _MINE.search(before):
        return None
    return None if _NUMBERED.search(before) else phone(match)
