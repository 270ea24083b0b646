"""A development token issuer: a JWKS, a token for whoever asks, and a sign-in for browsers.

It stands in for the auth service on a developer's machine and in tests. It has no passwords and
hands out any role, so it listens on the loopback interface alone.

A session is a token for the issuer itself, in a cookie: whoever keeps the key keeps the sessions.
"""

import argparse
import json
import os
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from service.dev import login
from service.dev.login import Person
from service.dev.serving import serve
from service.ids import is_user_id

AUDIENCE = "mana"
DEFAULT_LIFETIME = 3600
_LONGEST_LIFETIME = 366 * 86_400

TOKEN_LIFETIME: Final = 15 * 60
"""Seconds; a page fetches another one in time."""
SESSION_LIFETIME: Final = 30 * 86_400
# No service takes this audience, so that a cookie is good for nothing but its session.
_SESSION_AUDIENCE: Final = "mana-session"
_PREFLIGHT_SECONDS: Final = 600


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 key and the `kid` under which the key set shows it."""

    kid: str
    private: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> "SigningKey":
        """Draw a new key."""
        return cls(secrets.token_hex(8), Ed25519PrivateKey.generate())

    @classmethod
    def load_or_create(cls, path: Path) -> "SigningKey":
        """Read the key that `path` holds, or draw one and keep it there, readable by us alone."""
        try:
            kept = json.loads(path.read_text())
            private = load_pem_private_key(kept["pem"].encode(), password=None)
            if isinstance(private, Ed25519PrivateKey):
                return cls(kept["kid"], private)
        except FileNotFoundError:
            pass
        key = cls.generate()
        pem = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        unfinished = path.with_name(f"{path.name}.new")
        unfinished.unlink(missing_ok=True)
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
            json.dump({"kid": key.kid, "pem": pem.decode()}, f)
        unfinished.replace(path)
        return key

    def jwks(self) -> dict[str, Any]:
        """Return the key set (RFC 7517) that verifies this key's tokens."""
        public = jwt.algorithms.OKPAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        return {"keys": [{**public, "kid": self.kid, "use": "sig", "alg": "EdDSA"}]}


def mint(
    key: SigningKey,
    *,
    sub: str | None,
    issuer: str,
    audience: str = AUDIENCE,
    expires_in: int = DEFAULT_LIFETIME,
    **claims: Any,
) -> str:
    """Sign a token for the user `sub`, valid for `expires_in` seconds from now.

    `claims` are added, and replace what stands there already; one that is None is left out.
    """
    now = int(time.time())
    payload = {"iss": issuer, "aud": audience, "sub": sub, "iat": now, "exp": now + expires_in}
    payload |= claims
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(payload, key.private, algorithm="EdDSA", headers={"kid": key.kid})


class _TokenRequest(msgspec.Struct, frozen=True, rename="camel"):
    sub: str
    email: str | None = None
    name: str | None = None
    role: str | None = None
    # As the claim is called, and so not in camel case.
    email_verified: bool | None = msgspec.field(default=None, name="email_verified")
    expires_in: int = DEFAULT_LIFETIME


def cookie_name(key: SigningKey) -> str:
    """The name of the session cookie: cookies of one host are shared by all of its ports."""
    return f"mana_session_{key.kid}"


def open_session(key: SigningKey, person: Person, issuer: str) -> str:
    """Sign a person in: the value of the cookie."""
    return mint(
        key,
        issuer=issuer,
        audience=_SESSION_AUDIENCE,
        expires_in=SESSION_LIFETIME,
        **msgspec.structs.asdict(person),
    )


def read_session(key: SigningKey, cookie: str) -> Person | None:
    """Return whose session a cookie is; None when it is none of ours, or has ended."""
    try:
        claims = jwt.decode(
            cookie, key.private.public_key(), algorithms=["EdDSA"], audience=_SESSION_AUDIENCE
        )
        return msgspec.convert(claims, Person)
    except (jwt.InvalidTokenError, msgspec.ValidationError):
        return None


def create_app(
    key: SigningKey, issuer: str | None = None, origins: Sequence[str] = ()
) -> web.Application:
    """Make the issuer's application.

    `issuer` is its own address, by default the one asked at; `origins` are those of the service
    and its apps, which may use a person's session, and to which the login page sends back.
    """

    async def jwks(_request: web.Request) -> web.Response:
        return web.json_response(key.jwks())

    async def dev_token(request: web.Request) -> web.Response:
        try:
            wanted = msgspec.json.decode(await request.read(), type=_TokenRequest)
        except msgspec.MsgspecError as error:
            return web.json_response({"message": str(error)}, status=400)
        if not 0 < wanted.expires_in <= _LONGEST_LIFETIME:
            message = f"expiresIn must be 1 to {_LONGEST_LIFETIME} seconds"
            return web.json_response({"message": message}, status=400)
        token = mint(
            key,
            sub=wanted.sub,
            issuer=issuer or _asked_at(request),
            expires_in=wanted.expires_in,
            email=wanted.email,
            name=wanted.name,
            role=wanted.role,
            email_verified=wanted.email_verified,
        )
        return web.json_response({"token": token})

    app = web.Application(middlewares=[_cors(frozenset(origins))])
    app.router.add_get("/api/auth/jwks", jwks)
    app.router.add_post("/api/auth/dev-token", dev_token)
    _SignIn(key, issuer, tuple(origins)).add_to(app)
    return app


class _SignIn:
    """What the auth service offers to browsers, and the page to sign in on."""

    def __init__(self, key: SigningKey, issuer: str | None, origins: tuple[str, ...]) -> None:
        self._key = key
        self._issuer = issuer
        self._origins = origins

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/api/auth/token", self.token)
        app.router.add_post("/api/auth/sign-out", self.sign_out)
        app.router.add_get("/login", self.show)
        app.router.add_post("/login", self.enter)
        app.router.add_get("/login.css", self.style)

    async def token(self, request: web.Request) -> web.Response:
        """Answer a token for whose session it is."""
        person = self._person(request)
        if person is None:
            return web.json_response({"message": "Not signed in"}, status=401, headers=_NO_STORE)
        token = mint(
            self._key,
            issuer=self._issuer or _asked_at(request),
            expires_in=TOKEN_LIFETIME,
            **msgspec.structs.asdict(person),
        )
        return web.json_response({"token": token}, headers=_NO_STORE)

    async def sign_out(self, request: web.Request) -> web.Response:
        """End the session in this browser."""
        origin = request.headers.get("Origin")
        if origin is not None and origin not in (*self._origins, _asked_at(request)):
            return web.json_response({"message": "Not from this site"}, status=403)
        response = web.json_response({"success": True}, headers=_NO_STORE)
        response.del_cookie(cookie_name(self._key), httponly=True, samesite="Lax")
        return response

    async def style(self, _request: web.Request) -> web.FileResponse:
        """How the page looks."""
        return web.FileResponse(login.STYLE, headers={"Cache-Control": "no-cache"})

    async def show(self, request: web.Request) -> web.Response:
        """Show who one can be."""
        back_to = request.query.get("redirectTo") or None
        return self._refusal(request, back_to) or self._page(request, back_to)

    async def enter(self, request: web.Request) -> web.Response:
        """Sign in whoever was chosen, and send them back to where they came from."""
        given = {
            name: value for name, value in (await request.post()).items() if isinstance(value, str)
        }
        back_to = given.get("redirectTo") or None
        if (refusal := self._refusal(request, back_to)) is not None:
            return refusal
        language = _language(request)
        if request.headers.get("Origin") not in (None, _asked_at(request)):
            return self._page(request, back_to, given, login.text(language, "bad_form"), status=403)
        person = _chosen(given)
        if isinstance(person, str):
            alert = login.text(language, person, max=login.NAME_MAX)
            return self._page(request, back_to, given, alert, status=400)
        response = web.Response(
            status=303, headers={"Location": back_to or self._home(request), **_NO_STORE}
        )
        response.set_cookie(
            cookie_name(self._key),
            open_session(self._key, person, self._issuer or _asked_at(request)),
            max_age=SESSION_LIFETIME,
            httponly=True,
            samesite="Lax",
        )
        return response

    def _person(self, request: web.Request) -> Person | None:
        cookie = request.cookies.get(cookie_name(self._key))
        return None if cookie is None else read_session(self._key, cookie)

    def _home(self, request: web.Request) -> str:
        own = _asked_at(request)
        found = (f"{origin}/" for origin in self._origins if login.is_same_site(origin, own))
        return next(found, "/login")

    def _page(
        self,
        request: web.Request,
        back_to: str | None,
        given: dict[str, str] | None = None,
        alert: str | None = None,
        status: int = 200,
    ) -> web.Response:
        page = login.render_login(
            _language(request),
            back_to=back_to,
            now=self._person(request),
            given={} if given is None or "person" in given else given,
            alert=alert,
        )
        return self._html(request, page, status)

    def _refusal(self, request: web.Request, back_to: str | None) -> web.Response | None:
        """Return the page that says why nobody can be sent back there, if so."""
        if back_to is None:
            return None
        origin, own = login.origin_of(back_to), _asked_at(request)
        if origin is None or origin not in self._origins:
            reason = login.text(_language(request), "foreign", where=back_to)
        elif not login.is_same_site(origin, own):
            # The page there would be without a session, and send back here, for ever.
            reason = login.text(_language(request), "other_site", where=back_to, own=own)
        else:
            return None
        return self._html(request, login.render_refusal(_language(request), reason), 400)

    def _html(self, request: web.Request, page: str, status: int) -> web.Response:
        # Chromium holds the redirect that answers a form to form-action as well.
        targets = " ".join(("'self'", *self._origins))
        policy = (
            f"default-src 'none'; style-src 'self'; img-src data:; form-action {targets};"
            " base-uri 'none'; frame-ancestors 'none'"
        )
        headers = {
            **_NO_STORE,
            "Content-Language": _language(request),
            "Content-Security-Policy": policy,
            # Not no-referrer, with which a browser would send our own form with `Origin: null`.
            "Referrer-Policy": "same-origin",
            "Vary": "Accept-Language, Cookie",
            "X-Content-Type-Options": "nosniff",
        }
        return web.Response(text=page, content_type="text/html", status=status, headers=headers)


_NO_STORE: Final = {"Cache-Control": "no-store"}


def _chosen(given: dict[str, str]) -> Person | str:
    """Return whom a form names, or the name of the text that says what is wrong with it."""
    if "person" in given:
        return login.find_demo_user(given["person"]) or "bad_person"
    sub, name, email = (given.get(field, "").strip() for field in ("sub", "name", "email"))
    if not is_user_id(sub):
        return "bad_sub"
    if not all(len(text) <= login.NAME_MAX and text.isprintable() for text in (name, email)):
        return "bad_text"
    return Person(
        sub=sub,
        name=name or None,
        email=email or None,
        email_verified="email_verified" in given,
        role=given.get("role") or "user",
    )


def _asked_at(request: web.Request) -> str:
    return f"{request.scheme}://{request.host}"


def _language(request: web.Request) -> login.Language:
    return login.preferred_language(request.headers.get("Accept-Language", ""))


_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _cors(origins: frozenset[str]) -> Callable[..., Awaitable[web.StreamResponse]]:
    """Let the pages of these origins read what their visitors' sessions are answered."""

    @web.middleware
    async def cors(request: web.Request, handler: _Handler) -> web.StreamResponse:
        if not request.path.startswith("/api/auth/"):
            return await handler(request)
        preflight = (
            request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        )
        response = web.Response(status=204) if preflight else await handler(request)
        response.headers.add("Vary", "Origin")
        if (origin := request.headers.get("Origin")) in origins:
            response.headers["Access-Control-Allow-Origin"] = str(origin)
            response.headers["Access-Control-Allow-Credentials"] = "true"
            if preflight:
                response.headers["Access-Control-Allow-Methods"] = "GET, POST"
                response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
                response.headers["Access-Control-Max-Age"] = str(_PREFLIGHT_SECONDS)
        return response

    return cors


def main(argv: list[str] | None = None) -> int:
    """Run the issuer as a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m service.dev.issuer", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key-file", type=Path, required=True)
    parser.add_argument(
        "--origin",
        action="append",
        default=[],
        dest="origins",
        help="of the service or an app, to which people are sent back; may be repeated",
    )
    parser.add_argument("--exit-with-parent", action="store_true", help="stop when stdin ends")
    options = parser.parse_args(argv)
    key = SigningKey.load_or_create(options.key_file)
    app = create_app(key, f"http://localhost:{options.port}", options.origins)
    return serve(app, options.port, exit_with_parent=options.exit_with_parent)


if __name__ == "__main__":
    sys.exit(main())
