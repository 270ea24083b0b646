"""Gift codes: credits given to whoever has the code, or to one address."""

from typing import Annotated, Any, ClassVar, Final, Literal
from uuid import UUID

from aiohttp import web

from service.api.credits import Page
from service.api.fields import (
    AppId,
    Email,
    ExpirationDays,
    GiftCredits,
    IdempotencyKey,
    Instant,
    Text500,
)
from service.errors import FieldError, gift_refusal
from service.keys import CALLER, DB, SETTINGS
from service.queries import gifts
from service.queries.gifts import Gift, PublicGift, ReceivedGift
from service.wire import (
    Answer,
    Auth,
    Body,
    Limit,
    Replayable,
    Routes,
    Timestamp,
    idempotency_key,
    one_of,
    path_text,
    path_uuid,
    read_body,
    read_query,
    respond,
    timestamp,
)

routes = Routes()

# Codes are money, and must not be guessed (api.md, Gifts).
LOOK_LIMITS: Final = (Limit("gift-look", "address", 30),)
REDEEM_LIMITS: Final = (
    Limit("gift-redeem", "user", 10),
    Limit("gift-redeem", "address", 30),
)


GiftType = Literal["simple", "personalized"]
GiftStatus = Literal["active", "depleted", "expired", "cancelled"]


class GiftView(Answer):
    """A gift as its creator sees it."""

    id: UUID
    code: str
    url: str
    short_url: str
    creator_id: str
    creator_name: str | None
    total_credits: int
    redeemed: int
    type: Annotated[str, one_of(GiftType)]
    status: Annotated[str, one_of(GiftStatus)]
    target_email: str | None
    message: str | None
    expires_at: Timestamp
    created_at: Timestamp
    updated_at: Timestamp

    @classmethod
    def of(cls, gift: Gift, base_url: str) -> "GiftView":
        """From the query's answer."""
        url = f"{base_url}/g/{gift.code}"
        return cls(
            id=gift.id,
            code=gift.code,
            url=url,
            short_url=url,
            creator_id=gift.creator_id,
            creator_name=gift.creator_name,
            total_credits=gift.total_credits,
            redeemed=1 if gift.status == "depleted" else 0,
            type=gift.type,
            status=gift.status,
            target_email=gift.target_email,
            message=gift.message,
            expires_at=timestamp(gift.expires_at),
            created_at=timestamp(gift.created_at),
            updated_at=timestamp(gift.updated_at),
        )


class PublicGiftView(Answer):
    """What anybody who has a code may see: not whose it is, not whom it is for."""

    code: str
    type: Annotated[str, one_of(GiftType)]
    status: Annotated[str, one_of(GiftStatus)]
    total_credits: int
    redeemed: bool
    message: str | None
    creator_name: str | None
    expires_at: Timestamp
    is_personalized: bool

    @classmethod
    def of(cls, gift: PublicGift) -> "PublicGiftView":
        """From the query's answer."""
        return cls(
            code=gift.code,
            type=gift.type,
            status=gift.status,
            total_credits=gift.total_credits,
            redeemed=gift.status == "depleted",
            message=gift.message,
            creator_name=gift.creator_name,
            expires_at=timestamp(gift.expires_at),
            is_personalized=gift.type == "personalized",
        )


class ReceivedGiftView(Answer):
    """A gift as its redeemer sees it."""

    id: UUID
    code: str
    credits: int
    credits_received: int
    message: str | None
    creator_name: str | None
    status: Annotated[str, one_of(GiftStatus)]
    source_app_id: str | None
    redeemed_at: Timestamp
    created_at: Timestamp

    @classmethod
    def of(cls, gift: ReceivedGift) -> "ReceivedGiftView":
        """From the query's answer."""
        return cls(
            id=gift.id,
            code=gift.code,
            credits=gift.credits,
            credits_received=gift.credits,
            message=gift.message,
            creator_name=gift.creator_name,
            status=gift.status,
            source_app_id=gift.source_app_id,
            redeemed_at=timestamp(gift.redeemed_at),
            created_at=timestamp(gift.created_at),
        )


class Redeemed(Answer):
    """What a redeemer got; `message` is the creator's."""

    success: Literal[True]
    credits: int
    credits_received: int
    message: str | None
    creator_name: str | None
    new_balance: int


class Cancelled(Replayable):
    """What went back to the creator."""

    success: Literal[True]
    refunded_credits: int


class CreateGift(Body, kw_only=True):
    """A gift; `credits` is an older name of `totalCredits`."""

    total_credits: GiftCredits | None = None
    credits: GiftCredits | None = None
    type: GiftType | None = None
    target_email: Email | None = None
    message: Text500 | None = None
    expiration_days: ExpirationDays | None = None
    expires_at: Instant | None = None
    idempotency_key: IdempotencyKey | None = None

    rules: ClassVar[dict[str, Any]] = {
        "anyOf": [
            {"required": ["totalCredits"], "properties": {"totalCredits": {"type": "integer"}}},
            {"required": ["credits"], "properties": {"credits": {"type": "integer"}}},
        ],
        "oneOf": [
            {
                "required": ["type", "targetEmail"],
                "properties": {
                    "type": {"const": "personalized"},
                    "targetEmail": {"type": "string"},
                },
            },
            {
                "required": ["type"],
                "properties": {"type": {"const": "simple"}, "targetEmail": {"type": "null"}},
            },
            {"properties": {"type": {"type": "null"}}},
        ],
    }

    def problems(self) -> list[FieldError]:
        """Who gets it must be clear before money is put into it."""
        wrong: list[FieldError] = []
        if self.total_credits is None and self.credits is None:
            wrong.append(FieldError("totalCredits", "is required"))
        if self.type == "personalized" and self.target_email is None:
            wrong.append(FieldError("targetEmail", "is required for a personalized gift"))
        if self.type == "simple" and self.target_email is not None:
            wrong.append(FieldError("targetEmail", "must be absent for a simple gift"))
        return wrong

    @property
    def amount(self) -> int:
        """The credits, under whichever name they came."""
        amount = self.total_credits if self.total_credits is not None else self.credits
        assert amount is not None
        return amount

    @property
    def kind(self) -> str:
        """The type; a gift with a target is for that target alone."""
        return self.type or ("simple" if self.target_email is None else "personalized")


class RedeemGift(Body):
    """Where it is redeemed."""

    source_app_id: AppId | None = None
    idempotency_key: IdempotencyKey | None = None


@routes.get("/api/v1/gifts/me/created", auth=Auth.USER, query=Page, answer=list[GiftView])
async def list_created_gifts(request: web.Request) -> web.Response:
    """The gifts the caller made, newest first."""
    page = read_query(request, Page)
    rows = await gifts.list_created_gifts(
        request.app[DB], user_id=request[CALLER].user_id, limit=page.limit, offset=page.offset
    )
    return respond([GiftView.of(row, request.app[SETTINGS].base_url) for row in rows])


@routes.get("/api/v1/gifts/me/received", auth=Auth.USER, query=Page, answer=list[ReceivedGiftView])
async def list_received_gifts(request: web.Request) -> web.Response:
    """The gifts the caller redeemed, newest first."""
    page = read_query(request, Page)
    rows = await gifts.list_received_gifts(
        request.app[DB], user_id=request[CALLER].user_id, limit=page.limit, offset=page.offset
    )
    return respond([ReceivedGiftView.of(row) for row in rows])


@routes.get("/api/v1/gifts/{code}", auth=Auth.PUBLIC, limits=LOOK_LIMITS, answer=PublicGiftView)
async def get_gift(request: web.Request) -> web.Response:
    """What whoever has a code may see."""
    gift = await gifts.get_gift(request.app[DB], path_text(request, "code"))
    return respond(PublicGiftView.of(gift))


@routes.post(
    "/api/v1/gifts",
    auth=Auth.USER,
    body=CreateGift,
    answer=GiftView,
    status=201,
    errors=("insufficient_credits",),
)
async def create_gift(request: web.Request) -> web.Response:
    """Put credits of the caller into a code."""
    body = await read_body(request, CreateGift)
    caller = request[CALLER]
    gift = await gifts.create_gift(
        request.app[DB],
        user_id=caller.user_id,
        credits=body.amount,
        type_=body.kind,
        target_email=body.target_email,
        message=body.message,
        expires_at=body.expires_at,
        expiration_days=body.expiration_days,
        creator_name=caller.name,
        idempotency_key=idempotency_key(request, body),
        email=caller.email,
    )
    view = GiftView.of(gift, request.app[SETTINGS].base_url)
    return respond(view, 201, replayed=gift.replayed)


@routes.post(
    "/api/v1/gifts/{code}/redeem",
    auth=Auth.USER,
    limits=REDEEM_LIMITS,
    body=RedeemGift,
    answer=Redeemed,
    errors=("gift_not_active", "gift_expired", "gift_wrong_recipient"),
)
async def redeem_gift(request: web.Request) -> web.Response:
    """Redeem a code; asked again by the same redeemer, the same answer."""
    body = await read_body(request, RedeemGift)
    caller = request[CALLER]
    redemption = await gifts.redeem_gift(
        request.app[DB],
        code=path_text(request, "code"),
        user_id=caller.user_id,
        email=caller.email,
        email_verified=caller.email_verified,
        source_app_id=body.source_app_id,
        idempotency_key=idempotency_key(request, body),
    )
    if redemption.outcome != "success":
        raise gift_refusal(redemption.outcome)
    return respond(
        Redeemed(
            success=True,
            credits=redemption.credits,
            credits_received=redemption.credits,
            message=redemption.message,
            creator_name=redemption.creator_name,
            new_balance=redemption.available,
        ),
        replayed=redemption.replayed,
    )


@routes.delete(
    "/api/v1/gifts/{id}",
    auth=Auth.USER,
    keyed=True,
    answer=Cancelled,
    errors=("gift_not_active", "gift_expired"),
)
async def cancel_gift(request: web.Request) -> web.Response:
    """Take a gift back that nobody has redeemed."""
    cancellation = await gifts.cancel_gift(
        request.app[DB],
        user_id=request[CALLER].user_id,
        gift_id=path_uuid(request, "id"),
        idempotency_key=idempotency_key(request),
    )
    return respond(
        Cancelled(success=True, refunded_credits=cancellation.refunded_credits),
        replayed=cancellation.replayed,
    )
