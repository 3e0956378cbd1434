"""Each family of secrets in a form that it has in the world, and what stands near it and is none."""

from __future__ import annotations

import pytest

from gaiad.redact import Scrubber
from gaiad.redact_file import shipped_rules

SCRUBBER = Scrubber(shipped_rules(), b"k" * 32)
DRAWN = "aB3dE5gH7jK9mN1pQ3sT5vW7xY2zA4cF"
HEX = "3f9a1c7e5b2d8f0416a7c9e3b5d1f082"
PASSWORD = "Muschel9!"


def scrubbed(text: str) -> str:
    return SCRUBBER.scrub_text(text, "c")


PREFIXES = (
    *("ghp_", "github_pat_", "glpat-", "xoxb-", "hf_", "npm_", "pypi-", "dckr_pat_", "sk-ant-", "sk-proj-", "sk_live_"),
    *(
        "gsk_",
        "xai-",
        "pplx-",
        "nvapi-",
        "figd_",
        "lin_api_",
        "ntn_",
        "dop_v1_",
        "shpat_",
        "sq0atp-",
        "hvs.",
        "sntrys_",
    ),
    *(
        "xkeysib-",
        "mlsn.",
        "pscale_pw_",
        "tskey-auth-",
        "glsa_",
        "lsv2_pt_",
        "pcsk_",
        "dp.pt.",
        "PMAK-",
        "ATATT3xFfGF0",
    ),
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_vendors_key_is_found_wherever_it_stands_and_a_stand_in_for_it_is_not(prefix: str) -> None:
    for text in (f"{prefix}{DRAWN}", f"try {prefix}{DRAWN}, please", f"x({prefix}{DRAWN})", f"A={prefix}{DRAWN}\nB=1"):
        assert DRAWN not in scrubbed(text)
    stand_in = f"it begins with {prefix}xxxxxxxxxxxxxxxxxxxxxxxx"
    assert scrubbed(stand_in) == stand_in


@pytest.mark.parametrize(
    "name",
    [
        *("password", "Passwort", "mot de passe", "mdp", "contraseña", "clave", "wachtwoord", "lösenord", "passord"),
        *(
            "senha",
            "hasło",
            "heslo",
            "salasana",
            "şifre",
            "пароль",
            "κωδικός",
            "密码",
            "パスワード",
            "비밀번호",
            "PGPASSWORD",
        ),
        *("dbPass", "smtpPw", "**Password**", "Password (temporary)", "WLAN-Schlüssel", "wpa_psk"),
    ],
)
def test_a_password_is_found_behind_its_name_in_many_languages(name: str) -> None:
    assert PASSWORD not in scrubbed(f"{name}: {PASSWORD}")
    assert PASSWORD not in scrubbed(f"User: anna\n{name}: {PASSWORD}\nPort: 22")


SAID = (
    *("the password is {}", "das Passwort lautet {}.", "le mdp c'est {}", "het wachtwoord van de wifi is {}"),
    *("hasło do wifi to {}", "I use {} as my password", "try {} for the password", "my password used to be {}"),
    *(
        "Passwort {}",
        "mot de passe « {} »",
        "パスワードは{}です",
        "Der Zugangscode lautet {}",
        "credentials: root / {}",
    ),
    *("Netflix: eva@mail.example / {}", "login admin/{}", "the password was changed to {}"),
)


@pytest.mark.parametrize("said", SAID)
def test_a_password_is_found_in_a_sentence(said: str) -> None:
    assert PASSWORD.rstrip("!") not in scrubbed(said.format(PASSWORD))


COMMANDS = (
    *(
        "mysql -u root -p{} shop",
        "psexec \\\\pc -u falk -p {}",
        "docker login -u a -p {} reg.example",
        "net user falk {} /add",
    ),
    *(
        "curl -u admin:{} http://x.example",
        "http --password={} x",
        "gpg --batch --passphrase {} -d x",
        "7z x -p{} a.7z",
    ),
    *("keytool -storepass {} -list", "echo {} | docker login -u a --password-stdin", "redis-cli -h r -a {}"),
    *("smbclient //nas/x -U falk%{}", "htpasswd -b file falk {}", "rabbitmqctl add_user falk {}", "zip -P {} a.zip b"),
    *("mosquitto_pub -u a -P {} -t x", "echo 'root:{}' | chpasswd", "wpa_passphrase Home {}", "sqlplus scott/{}@orcl"),
    *(
        "snmpwalk -v2c -c {} nas sysDescr",
        "openssl enc -aes-256-cbc -k {} -in x",
        "helm install x --set auth.password={}",
    ),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_password_is_found_in_a_command(command: str) -> None:
    assert PASSWORD not in scrubbed(command.format(PASSWORD))


WRITTEN = (
    *(
        "<property name='password'>{}</property>",
        '<add key="SmtpPassword" value="{}"/>',
        "- name: DB_PASSWORD\n  value: {}",
    ),
    *(
        '{{"name":"password","value":"{}"}}',
        "define('DB_PASSWORD', '{}');",
        'auth = ("falk", "{}")',
        "setPassword('{}')",
    ),
    *('page.fill("#password", "{}")', 'os.environ.setdefault("DB_PASSWORD", "{}")', 'let password: &str = "{}";'),
    *('#define WIFI_PASS "{}"', 'WiFi.begin("Home", "{}");', "WIFI:S:Home;T:WPA;P:{};;", "db:5432:app:app:{}"),
    *("enable secret {}", " ppp chap password 0 {}", "snmp-server community {} RO", "falk * {} *", "requirepass {}"),
    *(
        "Server=h;User Id=sa;Pwd={};",
        "| Password | {} |",
        "ALTER ROLE x WITH PASSWORD '{}';",
        "machine x login a password {}",
    ),
    *("<wsse:Password Type='x'>{}</wsse:Password>", "option password '{}'", "CREATE USER x IDENTIFIED BY '{}'"),
)


@pytest.mark.parametrize("written", WRITTEN)
def test_a_password_is_found_in_code_and_configuration(written: str) -> None:
    assert PASSWORD not in scrubbed(written.format(PASSWORD))


TABLES = (
    *(
        "user,password,role\nmia,{},child\nopa,skat1948,guest",
        "user;passwort\na;{}\nb;skat1948",
        "name\tpassword\na\t{}",
    ),
    *("| User | Password |\n|---|---|\n| a | {} |\n| b | skat1948 |", '"user","password"\n"a","{}"'),
)


@pytest.mark.parametrize("table", TABLES)
def test_a_column_of_passwords_goes_and_the_other_columns_stay(table: str) -> None:
    found = scrubbed(table.format(PASSWORD))
    assert PASSWORD not in found
    assert "skat1948" not in found
    assert found.count("\n") == table.count("\n")
    assert found.replace("\r", "").split("\n")[0] == table.split("\n")[0]


@pytest.mark.parametrize(
    "table",
    [
        "feature,password,token\nrotation,supported,planned",
        "| Key | Value |\n|---|---|\n| colour | blue |",
        "the password, the token, and the key\nlie in the drawer, as ever, on the left",
        "name,telephone\nOma,none\nOpa,later",
    ],
)
def test_a_table_without_secrets_stays(table: str) -> None:
    assert scrubbed(table) == table


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Cookie: lang=de; sessionid=" + HEX, HEX),
        ("Set-Cookie: PHPSESSID=wnqlb0bp0c3k5g0qd76xxssqx3; path=/", "wnqlb0bp0c3k5g0qd76xxssqx3"),
        ("Authorization: ApiKey " + DRAWN, DRAWN),
        ("De API-sleutel is " + HEX, HEX),
        ("Voici le jeton : " + DRAWN, DRAWN),
        ("https://x.example/reset?token=" + DRAWN, DRAWN),
        ("https://ha.example/api/webhook/" + HEX, HEX),
        ("cargo login " + DRAWN, DRAWN),
        ("paste this: " + DRAWN + " and go on", DRAWN),
        ("-----BEGIN OpenVPN Static key V1-----\n" + HEX + "\n-----END OpenVPN Static key V1-----", HEX),
    ],
)
def test_a_token_without_a_vendors_shape_is_found_by_its_place(text: str, value: str) -> None:
    assert value not in scrubbed(text)


NUMBERS = (
    *(
        "llama al 653 413 077, porfa",
        "zadzwoń do taty: 512 783 472",
        "chiamami al 333 1234567",
        "Ring meg på 918 42 760",
    ),
    *("tlf 22 33 44 55", "ligue para 912 345 678", "мой номер 8 916 123-45-67", "電話は03-1234-5678です"),
    *("https://wa.me/491701234567", "call 1-800-555-0147", "nome;telefone\nD. Graça;21 488 55 67"),
    *("card 4111.1111.1111.1111", "4242\u00a04242\u00a04242\u00a04242", "reach me: max (at) firma.example"),
    *("info&#64;malerei.example", "marie.curie(arobase)labo.fr", "my pin is 8392", "Türcode: 4821#", "PUK 12345678"),
)


@pytest.mark.parametrize("text", NUMBERS)
def test_a_number_and_an_address_are_found_as_people_write_them(text: str) -> None:
    assert scrubbed(text) != text


NONE = (
    *("Chrome/120.0.0.0 Safari/537.36", "driver 31.0.101.5333", "firmware 1.2.3.4", "00:11:22:33:44:55:66:77"),
    *(
        "IMEI 490154203237518",
        "Kundennummer 0123456789",
        "order_number: 1234567890",
        "Tracking: 1Z 999 AA1 01 2345 6784",
    ),
    *(
        "Produktcode 0815-220-4410 B",
        "invoice_number: 0012345678",
        "ssh admin@switch.lan",
        "scp x pi@host.example:/home",
    ),
    *(
        "password: !vault |",
        "password: env:DB_PASSWORD",
        "api_key=api_key",
        "SECRET=CHANGE_ME",
        "password: __PASSWORD__",
    ),
    *(
        '"tokenizer": "cl100k_base"',
        '"total_tokens": 976}',
        '{"nextPageToken": "CDIQAA"}',
        "pin: GPIO4",
        "error code: 500",
    ),
    *('{"key": "living_room", "value": 40}', "PublicKey = uxANvpJr/JNtH86qvWmcLO0lmM0guZkXDz3Mlyeg+f4="),
    *(
        '"integrity": "sha512-' + DRAWN * 2 + '=="',
        "commit " + HEX,
        '"id": "evt_' + DRAWN + '"',
        "https://x.example/d/" + DRAWN,
    ),
    *(
        "password must be 8-16 characters",
        "the password is 12 characters long",
        "vault kv get -field=password secret/wifi",
    ),
    *("docker run -p 8080:80 -u 1000:1000 nginx", "postgres://user:pass@localhost/db", "falk:$2y$10$" + DRAWN),
    *(
        "-----BEGIN PUBLIC KEY-----\n" + DRAWN * 2 + "\n-----END PUBLIC KEY-----",
        "Your token is invalid.",
        "promo code: SUMMER24",
    ),
)


@pytest.mark.parametrize("text", NONE)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert scrubbed(text) == text
