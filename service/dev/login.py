"""The page on which a person becomes one of the demo users, or anybody else."""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

STYLE: Final = Path(__file__).with_name("login.css")
NAME_MAX: Final = 200

Language = Literal["en", "de"]

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who can be signed in, with the claims that a token of theirs has."""

    sub: str
    name: str | None = None
    email: str | None = None
    email_verified: bool = True
    role: str = "user"


@dataclass(frozen=True, slots=True)
class DemoUser:
    """A person whom the page offers; they begin with `credits` in a system that `run` brings up."""

    person: Person
    credits: int
    about: Mapping[Language, str]


def _demo(
    sub: str, name: str, *, en: str, de: str, credits: int = 0, role: str = "user"
) -> DemoUser:
    email = f"{sub.removesuffix('-user')}@example.org"
    return DemoUser(
        Person(sub=sub, name=name, email=email, role=role),
        credits,
        MappingProxyType({"en": en, "de": de}),
    )


DEMO_USERS: Final = (
    _demo(
        "ann",
        "Ann Example",
        credits=500,
        en="Begins with 500 credits",
        de="Beginnt mit 500 Credits",
    ),
    _demo(
        "ben", "Ben Example", credits=60, en="Begins with 60 credits", de="Beginnt mit 60 Credits"
    ),
    _demo(
        "demo-user",
        "Demo User",
        en="The user of the printed commands",
        de="Für die ausgegebenen Befehle",
    ),
    _demo("nora", "Nora New", en="New here, without credits", de="Neu hier, ohne Credits"),
    _demo(
        "support", "Support Admin", role="admin", en="Sees every account", de="Sieht jedes Konto"
    ),
)
DEMO_USER: Final = DEMO_USERS[2].person

_TEXTS: Final[Mapping[Language, Mapping[str, str]]] = MappingProxyType(
    {
        "en": {
            "title": "Sign in · mana-credits",
            "heading": "Who are you?",
            "intro": "Development sign-in: no passwords, and every account is made up.",
            "now": "Signed in now: {who}",
            "back": "Then you go back to {where}",
            "demo": "Demo users",
            "other": "Somebody else",
            "sub": "User id",
            "name": "Name",
            "email": "E-mail",
            "verified": "The e-mail address is verified",
            "role": "Role",
            "user": "User",
            "admin": "Admin",
            "submit": "Sign in",
            "bad_sub": "A user id has 1 to 128 printable characters, without spaces"
            " and / ? # % {{ }}.",
            "bad_text": "A name or an e-mail address has at most {max} printable characters.",
            "bad_person": "Choose one of the users.",
            "bad_form": "This form was sent from another site.",
            "stuck": "You cannot be sent back",
            "foreign": "{where} is neither an address of the service nor of its apps."
            " BASE_URL and CORS_ORIGINS say which are.",
            "other_site": "{where} is on another site than this page ({own}), so the browser would"
            " not send it the sign-in. Open it under the same host as this page.",
        },
        "de": {
            "title": "Anmelden · mana-credits",
            "heading": "Wer bist du?",
            "intro": "Anmeldung für die Entwicklung: ohne Passwörter, alle Konten sind erfunden.",
            "now": "Gerade angemeldet: {who}",
            "back": "Danach geht es zurück zu {where}",
            "demo": "Demo-Konten",
            "other": "Jemand anderes",
            "sub": "Benutzer-ID",
            "name": "Name",
            "email": "E-Mail",
            "verified": "Die E-Mail-Adresse ist bestätigt",
            "role": "Rolle",
            "user": "Benutzer",
            "admin": "Admin",
            "submit": "Anmelden",
            "bad_sub": "Eine Benutzer-ID hat 1 bis 128 druckbare Zeichen, ohne Leerzeichen"
            " und / ? # % {{ }}.",
            "bad_text": "Ein Name oder eine E-Mail-Adresse hat höchstens {max} druckbare Zeichen.",
            "bad_person": "Wähle eines der Konten.",
            "bad_form": "Dieses Formular kam von einer anderen Website.",
            "stuck": "Der Weg zurück ist versperrt",
            "foreign": "{where} ist weder eine Adresse des Dienstes noch seiner Apps."
            " Welche es sind, sagen BASE_URL und CORS_ORIGINS.",
            "other_site": "{where} liegt auf einer anderen Website als diese Seite ({own}): Der"
            " Browser würde die Anmeldung dort nicht mitschicken. Öffne die Adresse unter demselben"
            " Hostnamen wie diese Seite.",
        },
    }
)


def preferred_language(accept: str) -> Language:
    """The language to answer in, by the header Accept-Language (RFC 9110, section 12.5.4)."""
    weights: dict[str, float] = {}
    for item in accept.split(","):
        tag, *parameters = (part.strip().lower() for part in item.split(";"))
        weight = 1.0
        for parameter in parameters:
            if match := re.fullmatch(r"q\s*=\s*([01](?:\.[0-9]{0,3})?)", parameter):
                weight = float(match[1])
        language = tag.partition("-")[0]
        weights[language] = max(weight, weights.get(language, 0))
    return "de" if weights.get("de", 0) > weights.get("en", 0) else "en"


def origin_of(url: str) -> str | None:
    """The origin of an http address as browsers write it; None for anything else.

    What browsers and `urlsplit` might read differently has none either.
    """
    if not url.isprintable() or "\\" in url or " " in url:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or "@" in parts.netloc:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    shown = "" if port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{host}{shown}"


def is_same_site(origin: str, other: str) -> bool:
    """Whether a browser sends one origin's SameSite=Lax cookies on requests of the other.

    Narrower than the rule of browsers, which looks at the registrable domain.
    """
    one, two = urlsplit(origin), urlsplit(other)
    return (one.scheme, one.hostname) == (two.scheme, two.hostname)


def text(language: Language, name: str, **values: object) -> str:
    """A text of the page."""
    return _TEXTS[language][name].format(**values)


def render_login(
    language: Language,
    *,
    back_to: str | None,
    now: Person | None,
    given: Mapping[str, str] = MappingProxyType({}),
    alert: str | None = None,
) -> str:
    """The page; `given` is what somebody entered before, and `alert` what was wrong with it."""

    def say(name: str, **values: object) -> str:
        return html.escape(text(language, name, **values))

    hidden = "" if back_to is None else _input("redirectTo", back_to, type="hidden")
    parts = [f"<h1>{say('heading')}</h1>", f"<p>{say('intro')}</p>"]
    if alert is not None:
        parts.append(f'<p role="alert" id="alert">{html.escape(alert)}</p>')
    if now is not None:
        parts.append(f"<p>{say('now', who=now.name or now.sub)}</p>")
    if back_to is not None:
        parts.append(f"<p>{say('back', where=back_to)}</p>")
    parts += [
        f'<section aria-labelledby="demo"><h2 id="demo">{say("demo")}</h2>',
        f'<form method="post" action="/login">{hidden}<ul>',
        *(_choice(user, language) for user in DEMO_USERS),
        "</ul></form></section>",
        f'<section aria-labelledby="other"><h2 id="other">{say("other")}</h2>',
        f'<form method="post" action="/login" autocomplete="off">{hidden}',
        _field("sub", say("sub"), given, required="", maxlength="128", spellcheck="false"),
        _field("name", say("name"), given, maxlength=str(NAME_MAX)),
        _field("email", say("email"), given, type="email", maxlength=str(NAME_MAX)),
        _checkbox(
            "email_verified", say("verified"), checked=not given or "email_verified" in given
        ),
        _select(
            "role", say("role"), {"user": say("user"), "admin": say("admin")}, given.get("role")
        ),
        f"<button>{say('submit')}</button></form></section>",
    ]
    return _page(language, "".join(parts))


def render_refusal(language: Language, reason: str) -> str:
    """The page for whoever cannot be sent back, with the reason."""
    heading = html.escape(text(language, "stuck"))
    return _page(language, f'<h1>{heading}</h1><p role="alert">{html.escape(reason)}</p>')


def _page(language: Language, body: str) -> str:
    return (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(text(language, 'title'))}</title>"
        '<link rel="icon" href="data:,"><link rel="stylesheet" href="/login.css"></head>'
        f"<body><main>{body}</main></body></html>"
    )


def _choice(user: DemoUser, language: Language) -> str:
    person = user.person
    return (
        f'<li><button name="person" value="{html.escape(person.sub)}">'
        f"<strong>{html.escape(person.name or person.sub)}</strong> "
        f"<span>{html.escape(user.about[language])}</span></button></li>"
    )


def _attributes(attributes: Mapping[str, str]) -> str:
    return "".join(f' {name}="{html.escape(value)}"' for name, value in attributes.items())


def _input(name: str, value: str, **attributes: str) -> str:
    return f"<input{_attributes({'name': name, 'value': value, **attributes})}>"


def _field(name: str, label: str, given: Mapping[str, str], **attributes: str) -> str:
    written = _input(name, given.get(name, ""), id=name, **attributes)
    return f'<p><label for="{name}">{label}</label>{written}</p>'


def _checkbox(name: str, label: str, *, checked: bool) -> str:
    more = {"checked": ""} if checked else {}
    box = _input(name, "true", type="checkbox", id=name, **more)
    return f'<p class="check">{box}<label for="{name}">{label}</label></p>'


def _select(name: str, label: str, options: Mapping[str, str], chosen: str | None) -> str:
    written = "".join(
        f'<option value="{value}"{" selected" if value == chosen else ""}>{shown}</option>'
        for value, shown in options.items()
    )
    return (
        f'<p><label for="{name}">{label}</label>'
        f'<select id="{name}" name="{name}">{written}</select></p>'
    )


def find_demo_user(sub: str) -> Person | None:
    """The person whom the page offers under this id."""
    return next((user.person for user in DEMO_USERS if user.person.sub == sub), None)
