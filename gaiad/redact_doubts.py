"""What looks like a secret and is none: stand-ins, references, code, and names that only speak of one.

A rule finds a value by its place or its shape; here it is asked what speaks against it. Touches nothing.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise

PLACEHOLDER = re.compile(r"\[[A-Z][A-Z_]{1,30}_[a-z]{6}\]")
"""What stands in the place of what was replaced."""

_WORDS = """
    none null true false undefined nil required optional missing empty unset default enabled disabled hidden redacted
    masked wrong invalid expired incorrect needed forgotten reset change changed changeme here value input field type
    todo tbd example your yourpassword mypassword
    string str int text bytes buffer number boolean bool object array char varchar any list dict secretstr uuid
    pass secret password passwd passwort token key credentials bcrypt argon2 scrypt argon2id ed25519 rsa
    erforderlich falsch vergessen abgelaufen ungültig nicht leer fehlt obligatoire incorrecta requerida
"""
_NO_SECRETS = frozenset(_WORDS.split())
_STAND_INS = re.compile(
    r"(?i)^(?:[x*.•_#=~-]+|(?:[a-z]+_)+(?:password|passwd|pwd|token|secret)\d?|your[\w-]*|my[_-](?:[\w-]*[_-])?(?:pass\w*|secret|key|token)\w*|<.*>|\{.*|\$.*|%.*|\[.*|&.*|\.\.\.|example[\w-]*|__\w+__|@@\w+@@|"
    r"change[_-]?(?:me|it|this)|(?:insert|enter|replace|put|add|paste)[\w-]*|dein[\w-]*|ihr[e_-][\w-]*|"
    r"(?:tu|mi|votre|ton|uw|jouw)[_-][\w-]*|.*_here|\.[*+?].*|\(\.\*.*|\[\^.*|\(?\\[wdsSD].*)$"
)
# A name of a setting in place of its value, and a place where a value lies.
_SETTING_NAMES = re.compile(
    r"^[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*_(?:PASS(?:WORD)?|KEY|TOKEN|SECRET|HERE|PW|ID)(?:_[A-Z]+)*$"
)
_REFERENCES = re.compile(
    r"(?i)^(?:!\w+$|!?(?:env|file|vault|op|ref\+\w+|ssm|arn|secrets?|keyring|keychain|kms|gcp-sm|azkv|enc)[:!\[(])"
)
_SAME = re.compile(r"(\w)\1{7}|EXAMPLE|(?i:x{6}|placeholder|redacted|your[_-])|\.{3}|…|\*{3}")
# A name with points in it is code, unless it has a digit where no program's names begin.
_CODE = re.compile(
    r"^(?:(?:self|this|os|process|config|settings|env|req\w*|args|form|data|user|app|secrets?|vars?|module|ctx|options|props|"
    r"params|body|local)(?:\.[A-Za-z_]\w*)+|[A-Za-z_][^\W\d]*(?:\.[A-Za-z_][^\W\d]*)+|[A-Za-z_][\w.]*[(\[].*|new\s.*|await\s.*|lambda.*)$"
)
_PATHS = re.compile(
    r"(?:[~.]{0,2}/[\w./-]+|\w+://.*|[\w.-]+(?:/[\w.-]+)+\.[a-z]\w{0,4}(?::\d+)?|[A-Za-z][A-Za-z_.-]*(?:/[A-Za-z][A-Za-z_.-]*)+|[A-Z]:\\.*)$"
)
_COUNTS = re.compile(r"\d{1,4}(?:[-–]\d{1,4}|[%+.,]\d*)?$")
_AMOUNTS = re.compile(
    r"\d{1,3}[-–]\d{1,3}|\d+[%.,]\d*(?:[A-Za-zµ]{1,3})?|\w+=|\d{1,3}[A-Za-zäöüèª°%€$£]{1,4}|\d{1,3}-[a-z]+|\d{1,2}[:.h]\d{2}(?::\d{2})?(?:am|pm)?"
    r"|\d{1,4}[-./]\d{1,2}[-./]\d{1,4}|v?\d{1,3}(?:\.\d{1,4}){1,3}"
)
_UNITS = re.compile(
    r"(?i)\s?(?:characters?|chars?|zeichen|stellen|digits|letters|bytes?|bits?|days?|tagen?|hours?|stunden|minut\w+|"
    r"months?|years?|times|mal|caract\w+|caratteri|tekens|znak\w+|jours|días|weeks?|lines?|zeilen|items?|symbols?|words?)\b"
)
_TERMS = re.compile(
    r"(?i)(?:windows|iphone|ubuntu|debian|python|android|office|galaxy|pixel|wi-?fi|web|1password|keepass|lastpass|pbkdf|argon|sha|md|aes|utf|base|rsa|wpa|tls|ssl|oauth|http|ipv|ctrl|alt|shift|strg|cmd|chapter|f\d)[-+]?\d*\b"
)
_PIECES = re.compile(r"(?:[A-Za-z_]\w*=[^=]|0x[0-9A-Fa-f]|\*[\w)]|[\w.]*::)")
_IDS = re.compile(
    r"(?:call|chatcmpl|cmpl|req|msg|toolu|resp|run|thread|asst|batch|evt|pi|price|sub|cus|prod|in|ch|seti|pm|acct|txn|src"
    r"|ba|cs_live|cs_test|pst|usr|org|proj|file|step|vs|ft)[_-][A-Za-z0-9]|sha\d+[-:]|Qm[A-Za-z0-9]{44}|0x|AAAA|6L[ce]|G-|[13](?=.*[A-Z])[1-9A-HJ-NP-Za-km-z]{25,34}$|(?:AC|SM|MG|PN|VA)[0-9a-f]{32}$"
)
_UUID = re.compile(r"(?i)^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
_SPEAKS_OF = re.compile(
    r"(?i)(?:type|name|url|uri|link|count|limit|length|hint|policy|format|field|_id|\bid|hash(?:ed)?|digest|algorithm|"
    r"algo|fingerprint|expir\w*|_at|_in|ttl|path|file|dir|strength|min|max|size|version|rules?|label|regex|pattern|ref|"
    r"status|required|enabled|index|prefix)[\"'`\])*]{0,3}\s*(?:[:=]>?|->|→)\s*[\"'`]?$"
)
_NO_TOKEN = re.compile(
    r"(?i)(?:(?:page|next|prev\w*|sync|continuation|cursor|pad|eos|bos|unk|sep|mask|cls|stop|special)_?token|tokeni[sz]|"
    r"tokens\b|token_?type|passport|passage|passenger|passive|compass|bypass|passed|passing|passes|surpass|pass_?rate|"
    r"pass_?through|public|publish|vapid|thumbprint|fingerprint|secretary|"
    r"(?:pub|site|cache|partition|sort|primary|foreign|shard|row|object|storage|idempotency|lookup)[ _-]?key)"
)
_PUBLIC = re.compile(
    r"(?i)(?:integrity|hash|digest|sha-?\d*|md5|checksum|etag|fingerprint|publi\w*[ _-]?\w*|pub_?key|\w*[a-z_-]id|\bid|"
    r"nonce|src|url|href|modulus|\b[nxy]|x5[ct]|kid|content|data|image|icon|commit|revision|rev|site_?key|csp|cursor|resolved|mappings|"
    r"signature)[\"'`\s]{0,3}(?:[:=>]|\bis\b|\s)[\"'`\s]{0,3}(?:sha\d+[:-]|W/\")?$"
)
_LINE = re.compile(r"[A-Za-z0-9+/=]{16,}\s*\n?")


def is_stand_in(text: str) -> bool:
    """Whether a text has been put where a secret belongs, so that everybody sees that it is none."""
    return bool(_STAND_INS.match(text) or _SETTING_NAMES.match(text) or _SAME.search(text))


def is_secret_value(text: str) -> bool:
    """Whether a text that stands where a secret is expected is one: no word for one, no code, no stand-in."""
    bare = text.strip().strip("\"'`„“”«».,;")
    if len(bare) < 4 or bare.casefold() in _NO_SECRETS or is_stand_in(bare) or is_stand_in(text.strip()):
        return False
    if _CODE.match(bare) or _REFERENCES.match(bare):
        return False
    return not PLACEHOLDER.fullmatch(bare)


def is_place(text: str) -> bool:
    """Whether a value is a path or an address, which only says where a secret lies."""
    return _PATHS.match(text) is not None


def is_odd(text: str) -> bool:
    """Whether a word has what words of a sentence have not: a digit, a symbol, a capital letter within."""
    # Four digits may be a year: where they are a secret they are called a PIN.
    return bool(re.search(r"\d|[^\w\s.,;:!?()/-]|[!?][A-Za-z]", text) and not re.fullmatch(r"\d{4}", text)) or bool(
        re.search(r"[a-z][-_]?[A-Z]", text)
    )


def is_code(text: str) -> bool:
    """Whether a word is a name with its value, a number as programs write it, or a place of one in memory."""
    return _PIECES.match(text) is not None


def is_amount(text: str) -> bool:
    """Whether a word with digits is an amount, a time or a date."""
    return _AMOUNTS.fullmatch(text) is not None


def is_about(text: str, rest: str) -> bool:
    """Whether a value in a sentence is a number of something; `rest` is what follows it."""
    return bool(_COUNTS.match(text) and _UNITS.match(rest))


def speaks_of(name: str) -> bool:
    """Whether what stands before a value names something about a secret rather than the secret."""
    return bool(_SPEAKS_OF.search(name) or _NO_TOKEN.search(name))


def is_public(before: str) -> bool:
    """Whether what stands before a long word says that it is a hash, an identifier, or made to be shown."""
    return _PUBLIC.search(before) is not None


def is_term(text: str) -> bool:
    """Whether a word with digits is one all the same: a method, a key of a keyboard."""
    return _TERMS.match(text) is not None


def is_identifier(text: str) -> bool:
    """Whether a long word begins as identifiers and public values do."""
    return _IDS.match(text) is not None or _UUID.match(text) is not None


def is_uuid(text: str) -> bool:
    """Whether a word is written as identifiers are (RFC 9562)."""
    return _UUID.match(text) is not None


def looks_random(text: str) -> bool:
    """Letters and digits mixed as no word is, at 3 bits a character or more; a UUID is a name, not a secret."""
    if not re.search(r"\d", text) or not re.search(r"[A-Za-z]", text) or _UUID.match(text) or _SAME.search(text):
        return False
    shares = [count / len(text) for count in Counter(text).values()]
    return -sum(share * math.log2(share) for share in shares) >= 3.0


def is_drawn(text: str, least: int = 16, share: float = 0.22, digits: int = 2) -> bool:
    """Whether a word is drawn by lot: its kinds of characters change far more often than those of a word.

    `least`: letters and digits that it has to have; `share`: of them, those of another kind than the one before.
    """
    bare = re.sub(r"[^A-Za-z0-9]", "", text)
    if len(bare) < least or not looks_random(text):
        return False
    kinds = ["d" if char.isdigit() else "A" if char.isupper() else "a" for char in bare]
    changes = sum(one != two for one, two in pairwise(kinds))
    return changes >= len(bare) * share and kinds.count("d") >= digits


def is_line_of_many(text: str, start: int, end: int) -> bool:
    """Whether a word is one line of a block in Base64, as certificates and files have them."""
    return bool(
        _LINE.match(text, end + 1) or re.search(r"[A-Za-z0-9+/=]{16,}\r?\n$", text[max(0, start - 120) : start])
    )
