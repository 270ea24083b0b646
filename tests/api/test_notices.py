"""Notices: what mana-notify gets, when it fails, and who sends what."""

import contextlib
import re
from asyncio import Event
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

import service.notices
import service.queries.notices
from service.dev.ports import free_port
from service.dev.postgres import Cluster
from service.notices import compose, retry_seconds
from tests.support.answers import header
from tests.support.databases import Clone, Connection, as_environment, as_settings, connect
from tests.support.mortal import mortal_service
from tests.support.notify import Notify, notified
from tests.support.running import Answer, Running, running_service
from tests.support.waiting import until

KEY = "a-key-of-the-tests"
POLL_SECONDS = service.notices.POLL_SECONDS
SEND_SECONDS = service.notices.SEND_SECONDS
"""As they are outside of tests, which change them."""
CLAIMS = {"email": "ann@example.org"}


@pytest.fixture(autouse=True)
def _no_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is sent in time is sent because of NOTIFY: the next poll is an hour away."""
    monkeypatch.setattr(service.notices, "POLL_SECONDS", 3600.0)
    # A slow machine must not make a sending fail that a test holds up for a moment.
    monkeypatch.setattr(service.notices, "SEND_SECONDS", 100.0)


@pytest.fixture
async def notify() -> AsyncIterator[Notify]:
    async with notified() as notify:
        yield notify


Serve = Callable[..., contextlib.AbstractAsyncContextManager[Running]]


@pytest.fixture
def serve(cluster: Cluster, database: Clone, notify: Notify) -> Serve:
    """Run a service on this test's database that has mana-notify's address."""

    def serve_(url: str | None = "", **env: str) -> Any:
        if url is not None:
            env["MANA_NOTIFY_URL"] = url or notify.url
        env = {"MANA_SERVICE_KEY": KEY, "BASE_URL": "https://credits.example.org", **env}
        return running_service(as_settings(cluster, database.name, **env))

    return serve_


async def run_out(running: Running, admin: Connection, user: str = "ann", **claims: Any) -> Answer:
    """Let a user's credits run out at a charge, which pauses Cloud Sync and writes a notice."""
    await running.grant(user, 40)
    activated = await running.call("POST", "/sync/activate", user=user, claims=claims or None)
    assert activated.status == 200
    await admin.execute(
        "UPDATE credits.sync_subscriptions SET next_charge_at = now() - interval '1 hour',"
        " paid_until = now() - interval '1 hour' WHERE user_id = $1",
        user,
    )
    return await running.call("POST", "/internal/sync/charge-recurring", internal=True)


async def plant(
    admin: Connection, kind: str = "sync_paused", user: str = "ann", **data: Any
) -> str:
    """Write a notice as the functions do, for a user whose address is known."""
    await admin.execute("SELECT FROM credits.init_balance($1)", user)
    await admin.execute(
        "SELECT FROM credits._remember_address($1, $1 || '@example.org', now())", user
    )
    data = {"price": 30, "available": 10, "interval": "monthly", "dueAt": utc(0), **data}
    await admin.execute(
        "SELECT FROM credits._write_notice($1, $2::credits.notice_kind, $3, now())",
        user,
        kind,
        data,
    )
    planted: str = await admin.fetchval(
        "SELECT id::text FROM credits.notices ORDER BY created_at DESC, id DESC LIMIT 1"
    )
    return planted


def utc(days: float) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def notices(admin: Connection) -> list[dict[str, Any]]:
    rows = await admin.fetch(
        "SELECT id::text, kind::text, state::text, recipient, attempts, last_error,"
        " next_attempt_at, created_at, delivered_at"
        " FROM credits.notices AS n ORDER BY n.created_at, n.id"
    )
    return [dict(row) for row in rows]


async def settled(admin: Connection, *states: str) -> list[dict[str, Any]]:
    """Wait until the notices are in these states."""

    async def are_so() -> bool:
        return [notice["state"] for notice in await notices(admin)] == list(states)

    await until(are_so)
    return await notices(admin)


async def tried(admin: Connection, attempts: int) -> dict[str, Any]:
    """Wait until the one notice was tried so often and waits for the next attempt."""

    async def is_so() -> bool:
        (notice,) = await notices(admin)
        return bool(
            notice["attempts"] == attempts
            and notice["last_error"] is not None
            and notice["state"] == "pending"
        )

    await until(is_so)
    (notice,) = await notices(admin)
    return notice


async def make_due(admin: Connection) -> None:
    """Let the time until the next attempt pass, and wake the sender."""
    await admin.execute("UPDATE credits.notices SET next_attempt_at = now(), last_error = NULL")
    await admin.execute("NOTIFY mana_credits_notices")


# What is sent


async def test_a_pause_is_told(serve: Serve, notify: Notify, admin: Connection) -> None:
    async with serve() as running:
        run = await run_out(running, admin, **CLAIMS)
        assert run.body["paused"] == 1
        (kept,) = await settled(admin, "delivered")

    (letter,) = notify.letters
    assert set(letter) == {
        "channel",
        "appId",
        "userId",
        "recipient",
        "externalId",
        "subject",
        "body",
        "data",
    }
    assert (letter["channel"], letter["appId"]) == ("email", "sync")
    assert (letter["userId"], letter["recipient"]) == ("ann", "ann@example.org")
    assert letter["externalId"] == kept["id"]
    assert letter["subject"]
    assert "https://credits.example.org" in letter["body"]
    assert re.search(r"\b30\b", letter["body"])
    assert re.search(r"\b10\b", letter["body"])
    assert letter["data"]["kind"] == "sync_paused"
    assert (letter["data"]["price"], letter["data"]["available"]) == (30, 10)
    (headers,) = notify.headers
    assert header(Answer(0, None, headers), "X-Service-Key") == KEY
    assert kept["delivered_at"] is not None
    assert (kept["attempts"], kept["recipient"]) == (1, "ann@example.org")


async def test_an_expired_gift_is_told(serve: Serve, notify: Notify, admin: Connection) -> None:
    async with serve() as running:
        await running.grant("ann", 40)
        made = await running.call(
            "POST", "/gifts", user="ann", claims=CLAIMS, json={"totalCredits": 25}
        )
        assert made.status == 201
        await admin.execute(
            "SELECT FROM gifts._expire_gifts(now() + interval '91 days', 10, '-infinity', '')"
        )
        # It was written with a time of its own, ninety days ahead.
        await make_due(admin)
        await settled(admin, "delivered")

    (letter,) = notify.letters
    assert letter["data"]["kind"] == "gift_expired"
    assert (letter["data"]["giftId"], letter["data"]["credits"]) == (made.body["id"], 25)
    assert re.search(r"\b25\b", letter["body"])
    assert made.body["code"] not in str(letter)


async def test_a_charge_that_is_coming_is_told(
    serve: Serve, notify: Notify, admin: Connection
) -> None:
    async with serve() as running:
        await running.grant("ann", 40)
        await running.call("POST", "/sync/activate", user="ann", claims=CLAIMS)
        await admin.execute(
            "UPDATE credits.sync_subscriptions SET next_charge_at = now() + interval '2 days',"
            " paid_until = now() + interval '2 days'"
        )
        await admin.execute("SELECT FROM credits.announce_charges()")
        await settled(admin, "delivered")

    (letter,) = notify.letters
    assert letter["data"]["kind"] == "charge_coming"
    day = datetime.fromisoformat(letter["data"]["dueAt"])
    assert f"{day.day} {day:%B %Y}" in letter["body"]


async def test_what_a_user_could_have_written_is_escaped(
    serve: Serve, notify: Notify, admin: Connection
) -> None:
    hostile = "<script>alert(1)</script>\"'&"
    async with serve() as running:
        assert running.settings.notify_url == notify.url
        await plant(admin, price=hostile, available=hostile)
        await settled(admin, "delivered")

    (letter,) = notify.letters
    assert "<script>" not in letter["body"]
    assert letter["body"].count("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;") == 2
    # The data are for programs, and stay as they are.
    assert letter["data"]["price"] == hostile


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("sync_paused", {"price": "<b>", "available": "<i>"}),
        ("charge_coming", {"price": "<b>", "available": "<i>", "dueAt": utc(1)}),
        ("gift_expired", {"credits": "<b>", "expiredAt": utc(-1)}),
    ],
)
def test_every_kind_of_notice_is_escaped(kind: str, data: dict[str, Any]) -> None:
    mail = compose(kind, data, 'https://x"><script>')

    assert not re.search(r"<(b|i|script)>", mail.body)
    assert "<" not in mail.subject
    assert mail.body.count('"') % 2 == 0


# When it fails


async def test_what_is_refused_is_sent_again_with_the_same_id(
    serve: Serve, notify: Notify, admin: Connection
) -> None:
    statuses = [500, 503, 429, 404, 302]
    notify.statuses = [*statuses]
    async with serve():
        notice = await plant(admin)
        for attempt, status in enumerate(statuses, 1):
            kept = await tried(admin, attempt)
            assert str(status) in kept["last_error"]
            assert kept["next_attempt_at"] > kept["created_at"] + timedelta(seconds=5)
            await make_due(admin)
        (kept,) = await settled(admin, "delivered")

    assert notify.ids == [notice] * 6
    assert all(letter == notify.letters[0] for letter in notify.letters)
    assert kept["attempts"] == 6


async def test_a_mana_notify_that_hangs_holds_nothing(
    serve: Serve, notify: Notify, admin: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.notices, "SEND_SECONDS", 0.2)
    notify.hold = Event()
    async with serve():
        notice = await plant(admin)
        await tried(admin, 1)
        notify.hold.set()
        monkeypatch.setattr(service.notices, "SEND_SECONDS", 60.0)
        await make_due(admin)
        await settled(admin, "delivered")

    assert notify.ids == [notice] * 2


async def test_a_mana_notify_that_is_away(serve: Serve, notify: Notify, admin: Connection) -> None:
    async with serve(f"http://127.0.0.1:{free_port()}"):
        notice = await plant(admin)
        await tried(admin, 1)
    async with serve():
        await make_due(admin)
        await settled(admin, "delivered")

    assert notify.ids == [notice]


@pytest.mark.parametrize("outage", ["500", "429", "hanging", "refusing"])
async def test_after_an_outage_everything_is_delivered_without_a_hand(
    serve: Serve, admin: Connection, monkeypatch: pytest.MonkeyPatch, outage: str
) -> None:
    monkeypatch.setattr(service.notices, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(service.notices, "RETRY_FIRST_SECONDS", 0.05)
    planted = [await plant(admin, user=f"user-{number}") for number in range(30)]
    port = free_port()

    async def all_have_failed() -> bool:
        return all(notice["last_error"] for notice in await notices(admin))

    async with contextlib.AsyncExitStack() as stack:
        if outage == "refusing":
            # Two senders on one outbox, as in all of these.
            for _ in range(2):
                await stack.enter_async_context(serve(f"http://127.0.0.1:{port}"))
            await until(all_have_failed)
            notify = await stack.enter_async_context(notified(port))
        else:
            notify = await stack.enter_async_context(notified(port))
            if outage == "hanging":
                monkeypatch.setattr(service.notices, "SEND_SECONDS", 0.2)
                notify.hold = Event()
            else:
                notify.statuses = [int(outage)] * 60
                notify.retry_after = "1"
            for _ in range(2):
                await stack.enter_async_context(serve(notify.url))
            if notify.hold is not None:
                await until(all_have_failed)
                monkeypatch.setattr(service.notices, "SEND_SECONDS", 100.0)
                notify.hold.set()
        kept = await settled(admin, *["delivered"] * 30)

    assert set(notify.accepted) == set(planted)
    if outage != "hanging":
        # What hung was taken although nobody heard so; its externalId drops the repeat.
        assert len(notify.accepted) == 30
    assert all(notice["last_error"] is None for notice in kept)
    assert all(
        letter["recipient"] == f"{letter['userId']}@example.org" for letter in notify.letters
    )


async def test_a_retry_after_is_kept_to_by_the_whole_sender(
    serve: Serve, notify: Notify, admin: Connection
) -> None:
    notify.statuses = [429]
    notify.retry_after = "2"
    async with serve():
        refused = await plant(admin, user="first")
        kept = await tried(admin, 1)
        # It wakes the sender, which keeps quiet, and then needs neither a poll nor a NOTIFY.
        other = await plant(admin, user="second")
        await until(lambda: other in notify.accepted)

    assert notify.ids[:2] == [refused, other]
    assert notify.times[1] - notify.times[0] >= 2
    assert kept["next_attempt_at"] >= kept["created_at"] + timedelta(seconds=2)


def test_the_pauses_double_up_to_a_day_with_jitter() -> None:
    for attempt in range(1, service.notices.ATTEMPTS_MAX):
        ceiling = min(15 * 2 ** (attempt - 1), 86_400)
        pauses = {retry_seconds(attempt) for _ in range(50)}
        assert len(pauses) > 1
        assert ceiling / 2 <= min(pauses)
        assert max(pauses) <= ceiling
    assert retry_seconds(service.notices.ATTEMPTS_MAX) >= 43_200


@pytest.mark.parametrize(
    ("status", "state"),
    [(400, "failed"), (422, "failed"), (401, "pending"), (404, "pending"), (500, "pending")],
)
async def test_only_a_notice_that_is_itself_refused_is_given_up_soon(
    serve: Serve, notify: Notify, admin: Connection, status: int, state: str
) -> None:
    notify.statuses = [status] * 2
    last = service.notices.REFUSED_ATTEMPTS_MAX
    async with serve():
        await plant(admin)
        # A bad release of the receiver is sat out: not the first refusal is the last word.
        await tried(admin, 1)
        await admin.execute("UPDATE credits.notices SET attempts = $1", last - 1)
        await make_due(admin)

        async def is_settled() -> bool:
            (notice,) = await notices(admin)
            return bool(notice["attempts"] == last and notice["last_error"])

        await until(is_settled)
    (kept,) = await notices(admin)

    assert (kept["state"], kept["last_error"]) == (state, f"HTTP {status}")


async def test_one_that_fails_does_not_hold_up_the_others(
    serve: Serve, notify: Notify, admin: Connection
) -> None:
    await plant(admin, kind="gift_expired", user="first", credits="x", expiredAt="no time")
    for number in range(45):
        await plant(admin, user=f"user-{number}")
    async with serve():

        async def are_delivered() -> bool:
            states = [notice["state"] for notice in await notices(admin)]
            return states == ["pending"] + ["delivered"] * 45

        await until(are_delivered)

    assert len(set(notify.ids)) == len(notify.ids) == 45


async def test_what_never_succeeds_is_given_up_and_stays_visible(
    serve: Serve, notify: Notify, admin: Connection
) -> None:
    notify.statuses = [500] * 2
    async with serve():
        await plant(admin)
        await tried(admin, 1)
        await admin.execute(
            "UPDATE credits.notices SET attempts = $1", service.notices.ATTEMPTS_MAX - 1
        )
        await make_due(admin)
        (kept,) = await settled(admin, "failed")

    assert "500" in kept["last_error"]
    assert len(notify.letters) == 2


async def test_without_an_address_a_notice_is_undeliverable(
    serve: Serve, notify: Notify, admin: Connection
) -> None:
    async with serve() as running:
        await run_out(running, admin)
        (kept,) = await settled(admin, "undeliverable")

    assert notify.letters == []
    assert (kept["recipient"], kept["delivered_at"]) == (None, None)
    assert kept["last_error"]


async def test_an_address_that_is_learned_later_gets_what_was_undeliverable(
    serve: Serve, notify: Notify, admin: Connection
) -> None:
    async with serve() as running:
        await run_out(running, admin)
        (notice,) = await settled(admin, "undeliverable")
        made = await running.call(
            "POST", "/gifts", user="ann", claims=CLAIMS, json={"totalCredits": 1}
        )
        assert made.status == 201
        (kept,) = await settled(admin, "delivered")

    assert notify.ids == [notice["id"]]
    assert (kept["attempts"], kept["recipient"]) == (1, "ann@example.org")


async def test_without_mana_notify_a_notice_is_kept(
    serve: Serve, notify: Notify, admin: Connection
) -> None:
    async with serve(None) as running:
        await run_out(running, admin, **CLAIMS)

        async def was_put_off() -> bool:
            (notice,) = await notices(admin)
            # Nothing was tried, so nothing counts towards giving it up.
            put_off = notice["next_attempt_at"] > notice["created_at"] + timedelta(minutes=30)
            return bool(put_off and (notice["state"], notice["attempts"]) == ("pending", 0))

        await until(was_put_off)
    assert notify.letters == []
    async with serve():
        await make_due(admin)
        await settled(admin, "delivered")

    assert len(notify.letters) == 1


# To whom


@pytest.mark.parametrize(
    ("path", "body"),
    [("/sync/activate", {}), ("/gifts", {"totalCredits": 1}), ("/credits/purchase", {})],
)
async def test_the_address_is_the_last_one_of_a_call_that_changes_something(
    serve: Serve, admin: Connection, path: str, body: dict[str, Any]
) -> None:
    stripe = {"STRIPE_SECRET_KEY": "sk_test_x", "STRIPE_WEBHOOK_SECRET": "whsec_x"}
    away = f"http://127.0.0.1:{free_port()}"
    package = "0192f0c1-0000-7000-8000-000000000001"
    await admin.execute(
        "INSERT INTO credits.packages (id, name, credits, price_euro_cents)"
        " VALUES ($1, 'x', 10, 10)",
        package,
    )
    async with serve(**stripe, STRIPE_API_BASE=away) as running:
        await running.grant("ann", 100)
        for email in ("old@example.org", "new@example.org"):
            # Stripe is away, but whose purchase it is was written down before it was asked.
            answer = await running.call(
                "POST",
                path,
                user="ann",
                claims={"email": email},
                json={"packageId": package} | body,
            )
            assert answer.status in (200, 201, 502), answer.body
            await running.call("POST", "/sync/deactivate", user="ann")
        # What only looks, or has no address, changes none.
        await running.call("GET", "/sync/status", user="ann", claims={"email": "look@example.org"})
        for claims in ({}, {"email": "nonsense"}, {"email": 7}):
            await running.call("POST", "/gifts", user="ann", claims=claims, json={"credits": 1})

    found = await admin.fetch("SELECT user_id, email FROM credits.contacts")
    assert [tuple(row) for row in found] == [("ann", "new@example.org")]


# Who sends what


async def test_notify_wakes_the_sender(serve: Serve, notify: Notify, admin: Connection) -> None:
    async with serve():
        # The sender looks once when it starts; what it then sends, it was woken for.
        for number in range(3):
            notice = await plant(admin, user=f"user-{number}")
            await until(lambda notice=notice: notice in notify.ids)  # type: ignore[misc]

    assert len(notify.ids) == 3


async def test_polling_finds_what_no_notify_told_of(
    serve: Serve,
    notify: Notify,
    admin: Connection,
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service.notices, "POLL_SECONDS", 0.1)
    # It listens on another database of the server, where nothing is told.
    async with serve(LISTEN_DATABASE_URL=cluster.admin_url()):
        # It looks when it starts and when it listens; what comes then, polling finds.
        for number in range(3):
            notice = await plant(admin, user=f"user-{number}")
            await until(lambda notice=notice: notice in notify.ids)  # type: ignore[misc]

    assert len(notify.ids) == 3


async def test_the_sender_polls_every_thirty_seconds() -> None:
    assert POLL_SECONDS == 30


async def test_what_waited_while_no_service_ran_is_sent_at_the_start(
    serve: Serve, notify: Notify, admin: Connection
) -> None:
    planted = [await plant(admin, user=f"user-{number}") for number in range(45)]
    async with serve():
        await settled(admin, *["delivered"] * 45)

    assert sorted(notify.ids) == sorted(planted)


async def test_two_senders_share_the_work(serve: Serve, notify: Notify, admin: Connection) -> None:
    notify.hold = Event()
    planted = [await plant(admin, user=f"user-{number}") for number in range(30)]
    # More than one of them takes at once.
    async with serve(), serve():
        await until(lambda: notify.under_way >= 30)
        # All are being sent; waking everybody again sends none a second time.
        for _ in range(5):
            await admin.execute("NOTIFY mana_credits_notices")
        notify.hold.set()
        await settled(admin, *["delivered"] * 30)

    assert sorted(notify.ids) == sorted(planted)


async def test_a_sender_that_died_loses_nothing(
    serve: Serve, notify: Notify, admin: Connection
) -> None:
    notify.hold = Event()
    async with serve(), serve():
        notice = await plant(admin)
        await until(lambda: notify.under_way == 1)
        (claimed,) = await notices(admin)
        # The lease of whoever sends it ends; another one takes it over.
        await make_due(admin)
        await until(lambda: notify.under_way == 2)
        notify.hold.set()
        await settled(admin, "delivered")

    assert claimed["state"] == "pending"
    assert claimed["next_attempt_at"] > claimed["created_at"] + timedelta(seconds=60)
    assert notify.ids == [notice, notice]


@pytest.mark.parametrize("moment", ["unheard", "unwritten"])
async def test_a_sender_that_is_killed_after_its_notice_was_taken(
    notify: Notify,
    admin: Connection,
    cluster: Cluster,
    database: Clone,
    tmp_path: Path,
    moment: str,
) -> None:
    """Killed before it hears that, or before it is written down."""
    environment = as_environment(
        cluster, database.name, MANA_NOTIFY_URL=notify.url, MANA_SERVICE_KEY=KEY
    )
    notify.hold = Event()
    notice = await plant(admin)
    holder = await connect(database.admin_url)
    async with mortal_service(tmp_path, environment) as sender:
        await until(lambda: notify.under_way == 1)
        if moment == "unheard":
            # As far as mana-notify can know, its answer arrives.
            sender.freeze()
            notify.hold.set()
            await until(lambda: notify.accepted == [notice])
            await sender.kill()
        else:
            await holder.execute("BEGIN")
            await holder.execute("SELECT FROM credits.notices FOR UPDATE")
            notify.hold.set()
            await sender.kill_while_writing(admin, holder, 1, committed=False)
        (kept,) = await notices(admin)
        assert (kept["state"], kept["attempts"]) == ("pending", 1)
        assert notify.accepted == [notice]

        # Its lease ends, and the next service has it.
        await make_due(admin)
        await sender.start()
        await settled(admin, "delivered")
    await holder.close()

    # Once more with the same id, by which the receiver knows it.
    assert notify.accepted == [notice, notice]
    assert notify.letters[1] == notify.letters[0]


async def test_who_was_frozen_beyond_his_lease_settles_nothing(
    serve: Serve, notify: Notify, admin: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the frozen one hears would be the end of the notice.
    monkeypatch.setattr(service.notices, "REFUSED_ATTEMPTS_MAX", 1)
    notify.statuses = [400]
    notify.hold = Event()
    with structlog.testing.capture_logs() as log:
        async with notified() as other, serve():
            other.hold = Event()
            notice = await plant(admin)
            await until(lambda: notify.under_way == 1)
            async with serve(other.url):
                await make_due(admin)
                await until(lambda: other.under_way == 1)
                notify.hold.set()
                await until(lambda: any(line.get("not_written") == "failed" for line in log))
                (kept,) = await notices(admin)
                assert (kept["state"], kept["attempts"]) == ("pending", 2)
                other.hold.set()
                (kept,) = await settled(admin, "delivered")

    assert (kept["attempts"], kept["last_error"]) == (2, None)
    assert (notify.accepted, other.accepted) == ([], [notice])


async def test_nothing_is_sent_once_the_lease_may_be_over(
    serve: Serve, notify: Notify, admin: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the answer to the claim had been on its way for as long.
    monkeypatch.setattr(
        service.notices, "LEASE_MARGIN_SECONDS", float(service.notices.LEASE_SECONDS)
    )
    with structlog.testing.capture_logs() as log:

        def too_late() -> int:
            return sum("its lease is over" in line["event"] for line in log)

        async with serve():
            await plant(admin)
            await until(lambda: too_late() > 0)
            (kept,) = await notices(admin)
            assert (kept["state"], kept["attempts"], kept["last_error"]) == ("pending", 1, None)
            assert notify.letters == []
            monkeypatch.setattr(service.notices, "LEASE_MARGIN_SECONDS", 10.0)
            seen = 0

            async def is_sent() -> bool:
                nonlocal seen
                # Again after a claim that was under way meanwhile, and went by the margin that was.
                if too_late() > seen:
                    seen = too_late()
                    await make_due(admin)
                return bool(notify.letters)

            await until(is_sent)
            await settled(admin, "delivered")

    assert len(notify.letters) == 1


def test_a_sending_is_over_well_before_its_lease() -> None:
    assert SEND_SECONDS + service.notices.LEASE_MARGIN_SECONDS < service.notices.LEASE_SECONDS


async def test_one_that_cannot_be_settled_leaves_none_running(
    serve: Serve, notify: Notify, admin: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = service.queries.notices.settle_notice

    async def break_down(db: Any, notice: Any, *args: Any, **more: Any) -> bool:
        if notice.user_id == "broken":
            raise RuntimeError("as a defect would")
        settled: bool = await settle(db, notice, *args, **more)
        return settled

    monkeypatch.setattr(service.queries.notices, "settle_notice", break_down)
    await plant(admin, user="broken")
    for number in range(30):
        await plant(admin, user=f"user-{number}")
    async with serve():

        async def others_are_delivered() -> bool:
            states = [notice["state"] for notice in await notices(admin)]
            return states.count("delivered") >= 19

        # The batch is dealt with to its end; the sender lives on.
        await until(others_are_delivered)
        await admin.execute("NOTIFY mana_credits_notices")
        await until(lambda: len(notify.accepted) == 31)
        states = ["pending"] + ["delivered"] * 30
        await settled(admin, *states)


async def test_a_sending_under_way_ends_before_the_service_does(
    serve: Serve, notify: Notify, admin: Connection
) -> None:
    notify.hold = Event()
    stack = contextlib.AsyncExitStack()
    async with stack:
        await stack.enter_async_context(serve())
        await plant(admin)
        await until(lambda: notify.under_way == 1)
        notify.hold.set()
    await settled(admin, "delivered")

    assert len(notify.ids) == 1


@pytest.mark.parametrize(
    ("said", "at_least", "at_most"),
    [
        ("600", 600, 600),
        # No shorter than it would be anyway, and no longer than a day.
        ("1", 7, 15),
        ("99999999", 86_400, 86_400),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 7, 15),
        ("-5", 7, 15),
    ],
)
async def test_a_pause_that_is_asked_for_is_kept(
    serve: Serve, notify: Notify, admin: Connection, said: str, at_least: int, at_most: int
) -> None:
    notify.statuses, notify.retry_after = [429], said
    async with serve():
        before = datetime.now(UTC)
        await plant(admin)
        notice = await tried(admin, 1)
        after = datetime.now(UTC)
        assert before + timedelta(seconds=at_least) <= notice["next_attempt_at"]
        assert notice["next_attempt_at"] <= after + timedelta(seconds=at_most)
        assert notice["last_error"] == "HTTP 429"
    # This one would be quiet; another was not asked for a pause.
    async with serve():
        await make_due(admin)
        await settled(admin, "delivered")
    assert len(set(notify.ids)) == 1
