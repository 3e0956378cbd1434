"""Secrets as programs are told them, and keys of vendors in the shapes that those give them."""

from __future__ import annotations

from random import Random
from string import ascii_letters, digits

import pytest

from gaiad.redact import Scrubber
from gaiad.redact_file import shipped_rules

SCRUBBER = Scrubber(shipped_rules(), b"k" * 32)
PASSWORD = "Muschel9!"
SIGNS = {
    "a": ascii_letters + digits,
    "l": ascii_letters,
    "B": "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567",
    "x": "0123456789abcdef",
    "d": digits,
}

TOLD = (
    "ENV ADMIN_PASSWORD {}",
    "ENV DB_PASS {}\nRUN x",
    "setx DB_PASSWORD {}",
    "gh secret set DB_PASSWORD -b {}",
    'gh secret set DB_PASSWORD --body "{}"',
    "git config --global http.proxyPassword {}",
    "net use Z: \\\\filer\\x {} /user:K\\mila",
    "pdftk a.pdf output b.pdf user_pw {}",
    "ALTER USER 'root'@'localhost' IDENTIFIED WITH mysql_native_password BY '{}';",
    "ALTER USER scott IDENTIFIED BY {};",
    "INSERT INTO users (name, password) VALUES ('mila', '{}');",
    "UPDATE users SET password = MD5('{}') WHERE id=1",
    "PRAGMA key = '{}';",
    "lftp -u falk,{} sftp://x",
    "lftp -e ls -u falk,{} x",
    "curl --proxy-user a:{} http://x",
    "curl -U a:{} -x proxy http://x",
    "http -a falk:{} x",
    "xh --auth falk:{} x",
    "imapsync --host1 a --user1 b --password1 {} --password2 x",
    "imapsync --host1 a --user1 b --password1 '{}'",
    'falk : EAP "{}"',
    "(echo {}; echo {}) | smbpasswd -s -a x",
    'echo -e "{}\\n{}" | passwd falk',
    'sudo -S ls <<< "{}"',
    "sudo -S ls <<< {}",
    'chpasswd <<< "falk:{}"',
    "usermod -p {} falk",
    '$c = new mysqli("localhost", "root", "{}", "db");',
    '$p = new PDO("mysql:host=h;dbname=d", "u", "{}");',
    'client.connect("h", 22, "u", "{}")',
    "$pw = ConvertTo-SecureString -String '{}' -AsPlainText",
    'char pass[] = "{}";',
    '#define PASS "{}"',
    "Backlog SSID1 Barn; Password1 {}",
    "jwt.sign(x, '{}')",
    'jwt.encode(x, "{}", algorithm="HS256")',
    'Content-Disposition: form-data; name="password"\n\n{}',
    "password: >-\n  {}",
    "password: |\n  {}",
    "password:\n  value: {}",
    '"password": {\n "value": "{}"\n}',
    "ip ospf message-digest-key 1 md5 {}",
    "standby 1 authentication {}",
    "ntp authentication-key 1 md5 {}",
    "rocommunity {} default",
    "com2sec ro default {}",
    "snmpget -v3 -u falk -A {} -X {} h",
    "rootpw --plaintext {}",
    "masterauth {}",
    "AUTH {}",
    "redis-cli> AUTH {}",
    "AUTH default {}",
    "NickServ IDENTIFY {}",
    "/msg NickServ identify {}",
    "a1 LOGIN falk {}",
    'a1 LOGIN "falk@x.example" "{}"',
    "Enter passphrase for key '/x/id': {}",
    "Enter PEM pass phrase: {}",
    "> password? {}",
    "Wie lautet das Passwort? {}",
    "User.objects.create_superuser('a', 'a@b.example', '{}')",
    "rar a -hp{} x y",
    "unrar x -p{} x",
    "xfreerdp /u:falk /p:{} /v:h",
    "xfreerdp /u:falk /p:'{}' /v:h",
    "schtasks /create /ru falk /rp {}",
    "vncpasswd <<< {}",
    'rpcclient -U "falk%{}" h',
    "kinit falk <<< {}",
    "auth-user-pass: falk {}",
    "hydra -l a -p {} ssh://h",
    "secretsdump.py falk:'{}'@10.0.0.1",
    "sqlplus a/{}",
    "expdp system/{} schemas=x",
    "impdp a/{}@h",
    "dsn: a:{}@tcp(h:3306)/x",
    "a:{}@tcp(127.0.0.1:3306)/x?parseTime=true",
    "a:{}@/x",
    '"a:{}@h:3306/x"',
    'http_proxy="a:{}@proxy:3128"',
)


@pytest.mark.parametrize("told", TOLD)
def test_a_password_is_found_where_a_program_is_told_it(told: str) -> None:
    assert PASSWORD not in SCRUBBER.scrub_text(told.replace("{}", PASSWORD), "c")


# What a key begins with, of what signs the rest is, and how many.
SHAPES = (
    ("AKIA", "B", 16),
    ("ghp_", "a", 36),
    ("glpat-", "a", 20),
    ("sk_live_", "a", 24),
    ("hf_", "l", 34),
    ("AIza", "a", 35),
    ("npm_", "a", 36),
    ("hvs.", "a", 24),
    ("LTAI", "a", 20),
    ("GOCSPX-", "a", 28),
    ("rzp_live_", "a", 14),
    ("acme_live_", "a", 24),
)


@pytest.mark.parametrize(("prefix", "signs", "count"), SHAPES)
def test_a_key_in_a_vendors_shape_is_found_whatever_was_drawn_and_a_stand_in_is_not(
    prefix: str, signs: str, count: int
) -> None:
    random = Random(7)
    for _ in range(200):
        key = prefix + "".join(random.choices(SIGNS[signs], k=count))
        assert key[-8:] not in SCRUBBER.scrub_text(f"try {key}, please", "c")
    stand_in = f"try {prefix}{'X' * count}, please"
    assert SCRUBBER.scrub_text(stand_in, "c") == stand_in


@pytest.mark.parametrize(
    "text",
    [
        "x IN A 203.0.113.5",
        "record changed to 203.0.113.5",
        "5.9.12.7:8080",
        "via 5.9.12.7 dev eth0",
        "tel 555-0132",
        "Tel.: 22 11 33",
        "meu zap é (11) 98214-7703",
        "my ssh key comment is anna@x.example",
        "anna(kukac)firma.example",
        "4111 1111 1111 1111 12/27 123",
        "der API-Schlüssel lautet 7b440a58-197f-4e07-a330-f81f621bac55",
        "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tCk1JSUV2UUlCQURBTkJna3Foa2lHOXcwQkFRRUZBQVND",
    ],
)
def test_addresses_and_numbers_are_found_by_what_stands_beside_them(text: str) -> None:
    assert SCRUBBER.scrub_text(text, "c") != text


@pytest.mark.parametrize(
    "text", ["test_reshape_2d2d", "f(map=socket_map, x=1)\n", "chrome 120.0.6099.109", "ssh -p 22 anna@x.example"]
)
def test_pieces_of_programs_stay(text: str) -> None:
    assert SCRUBBER.scrub_text(text, "c") == text
