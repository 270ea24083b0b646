"""The OpenAPI document as a judge: whether an answer is one that it foresees."""

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

from jsonschema_rs import Draft202012Validator
from multidict import CIMultiDict

METHODS = ("get", "post", "delete")
SAID_OF_HEADERS = ("Retry-After", "Link", "Idempotent-Replayed", "WWW-Authenticate", "ETag")
"""Headers that an answer has only where the document says so."""


class Contract:
    """What a service says of itself, held against what it does."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        # What is written out comes before a placeholder, as in the application.
        self._paths = [
            (re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))), path)
            for path in sorted(document["paths"], key=lambda path: str(path).count("{"))
        ]
        self._components = _closed(document)
        self._validators: dict[tuple[str, str], Draft202012Validator | None] = {}

    def operations(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Every operation by its method and path."""
        return {
            (method.upper(), path): operation
            for path, item in self.document["paths"].items()
            for method, operation in item.items()
            if method in METHODS
        }

    def find(self, method: str, path: str) -> tuple[str, dict[str, Any]] | None:
        """The operation that a call is for, with the path that it is declared under."""
        for pattern, declared in self._paths:
            item = self.document["paths"][declared]
            if pattern.fullmatch(path) and method.lower() in item:
                return declared, item[method.lower()]
        return None

    def require(
        self, method: str, path: str, status: int, headers: Mapping[str, str], body: Any
    ) -> None:
        """Fail for an answer that the document does not foresee. `path` without the query.

        Where no operation is called, there is nothing but the envelope of a 404 or a 405. A 500
        is in no document; that there is none is for the test to say.
        """
        where = f"{method} {path}: {status} {body!r}"
        received = CIMultiDict(headers)
        found = self.find(method, path)
        if found is None or status == 500:
            assert status in (404, 405, 500), where
            self._require_envelope(where, status, body)
            return
        _, operation = found
        assert str(status) in operation["responses"], f"not documented: {where}"
        response = operation["responses"][str(status)]
        told = {
            name.lower(): self._resolved(header)
            for name, header in response.get("headers", {}).items()
        }
        for name, header in told.items():
            assert name in received or not header.get("required"), f"{name} is missing: {where}"
        for name in SAID_OF_HEADERS:
            assert name not in received or name.lower() in told, f"{name} is not told of: {where}"
        content = response.get("content", {})
        if not content:
            assert body in (None, "", b""), where
            return
        type_, schema = next(iter(content.items()))
        assert received["Content-Type"].partition(";")[0] == type_.partition(";")[0], where
        if type_ != "application/json":
            return
        problems = list(self._validator(operation, status, schema["schema"]).iter_errors(body))
        assert not problems, f"{where}\n" + "\n".join(map(str, problems))

    def _require_envelope(self, where: str, status: int, body: Any) -> None:
        validator = self._validator(
            {"operationId": ""}, status, {"$ref": "#/components/schemas/ErrorAnswer"}
        )
        assert validator.is_valid(body), where
        assert body["statusCode"] == status, where

    def _validator(
        self, operation: dict[str, Any], status: int, schema: dict[str, Any]
    ) -> Draft202012Validator:
        key = (operation["operationId"], str(status))
        made = self._validators.get(key)
        if made is None:
            made = Draft202012Validator(
                {**schema, "components": {"schemas": self._components}}, validate_formats=True
            )
            self._validators[key] = made
        return made

    def _resolved(self, header: dict[str, Any]) -> dict[str, Any]:
        name = header["$ref"].rpartition("/")[2]
        found: dict[str, Any] = self.document["components"]["headers"][name]
        return found


@functools.lru_cache(maxsize=8)
def contract_of(document: bytes) -> Contract:
    """The judge of a document: the same for the same one, since its schemas take long to read."""
    return Contract(json.loads(document))


def _closed(document: dict[str, Any]) -> dict[str, Any]:
    """The schemas, so that what they do not name must not be there: a client may ignore it, but
    a test must not."""
    schemas: dict[str, Any] = json.loads(json.dumps(document["components"]["schemas"]))
    for schema in schemas.values():
        schema.setdefault("additionalProperties", False)
    return schemas
