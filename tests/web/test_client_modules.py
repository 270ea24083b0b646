"""The modules that browsers load: node's own tests of them, and what they have with the service
in common."""

import asyncio
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from service.app import create_app
from service.keys import PAGES
from service.paths import WEB
from service.settings import Settings
from tests.support.databases import Connection
from tests.support.routes import declared_routes
from tests.support.running import Running
from tests.support.stripe import Shop

HERE = Path(__file__).parent / "client"
SECONDS = 120
"""For node; it hangs otherwise."""

SCHEMAS = {
    "Balance": "Balance",
    "NewBalance": "NewBalance",
    "Transaction": "Transaction",
    "Moved": "Moved",
    "Package": "Package",
    "OperationPrice": "Operation",
    "Pricing": "Pricing",
    "Usage": "Usage",
    "Purchase": "PurchaseView",
    "StartedPurchase": "StartedIntent",
    "StartedCheckout": "StartedCheckout",
    "SyncStatus": "Status",
    "SyncActivated": "Activated",
    "SyncIntervalChanged": "IntervalChanged",
    "PublicGift": "PublicGiftView",
    "Gift": "GiftView",
    "ReceivedGift": "ReceivedGiftView",
    "GiftRedeemed": "Redeemed",
    "GiftCancelled": "Cancelled",
    "SyncGiftState": "GiftState",
}
SUPPORT_SCHEMAS = {
    "UserFound": "UserFound",
    "Hold": "HoldView",
    "Account": "AccountView",
    "SupportGift": "SupportGift",
    "AdminAction": "ActionView",
    "LedgerDay": "Day",
    "Subscriptions": "Subscriptions",
    "NextRun": "NextRun",
    "Job": "JobView",
    "LedgerCheck": "LedgerCheck",
    "OpenEvents": "OpenEvents",
    "OpenNotices": "OpenNotices",
    "Overview": "OverviewView",
    "StripeEvent": "EventView",
    "StripeEventReplayed": "EventReplayed",
    "Notice": "NoticeView",
    "NoticesRetried": "Retried",
    "UserErased": "UserErased",
}
"""The answers: how types.js names them, and how the OpenAPI document does."""


async def run_node(*arguments: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Run node; what it wrote, which is also told when it fails."""
    node = shutil.which("node")
    assert node is not None, "node is missing: service/dev/packages.sh test"
    process = await asyncio.create_subprocess_exec(
        node,
        *map(str, arguments),
        env={**os.environ, **(env or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(SECONDS):
            written, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        pytest.fail(written.decode(), pytrace=False)
    return written.decode()


async def test_by_themselves() -> None:
    files = sorted(HERE.glob("*.test.js"))
    written = await run_node("--test", "--test-reporter=tap", *files)
    passed = re.search(r"^# pass (\d+)$", written, re.MULTILINE)
    assert passed is not None, written
    assert int(passed[1]) > 100


async def test_against_the_service(service: Running, shop: Shop, admin: Connection) -> None:
    await service.grant("ann", 2000)
    await run_node(
        HERE / "real_service.js",
        env={
            "MANA_URL": service.url,
            "ANN": service.token("ann", name="Ann"),
            "BOB": service.token("bob"),
            "ADMIN": service.token("root", role="admin"),
        },
    )
    assert await service.balance("bob") == 50
    moves = await admin.fetch(
        """
        SELECT type::text, count(*), sum(amount)::int FROM credits.transactions
        WHERE user_id = 'ann' GROUP BY type ORDER BY type::text
        """
    )
    assert [tuple(row) for row in moves] == [
        ("gift", 3, -50),
        ("grant", 1, 2000),
        ("usage", 123, -160),
    ]


async def test_the_examples_of_the_readme(service: Running) -> None:
    await service.grant("ann", 1000)
    written = await run_node(
        HERE / "readme.js", env={"MANA_URL": service.url, "ANN": service.token("ann")}
    )
    lines = written.splitlines()
    assert lines[0] == "1000 credits, and 0 on hold"
    assert "995 credits are left" in lines
    assert lines[-1] == "running"
    # A debit, another one, a gift that its creator redeems, and sync for a month.
    assert await service.balance("ann") == 1000 - 5 - 5 - 10 + 10 - 30


async def test_the_clients_call_every_route_that_is_theirs() -> None:
    script = f"""
        const {{ USER_CALLS, ADMIN_CALLS }} = await import({(HERE / "calls.js").as_uri()!r});
        const told = [...USER_CALLS, ...ADMIN_CALLS].map(([, , method, path]) => [method, path]);
        console.log(JSON.stringify(told));
    """
    called: list[list[str]] = json.loads(await run_node("--input-type=module", "--eval", script))
    theirs = [
        (method, path)
        for method, path in declared_routes()
        if re.match(r"/api/v1/(credits|sync|gifts|admin)/?", path)
    ]
    # What is written out comes before a placeholder, as in the application.
    patterns = {
        route: re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(route[1])))
        for route in sorted(theirs, key=lambda route: route[1].count("{"))
    }
    reached = set()
    strangers = []
    for method, path in called:
        plain = f"/api/v1{path}".partition("?")[0]
        found = (
            route
            for route, pattern in patterns.items()
            if route[0] == method and pattern.fullmatch(plain)
        )
        route = next(found, None)
        if route is None:
            strangers.append(f"{method} {path}")
        else:
            reached.add(route)
    assert set(theirs) - reached == set()
    assert strangers == []


def typedefs(text: str) -> dict[str, dict[str, tuple[bool, bool]]]:
    """Every object type: its properties, whether one may be missing, and whether it may be null."""
    found = {}
    for comment in re.findall(r"/\*\*(.*?)\*/", text, re.DOTALL):
        name = re.search(r"@typedef \{object\} (\w+)", comment)
        if name is None:
            continue
        properties = re.findall(r"@property \{(.+?)\} (\[?)(\w+)\]?", comment)
        found[name[1]] = {
            field: (optional == "[", type_.endswith("| null"))
            for type_, optional, field in properties
        }
    return found


def properties_of(schema: dict[str, Any]) -> dict[str, tuple[bool, bool]]:
    """The same of a schema."""
    return {
        name: (
            name not in schema.get("required", []),
            {"type": "null"} in inner.get("anyOf", []),
        )
        for name, inner in schema["properties"].items()
    }


def test_the_types_are_those_of_the_openapi_document() -> None:
    app = create_app(Settings.from_env({"MANA_ENV": "development"}))
    schemas = json.loads(app[PAGES]["openapi.json"].body)["components"]["schemas"]
    types = typedefs((WEB / "client" / "types.js").read_text())
    for name, schema in (SCHEMAS | SUPPORT_SCHEMAS).items():
        assert types[name] == properties_of(schemas[schema]), name
