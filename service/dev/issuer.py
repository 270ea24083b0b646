"""A development token issuer: a JWKS, and a token for whoever asks.

It stands in for the auth service on a developer's machine and in tests. It has no passwords and
hands out any role, so it listens on the loopback interface alone.
"""

import argparse
import json
import os
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

from service.dev.serving import serve

AUDIENCE = "mana"
DEFAULT_LIFETIME = 3600
_LONGEST_LIFETIME = 366 * 86_400


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


def create_app(key: SigningKey, issuer: str | None = None) -> web.Application:
    """Make the issuer's application; `issuer` is its own address, by default the one asked at."""

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
            issuer=issuer or f"{request.scheme}://{request.host}",
            expires_in=wanted.expires_in,
            email=wanted.email,
            name=wanted.name,
            role=wanted.role,
            email_verified=wanted.email_verified,
        )
        return web.json_response({"token": token})

    app = web.Application()
    app.router.add_get("/api/auth/jwks", jwks)
    app.router.add_post("/api/auth/dev-token", dev_token)
    return app


def main(argv: list[str] | None = None) -> int:
    """Run the issuer as a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m service.dev.issuer", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key-file", type=Path, required=True)
    parser.add_argument("--exit-with-parent", action="store_true", help="stop when stdin ends")
    options = parser.parse_args(argv)
    key = SigningKey.load_or_create(options.key_file)
    app = create_app(key, f"http://localhost:{options.port}")
    return serve(app, options.port, exit_with_parent=options.exit_with_parent)


if __name__ == "__main__":
    sys.exit(main())
