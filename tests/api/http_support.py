"""What the tests of the HTTP core share: clients, and an auth service with keys of its own."""

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import jwt
from aiohttp import web
from aiohttp.test_utils import TestClient
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

Client = TestClient[web.Request, web.Application]
Connect = Callable[[web.Application], Awaitable[Client]]


@dataclass
class SigningKey:
    """A key pair, as an auth service has it."""

    kid: str
    algorithm: str
    private: PrivateKeyTypes

    @classmethod
    def make(cls, kid: str, algorithm: str = "EdDSA") -> "SigningKey":
        match algorithm:
            case "EdDSA":
                return cls(kid, algorithm, ed25519.Ed25519PrivateKey.generate())
            case "ES256":
                return cls(kid, algorithm, ec.generate_private_key(ec.SECP256R1()))
            case _:
                return cls(kid, algorithm, rsa.generate_private_key(65537, 2048))

    @property
    def jwk(self) -> dict[str, Any]:
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        public = json.loads(algorithm.to_jwk(self.private.public_key()))
        return {**public, "kid": self.kid, "alg": self.algorithm, "use": "sig"}

    @property
    def public_pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )


def encode_part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@dataclass
class Issuer:
    """An auth service: its JWKS, which a test can break, and the tokens it gives out."""

    url: str = ""
    keys: list[SigningKey] = field(default_factory=lambda: [SigningKey.make("first")])
    fetches: int = 0
    answer: Callable[[], Awaitable[web.StreamResponse]] | None = None
    """Instead of the key set."""

    @property
    def jwks_url(self) -> str:
        return f"{self.url}/api/auth/jwks"

    def document(self) -> bytes:
        return json.dumps({"keys": [key.jwk for key in self.keys]}).encode()

    def claims(self, **claims: Any) -> dict[str, Any]:
        now = int(time.time())
        usual = {"iss": self.url, "aud": "mana", "sub": "user-1", "iat": now, "exp": now + 900}
        return {name: value for name, value in (usual | claims).items() if value is not None}

    def token(
        self, key: SigningKey | None = None, headers: dict[str, Any] | None = None, **claims: Any
    ) -> str:
        key = key or self.keys[0]
        return jwt.encode(
            self.claims(**claims),
            key.private,  # type: ignore[arg-type]
            algorithm=key.algorithm,
            headers={"kid": key.kid} | (headers or {}),
        )

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.fetches += 1
        if self.answer is not None:
            return await self.answer()
        return web.Response(body=self.document(), content_type="application/json")


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for raises no event
            await asyncio.sleep(0.01)
