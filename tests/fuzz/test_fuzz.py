"""Random requests made from the OpenAPI document, by everybody: every answer is a documented one.

`MANA_FUZZ_EXAMPLES` is how many requests of each kind are drawn for each operation, and
`MANA_FUZZ_SEED` from where; what they were is printed with a failure.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

import hypothesis
import pytest
import requests
import schemathesis
from aiohttp.test_utils import TestServer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.app import create_app
from service.dev import issuer
from service.dev.issuer import SigningKey
from service.dev.postgres import Cluster
from service.keys import PAGES
from service.payments import EVENT_TYPES
from service.settings import Settings
from service.wire import Auth
from tests.model.drivers import StripeDouble, stock
from tests.support.background import in_background
from tests.support.clones import shared_clone
from tests.support.contract import Contract
from tests.support.databases import as_settings, connect
from tests.support.routes import declared_routes
from tests.support.running import Running, an_address, running_service
from tests.support.stripe import SECRET_KEY, WEBHOOK_SECRET, made_up, sign

EXAMPLES = int(os.environ.get("MANA_FUZZ_EXAMPLES", "5"))
SEED = int(os.environ.get("MANA_FUZZ_SEED", "1"))

ROUTES = declared_routes()
USERS = ("ann", "auth0|5f7c8ec7c33c6c004bbafe82", "Jürgen~!$&'()*+,;=:@")
PLENTY = 1_000_000
_strangers = itertools.count(1)
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
NOT_IN_A_SCHEMA = {
    "expiresAt": "in the future, and within ten years",
    "successUrl": "on an origin of ours",
    "cancelUrl": "on an origin of ours",
    "metadata": "at most 16 KiB",
    "amount": "no more than is left of a debit or a hold",
    "before": "the id of an event that there is",
    "query": "not blank",
}
"""Rules that no schema can say: a request that only breaks these may be refused."""


@dataclasses.dataclass(frozen=True)
class Fuzzed:
    """A service with something in it, and the ids of that."""

    running: Running
    schema: Any
    session: requests.Session
    known: dict[str, list[str]]
    sells: bool

    def operation(self, method: str, path: str) -> Any:
        """An operation as schemathesis has it."""
        return self.schema[path][method]

    def send(self, case: Case[Any], headers: dict[str, str]) -> schemathesis.Response:
        """Send a request from an address of its own."""
        response: schemathesis.Response = case.call(
            base_url=self.running.url,
            session=self.session,
            headers={"X-Forwarded-For": an_address(), **headers},
            timeout=60,
        )
        return response

    def judge(self, case: Case[Any], response: schemathesis.Response, *more: Any) -> None:
        """Require an answer that is documented, by two judges, and never a 500."""
        assert response.status_code != 500, case.as_curl_command()
        path = urlsplit(str(response.request.url)).path
        template = case.operation.path
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), unquote(path)):
            self.require(case.operation.method, path, response)
            case.validate_response(response, checks=[*CHECKS, *more])
        else:
            # A part of the path was empty or had a slash: another route, or none.
            assert response.status_code < 500, case.as_curl_command()

    def require(
        self, method: str, path: str, response: schemathesis.Response | requests.Response
    ) -> None:
        """Require an answer that the service's document foresees."""
        headers = {
            name: value if isinstance(value, str) else value[0]
            for name, value in response.headers.items()
        }
        is_json = headers.get("Content-Type", headers.get("content-type", "")).startswith(
            "application/json"
        )
        body = json.loads(response.content) if is_json else response.content
        self.running.contract.require(method.upper(), path, response.status_code, headers, body)


@contextlib.asynccontextmanager
async def stocked(cluster: Cluster, template: str, **env: str) -> AsyncIterator[Any]:
    """A service on a database of its own, with users, credits, gifts, holds and packages."""
    async with (
        shared_clone(cluster, template) as clone,
        running_service(as_settings(cluster, clone.name, LOG_LEVEL="error", **env)) as running,
    ):
        admin = await connect(clone.admin_url)
        try:
            packages = list(await stock(admin))
        finally:
            await admin.close()
        known: dict[str, list[str]] = {
            "userId": list(USERS),
            "packageId": packages,
            "reservationId": [],
            "transactionId": [],
            "id": [],
            "code": [],
            "purchaseId": [],
        }
        for user in USERS:
            await running.grant(user, PLENTY)
            for number in range(4):
                hold = await running.call(
                    "POST",
                    "/internal/credits/reserve",
                    internal=True,
                    json={"userId": user, "amount": 10, "reason": "app:x"},
                )
                known["reservationId"].append(hold.body["reservationId"])
                used = await running.call(
                    "POST",
                    "/credits/use",
                    user=user,
                    json={"amount": 10, "appId": "app", "description": f"{number}"},
                )
                known["transactionId"].append(used.body["transaction"]["id"])
                gift = await running.call("POST", "/gifts", user=user, json={"totalCredits": 5})
                known["id"].append(gift.body["id"])
                known["code"].append(gift.body["code"])
        if running.settings.stripe is not None:
            for user in USERS:
                bought = await running.call(
                    "POST", "/credits/purchase", user=user, json={"packageId": packages[0]}
                )
                assert bought.status == 200, bought.body
                known["purchaseId"].append(bought.body["purchaseId"])
        yield running, known


@contextlib.contextmanager
def fuzzing(
    make: Callable[[], contextlib.AbstractAsyncContextManager[Any]], *, sells: bool
) -> Iterator[Fuzzed]:
    with in_background(make) as (running, known), requests.Session() as session:
        print(f"MANA_FUZZ_SEED={SEED} MANA_FUZZ_EXAMPLES={EXAMPLES}")
        config = schemathesis.Config()
        # PostgreSQL cannot store NUL, which the document says in words.
        config.projects.default.generation.update(allow_x00=False)
        schema = schemathesis.openapi.from_dict(
            open_to_all(running.contract.document), config=config
        )
        yield Fuzzed(running, schema, session, known, sells)


@pytest.fixture(scope="module")
def plain(cluster: Cluster, template: str) -> Iterator[Fuzzed]:
    """A service without Stripe."""
    with fuzzing(lambda: stocked(cluster, template), sells=False) as fuzzed:
        yield fuzzed


@pytest.fixture(scope="module")
def selling(cluster: Cluster, template: str) -> Iterator[Fuzzed]:
    """A service with a double of Stripe."""

    @contextlib.asynccontextmanager
    async def make() -> AsyncIterator[Any]:
        async with (
            TestServer(StripeDouble().app) as stripe,
            stocked(
                cluster,
                template,
                STRIPE_SECRET_KEY=SECRET_KEY,
                STRIPE_WEBHOOK_SECRET=WEBHOOK_SECRET,
                STRIPE_API_BASE=str(stripe.make_url("")).rstrip("/"),
            ) as made,
        ):
            yield made

    with fuzzing(make, sells=True) as fuzzed:
        yield fuzzed


def run(test: Callable[..., None], examples: int, **strategies: st.SearchStrategy[Any]) -> None:
    """Draw that many examples, the same ones each time."""
    bounded = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    hypothesis.seed(SEED)(bounded(given(**strategies)(test)))()


def credentials(running: Running, auth: Auth, user: str) -> dict[str, str]:
    """What lets a caller in."""
    match auth:
        case Auth.USER:
            token = running.token(user, email=f"{len(user)}@example.org", name="Ann")
            return {"Authorization": f"Bearer {token}"}
        case Auth.ADMIN:
            return {"Authorization": f"Bearer {running.token(user, role='admin')}"}
        case Auth.SERVICE:
            return {"X-Service-Key": running.settings.service_keys[0]}
        case Auth.PUBLIC | Auth.SIGNED:
            return {}


def wrong_credentials(running: Running, auth: Auth) -> dict[str, dict[str, str]]:
    """What lets nobody in, by what is wrong with it."""
    key = running.settings.service_keys[0]
    role: dict[str, Any] = {"role": "admin"}
    good = running.token("ann", **role)
    if auth is Auth.SERVICE:
        return {
            "none": {},
            "garbage": {"X-Service-Key": "garbage"},
            "another scheme": {"Authorization": f"Bearer {key}"},
            "a user's token": {"Authorization": f"Bearer {good}"},
        }
    stranger = issuer.mint(
        dataclasses.replace(SigningKey.generate(), kid=running.key.kid),
        sub="ann",
        issuer=running.settings.auth_url,
        **role,
    )
    tokens = {
        "garbage": "garbage.of.sorts",
        "expired": running.token("ann", exp=1, **role),
        "another audience": running.token("ann", aud="other", **role),
        "another issuer": running.token("ann", iss="http://other", **role),
        "another key": stranger,
        "cut off": good[:-10],
    }
    return {
        "none": {},
        "a service key": {"X-Service-Key": key},
        **{name: {"Authorization": f"Bearer {token}"} for name, token in tokens.items()},
    }


def open_to_all(document: dict[str, Any]) -> dict[str, Any]:
    """The document without credentials, which a test gives itself, good or wrong.

    And without the format of e-mail addresses, which only describes: the pattern is the rule.
    """
    copy: dict[str, Any] = json.loads(json.dumps(document).replace('"format": "email", ', ""))
    for item in copy["paths"].values():
        for operation in item.values():
            operation["security"] = []
    return copy


def who_calls(case: Case[Any], user: str) -> str:
    """The user, or where calls are counted for each user, somebody who has never called."""
    return (
        f"{user}-{next(_strangers)}"
        if "429" in case.operation.definition.raw["responses"]
        else user
    )


def with_known_ids(case: Case[Any], known: dict[str, list[str]], draw: st.DataObject) -> None:
    """Put ids that are there in the place of random ones, most of the time."""
    if "/admin/" in case.operation.path:
        known = {"userId": ["eve", "mallory"]}  # a gifted sync would keep the others from paying
    body = case.body if isinstance(case.body, dict) else {}
    for place in (case.path_parameters, body):
        for name in list(place or {}):
            if known.get(name) and draw.draw(st.integers(0, 3)):
                place[name] = draw.draw(st.sampled_from(known[name]))


def require_accepted(case: Case[Any], response: schemathesis.Response) -> None:
    """A request that fits the document is refused for what it asks, never for its form."""
    if response.status_code != 400:
        assert response.status_code not in (401, 403, 413, 415) or _wrong_recipient(response)
        return
    told = json.loads(response.content)
    if told["error"] != "invalid_request":
        return
    fields = {problem["field"] for problem in told.get("details", ())}
    assert fields, (told, case.as_curl_command())
    beyond = {name for name in fields if not _beyond_schemas(name, case)}
    assert not beyond, (beyond, told, case.as_curl_command())


def _beyond_schemas(name: str, case: Case[Any]) -> bool:
    body = case.body if isinstance(case.body, dict) else {}
    sent = body.get(name, (case.path_parameters or {}).get(name))
    if isinstance(sent, float):
        return sent.is_integer()  # 1.0 is an integer of JSON Schema, and none of ours
    if name in ("userId", "email", "targetEmail"):
        # A regular expression knows no unassigned characters.
        return isinstance(sent, str) and not unquote(sent).isprintable()
    return name in NOT_IN_A_SCHEMA


def _wrong_recipient(response: schemathesis.Response) -> bool:
    return bool(json.loads(response.content)["error"] == "gift_wrong_recipient")


def fuzz_valid(fuzzed: Fuzzed, method: str, path: str, auth: Auth) -> None:
    operation = fuzzed.operation(method, path)

    def test(case: Case[Any], user: str, draw: st.DataObject) -> None:
        with_known_ids(case, fuzzed.known, draw)
        response = fuzzed.send(case, credentials(fuzzed.running, auth, who_calls(case, user)))
        fuzzed.judge(case, response)
        if auth is not Auth.SIGNED:
            require_accepted(case, response)

    run(
        test,
        EXAMPLES,
        case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE),
        user=st.sampled_from(USERS),
        draw=st.data(),
    )


def fuzz_invalid(fuzzed: Fuzzed, method: str, path: str, auth: Auth) -> None:
    operation = fuzzed.operation(method, path)

    def test(case: Case[Any], user: str) -> None:
        response = fuzzed.send(case, credentials(fuzzed.running, auth, who_calls(case, user)))
        # A key in the body comes before the header, which nobody reads then.
        body = case.body if isinstance(case.body, dict) else {}
        keyed = body.get("idempotencyKey") is not None and "Idempotency-Key" in case.headers
        fuzzed.judge(case, response, *([] if keyed else [negative_data_rejection]))

    run(
        test,
        EXAMPLES,
        case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
        user=st.sampled_from(USERS),
    )


ALL = sorted(
    ((method, path, auth) for (method, path), auth in ROUTES.items()), key=lambda route: route[:2]
)
CLOSED = [route for route in ALL if route[2] in (Auth.USER, Auth.ADMIN, Auth.SERVICE)]
OPERATIONS = Contract(
    json.loads(
        create_app(Settings.from_env({"MANA_ENV": "development"}))[PAGES]["openapi.json"].body
    )
).operations()
CAN_BE_WRONG = [
    route
    for route in ALL
    if "requestBody" in OPERATIONS[route[:2]]
    or (
        {one["name"] for one in OPERATIONS[route[:2]]["parameters"]}
        - {"code", "id", "purchaseId", "eventId", "If-None-Match"}
        # A page is the same for all paths, and of files there are those that there are.
        and route[1].startswith("/api/")
    )
]
"""Those that take something which can have a wrong form."""
PAYMENTS = [route for route in ALL if "purchase" in route[1] or route[2] is Auth.SIGNED]


@pytest.mark.parametrize(("method", "path", "auth"), ALL)
def test_valid_requests(plain: Fuzzed, method: str, path: str, auth: Auth) -> None:
    fuzz_valid(plain, method, path, auth)


@pytest.mark.parametrize(("method", "path", "auth"), CAN_BE_WRONG)
def test_invalid_requests(plain: Fuzzed, method: str, path: str, auth: Auth) -> None:
    fuzz_invalid(plain, method, path, auth)


@pytest.mark.parametrize(("method", "path", "auth"), CLOSED)
def test_wrong_credentials(plain: Fuzzed, method: str, path: str, auth: Auth) -> None:
    wrong = wrong_credentials(plain.running, auth)

    def test(case: Case[Any], name: str) -> None:
        response = plain.send(case, wrong[name])
        plain.judge(case, response)
        assert response.status_code == 401, (name, case.as_curl_command())

    run(
        test,
        EXAMPLES,
        case=plain.operation(method, path).as_strategy(generation_mode=GenerationMode.POSITIVE),
        name=st.sampled_from(sorted(wrong)),
    )


@pytest.mark.parametrize(("method", "path", "auth"), PAYMENTS)
def test_payments_with_stripe(selling: Fuzzed, method: str, path: str, auth: Auth) -> None:
    fuzz_valid(selling, method, path, auth)
    if (method, path, auth) in CAN_BE_WRONG:
        fuzz_invalid(selling, method, path, auth)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECT_FIELDS = (
    *("id", "object", "status", "amount", "amount_received", "amount_refunded", "currency"),
    *("metadata", "payment_intent", "payment_status", "charge", "refunds", "created", "reason"),
    *("last_payment_error", "latest_charge", "customer", "balance_transactions"),
)


def test_events_with_a_good_signature(selling: Fuzzed) -> None:
    """Stripe's signature says who sent it, and nothing about what is in it."""

    def test(
        type_: str, about: dict[str, Any], change: dict[str, Any], draw: st.DataObject
    ) -> None:
        if draw.draw(st.booleans()):
            about["metadata"] = {"purchaseId": draw.draw(st.sampled_from(known))}
        payload = json.dumps({**made_up(type_, about), **change}).encode()
        response = selling.session.post(
            f"{selling.running.url}/api/v1/webhooks/stripe",
            data=payload,
            headers={"Stripe-Signature": sign(payload), "Content-Type": "application/json"},
            timeout=60,
        )
        assert response.status_code in (200, 400), (response.status_code, payload)
        selling.require("POST", "/api/v1/webhooks/stripe", response)

    known = selling.known["purchaseId"]
    run(
        test,
        EXAMPLES * 10,
        type_=st.sampled_from((*EVENT_TYPES, "customer.created", "")),
        about=st.dictionaries(st.sampled_from(OBJECT_FIELDS), JSON, max_size=8),
        change=st.dictionaries(
            st.sampled_from(("id", "type", "created", "data", "object")), JSON, max_size=1
        ),
        draw=st.data(),
    )
