"""A shop in full swing: what people did in it over the last weeks, and where that has left them."""

import dataclasses
from typing import Any

import pytest
import stripe

from tests.support.calls import call
from tests.support.databases import Connection
from tests.support.stripe import DECLINED_AT_CHARGING, LARGE, SEPA, Shop, intent, intent_of, made_up

DAYS = 40
"""How far the story goes back; a subscription is due again within."""
_USES = (
    # app, credits, what for
    ("chat", 5, "Question to GPT-4"),
    ("chat", 2, "Question to Gemini"),
    ("pictures", 10, "Picture: a lighthouse at dusk"),
    (
        "research",
        25,
        "Deep research: tidal power plants in Europe, their costs and what became of them",
    ),
    ("cards", 20, "Deck: Italian verbs"),
    ("food", 3, "What is on this plate?"),
    ("chat", 5, "Question to Claude"),
)
_CARD = "4242424242424242"


@dataclasses.dataclass
class Scene:
    """The ids of what there is to see."""

    purchases: dict[str, str] = dataclasses.field(default_factory=dict)
    """Ann's purchases by state, and `processing`: a debit that is under way."""
    codes: dict[str, str] = dataclasses.field(default_factory=dict)
    """The codes of Ann's gifts by state: active, personalized, redeemed, expired, cancelled."""


async def days_pass(admin: Connection, days: int) -> None:
    """Instead of waiting, move everything that has happened into the past."""
    columns = await admin.fetch(
        """
        SELECT format('%I.%I', c.table_schema, c.table_name) AS name,
            string_agg(
                format('%1$I = %1$I - make_interval(days => %2$s)', c.column_name, $1::integer),
                ', '
            ) AS changes
        FROM information_schema.columns AS c
        INNER JOIN information_schema.tables AS t USING (table_schema, table_name)
        WHERE c.table_schema IN ('credits', 'gifts') AND t.table_type = 'BASE TABLE'
            AND c.data_type = 'timestamp with time zone' AND c.is_generated = 'NEVER'
        GROUP BY c.table_schema, c.table_name
        """,
        days,
    )
    async with admin.transaction():
        # The ledger is append-only, but not for a replica.
        await admin.execute("SET LOCAL session_replication_role = replica")
        for table in columns:
            await admin.execute(f"UPDATE {table['name']} SET {table['changes']}")
        # Days are a part of the key, so that none may meet the one before it.
        await admin.execute("UPDATE credits.usage_stats SET day = day - 10000")
        await admin.execute("UPDATE credits.usage_stats SET day = day + 10000 - $1::integer", days)


async def furnish(shop: Shop) -> Scene:
    """Let weeks of use go by.

    Ann does everything there is. Ben's sync was paused when his credits ran out, Cleo's is a gift
    of the house, and Nora was never here.
    """
    scene = Scene()
    await _buy(shop, scene, "completed")
    await shop.service.grant("ben", 35)
    for user in ("ann", "ben"):
        await _ask(shop, user, "POST", "/sync/activate", {"interval": "monthly"})
    await _ask(shop, "support", "POST", "/admin/sync/cleo/gift", {}, role="admin")
    await shop.service.grant("cleo", 12)
    for day in range(DAYS, 0, -1):
        await _use(shop.admin, day)
        if day == 30:
            await _give_early(shop, scene)
        if day == 21:
            await _buy(shop, scene, "refunded")
            await _buy(shop, scene, "partially_refunded")
        if day == 12:
            await _buy(shop, scene, "disputed")
        if day == 9:
            await shop.admin.execute("CALL credits.run_recurring_charge()")
        await days_pass(shop.admin, 1)
    await _use(shop.admin, 0)
    await _today(shop, scene)
    for job in ("gift_expiry", "reservation_expiry", "charge_notices", "ledger_check"):
        await shop.admin.execute(f"CALL credits.run_{job}()")
    found = await shop.admin.fetch("SELECT * FROM credits.check_ledger()")
    assert not found, found
    return scene


async def _ask(
    shop: Shop, user: str, method: str, path: str, body: dict[str, Any], **claims: Any
) -> Any:
    claims = {"name": f"{user.title()} Example", "email": f"{user}@example.org", **claims}
    answer = await shop.service.call(method, path, user=user, claims=claims, json=body)
    assert answer.status < 300, answer.body
    return answer.body


async def _use(admin: Connection, day: int) -> None:
    """What Ann uses on a day: most at the ends of weeks, and nothing on some days."""
    for number in range((0, 1, 3, 0, 2, 4, 5)[day % 7]):
        app, amount, what = _USES[(day + number) % len(_USES)]
        used = await call(
            admin,
            "credits.use_credits",
            user_id="ann",
            amount=amount,
            app_id=app,
            description=what,
        )
        if day == 4 and number == 0:
            await call(
                admin,
                "credits.refund_credits",
                user_id="ann",
                amount=amount,
                description="The picture did not come out",
                app_id=app,
                transaction_id=used["id"],
            )


async def _buy(shop: Shop, scene: Scene, state: str) -> None:
    begun = (await shop.buy("ann", LARGE)).body
    purchase_id, secret = begun["purchaseId"], begun["clientSecret"]
    scene.purchases[state] = purchase_id
    match state:
        case "pending":
            return
        case "processing":
            assert await shop.pay(secret, SEPA) == "processing"
            return
        case "failed":
            with pytest.raises(stripe.CardError):
                await shop.pay(secret, DECLINED_AT_CHARGING)
        case "cancelled":
            await shop.stripe.v1.payment_intents.cancel_async(intent_of(secret))
        case _:
            await shop.pay(secret, _CARD)
            await shop.becomes(purchase_id, "completed")
            purchase = await shop.row(purchase_id)
            if state == "refunded":
                await shop.refund(purchase)
            elif state == "partially_refunded":
                await shop.refund(purchase, amount=400)
            elif state == "disputed":
                await shop.dispute(purchase)
    await shop.becomes(purchase_id, state)


async def _give(shop: Shop, scene: Scene, state: str, credits: int, **more: Any) -> Any:
    gift = await _ask(shop, "ann", "POST", "/gifts", {"totalCredits": credits, **more})
    scene.codes[state] = gift["code"]
    return gift


async def _give_early(shop: Shop, scene: Scene) -> None:
    await _give(shop, scene, "expired", 15, expirationDays=2, message="For the way")
    gift = await _give(shop, scene, "redeemed", 3, message="Happy birthday, Ben!")
    await _ask(shop, "ben", "POST", f"/gifts/{gift['code']}/redeem", {"sourceAppId": "chat"})
    gift = await _give(shop, scene, "cancelled", 40)
    await _ask(shop, "ann", "DELETE", f"/gifts/{gift['id']}", {})


async def _today(shop: Shop, scene: Scene) -> None:
    await _give(
        shop,
        scene,
        "active",
        50,
        message="Thank you for feeding the cat while we were away. Treat yourself to a deck!",
    )
    await _give(shop, scene, "personalized", 25, type="personalized", targetEmail="ben@example.org")
    for state in ("cancelled", "failed", "processing", "pending"):
        await _buy(shop, scene, state)
    await call(
        shop.admin,
        "credits.reserve_credits",
        user_id="ann",
        amount=25,
        reason="research: a night train from Hamburg to Rome",
    )
    # Stripe says something that cannot be: another amount than was asked for.
    wrong = intent(await shop.row(scene.purchases["pending"]), amount_received=1)
    assert (await shop.tell(made_up("payment_intent.succeeded", wrong))).status == 200
