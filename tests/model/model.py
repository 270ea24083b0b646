"""The product in memory, small enough to be read: what database.md and api.md say, and no SQL.

Each operation is a method that changes the model and answers what the caller must be told. Where
the system chooses a value (an id, a code, a moment), the answer holds a `Chosen` or a `Within`
instead, through which the model learns it. A refusal is raised as `RefusedError`.

Credits are whole numbers; moments are in UTC. `now` is when the call was sent and `later` when
its answer had come, so that a moment the system drew lies between them.
"""

import calendar
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

MILLISECOND: Final = timedelta(milliseconds=1)
"""What is left of a moment on the wire."""
NEVER: Final = datetime.max.replace(tzinfo=UTC)
CREDITS_MAX: Final = 1_000_000_000
GIFT_MAX: Final = 10_000
MONTHS: Final = {"monthly": 1, "quarterly": 3, "yearly": 12}
REFUND_PHASES: Final = {
    "pending": 0,
    "requires_action": 0,
    "succeeded": 1,
    "failed": 2,
    "canceled": 2,
}
DISPUTE_PHASES: Final = {
    ("charge.dispute.created", "warning_needs_response"): 0,
    ("charge.dispute.closed", "warning_closed"): 0,
    ("charge.dispute.created", "needs_response"): 1,
    ("charge.dispute.funds_withdrawn", "needs_response"): 1,
    ("charge.dispute.closed", "lost"): 2,
    ("charge.dispute.closed", "won"): 3,
    ("charge.dispute.funds_reinstated", "won"): 3,
}
"""What Stripe says of a dispute: an inquiry, open, lost, won."""
COUNTING: Final = {"refund": (0, 1), "dispute": (1, 2)}
"""The phases in which a refund is on its way or done, and a dispute open or lost."""
STATUS: Final = {
    "invalid_request": 400,
    "insufficient_credits": 402,
    "idempotency_key_reused": 409,
    "not_found": 404,
    "gift_not_active": 400,
    "gift_expired": 400,
    "gift_wrong_recipient": 403,
    "sync_already_active": 400,
    "sync_already_gifted": 400,
    "sync_not_active": 400,
    "sync_gifted": 400,
    "sync_not_gifted": 400,
    "reservation_resolved": 400,
}
"""Every refusal there is in the model, with its status over HTTP."""


class RefusedError(Exception):
    """A call that changes nothing, its stable code and its facts."""

    def __init__(self, code: str, **facts: Any) -> None:
        super().__init__(code, facts)
        self.code = code
        self.facts = facts


@dataclass
class Chosen:
    """A value of the system's choice: anything, which is then kept."""

    take: Callable[[Any], None]


@dataclass
class Perhaps:
    """Such a value, or none, where the model need not know which."""

    take: Callable[[Any], None]


@dataclass
class Within:
    """A moment of the system's choice, in a span that the model knows."""

    earliest: datetime
    latest: datetime
    take: Callable[[Any], None]


@dataclass
class Afterwards:
    """A value that is known once those before it in the same answer have been taken."""

    value: Callable[[], Any]


def differences(expected: Any, found: Any, where: str = "") -> Iterator[str]:
    """Where something found is not what was expected; takes over what the system chose."""
    if isinstance(expected, Afterwards):
        expected = expected.value()
    if isinstance(expected, Chosen):
        if found is None:
            yield f"{where}: nothing was chosen"
        expected.take(found)
    elif isinstance(expected, Perhaps):
        if found is not None:
            expected.take(found)
    elif isinstance(expected, Within):
        if not expected.earliest - MILLISECOND <= found <= expected.latest + MILLISECOND:
            yield f"{where}: {found} is not in {expected.earliest} .. {expected.latest}"
        expected.take(found)
    elif isinstance(expected, datetime) and isinstance(found, datetime):
        if abs(expected - found) > MILLISECOND:
            yield f"{where}: expected {expected}, found {found}"
    elif isinstance(expected, dict) and isinstance(found, dict):
        for name in [*expected, *(name for name in found if name not in expected)]:
            if name not in found or name not in expected:
                yield f"{where}.{name}: expected {expected.get(name)}, found {found.get(name)}"
            else:
                yield from differences(expected[name], found[name], f"{where}.{name}")
    elif isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        if len(expected) != len(found):
            yield f"{where}: expected {expected}, found {found}"
            return
        for place, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from differences(one, other, f"{where}[{place}]")
    elif type(expected) is not type(found) or expected != found:
        yield f"{where}: expected {expected!r}, found {found!r}"


def add_months(anchor: datetime, months: int) -> datetime:
    """The anchor's day so many months later, or the last day of a month that has no such day."""
    year, month = divmod(anchor.year * 12 + anchor.month - 1 + months, 12)
    last = calendar.monthrange(year, month + 1)[1]
    return anchor.replace(year=year, month=month + 1, day=min(anchor.day, last))


# Unequal to all but themselves, since each stands for one thing.


@dataclass(eq=False)
class Row:
    """A row of a user's ledger."""

    type: str
    origin: str
    amount: int
    before: int
    app: str
    key: str | None = None
    id: str | None = None
    refunded: int = 0
    """How much of a debit was refunded by its name."""

    @property
    def after(self) -> int:
        """The book balance after it."""
        return self.before + self.amount


@dataclass(eq=False)
class Hold:
    """Credits held for a call that is under way."""

    user: str
    amount: int
    app: str
    status: str = "open"
    id: str = ""
    expires_at: datetime = NEVER
    debit: Row | None = None


@dataclass(eq=False)
class Gift:
    """A gift code."""

    creator: str
    credits: int
    target: str | None
    status: str = "active"
    id: str = ""
    code: str = ""
    expires_at: datetime = NEVER
    redeemer: str | None = None

    type: str = field(init=False)
    """Whether it is for one address alone, also when that is forgotten."""
    forget_target: bool = False
    """Whether its target goes when it is over, since whose it was is erased."""

    asked_for: str | None = field(init=False)
    """The target with which it was made."""

    def __post_init__(self) -> None:
        self.asked_for = self.target
        self.type = "simple" if self.target is None else "personalized"

    def end(self, status: str) -> None:
        """It is over."""
        self.status = status
        if self.forget_target:
            self.target = None


@dataclass(eq=False)
class Reversal:
    """A Stripe refund or dispute of a purchase."""

    id: str
    kind: str
    cents: int
    phase: int = 0
    """How far it is; what was heard late does not set it back."""
    taken: int = 0
    """The credits that it has taken."""

    @property
    def counts(self) -> bool:
        """Whether it takes credits now."""
        return self.phase in COUNTING[self.kind]


@dataclass(eq=False)
class Purchase:
    """A package that somebody wants to pay."""

    user: str
    credits: int
    cents: int
    package: str
    status: str = "pending"
    credited: bool = False
    id: str = ""
    intent: str = ""
    said_at: int = 0
    """When Stripe said what is known of the payment's course, in its own time."""
    reversals: dict[str, Reversal] = field(default_factory=dict)


@dataclass(eq=False)
class Sync:
    """Cloud Sync of a user."""

    active: bool = False
    gifted: bool = False
    paused: bool = False
    interval: str = "monthly"
    price: int = 0
    anchor: datetime | None = None
    month: int = 0
    """How many months after the anchor the paid period ends."""
    next_charge: datetime | None = None
    paid_until: datetime | None = None
    announced_for: datetime | None = None


@dataclass
class User:
    """Everything that belongs to one user."""

    name: str
    ledger: list[Row] = field(default_factory=list)
    reserved: int = 0
    sync: Sync = field(default_factory=Sync)
    keys: dict[tuple[str, str], tuple[Any, Any]] = field(default_factory=dict)
    """By origin and key: what was asked for, and what came of it."""
    grants: dict[str, Row] = field(default_factory=dict)
    attempts: list[tuple[str, str]] = field(default_factory=list)
    addresses: set[str] = field(default_factory=set)
    """Those that he has told by making a gift, activating Cloud Sync or buying."""
    notices: Counter[str] = field(default_factory=Counter)
    erased: bool = False
    """Whether it is what is left of somebody, under a pseudonym."""

    @property
    def book(self) -> int:
        """The book balance."""
        return sum(row.amount for row in self.ledger)

    @property
    def available(self) -> int:
        """What can be spent."""
        return self.book - self.reserved

    @property
    def earned(self) -> int:
        """All that came in."""
        return sum(row.amount for row in self.ledger if row.amount > 0)

    @property
    def spent(self) -> int:
        """All that went out."""
        return -sum(row.amount for row in self.ledger if row.amount < 0)

    def move(
        self,
        type_: str,
        amount: int,
        app: str = "system",
        *,
        origin: str = "system",
        key: str | None = None,
    ) -> Row:
        """Write a row behind the last one."""
        row = Row(type_, origin, amount, self.book, app, key)
        self.ledger.append(row)
        return row

    def require(self, amount: int) -> None:
        """Refuse what is not there."""
        if self.available < amount:
            raise RefusedError(
                "insufficient_credits", required=amount, available=max(self.available, 0)
            )

    def replayed(self, origin: str, key: str | None, request: tuple[Any, ...]) -> Any:
        """What came of the same request with this key; refuses the key of another one."""
        if key is None or (origin, key) not in self.keys:
            return None
        first, result = self.keys[origin, key]
        if first != request:
            raise RefusedError("idempotency_key_reused", idempotencyKey=key)
        return result

    def keep(self, origin: str, key: str | None, request: tuple[Any, ...], result: Any) -> None:
        """A call that succeeded has used its key; of who was erased none is kept."""
        if key is not None and not self.erased:
            self.keys.setdefault((origin, key), (request, result))


def email_of(user: str) -> str:
    """The address in a user's token."""
    return f"{user}@example.org"


def require_amount(amount: int, field_: str = "amount", most: int = CREDITS_MAX) -> None:
    """Refuse what is no amount."""
    if not 1 <= amount <= most:
        raise RefusedError("invalid_request", field=field_)


class Model:
    """All users, and what stands between them."""

    def __init__(self, users: list[str], packages: dict[str, tuple[int, int]]) -> None:
        self.users = {name: User(name) for name in users}
        self.packages = packages
        """Credits and euro cents by id."""
        self.prices = {"monthly": 30, "quarterly": 90, "yearly": 360}
        self.holds: list[Hold] = []
        self.gifts: list[Gift] = []
        self.purchases: list[Purchase] = []
        self.events: dict[str, str] = {}
        """What became of each Stripe event, by its id."""
        self.now = self.later = datetime.now(UTC)

    # Debits, refunds, grants

    def use(self, user: str, origin: str, amount: int, app: str, key: str | None) -> dict[str, Any]:
        """Debit a user."""
        require_amount(amount)
        account = self.users[user]
        request = ("use", amount, app)
        row = account.replayed(origin, key, request)
        replayed = row is not None
        if row is None:
            account.require(amount)
            row = account.move("usage", -amount, app, origin=origin, key=key)
            account.keep(origin, key, request, row)
        return self._moved(account, row, replayed)

    def refund(
        self, user: str, amount: int, app: str, key: str | None, debit: Row | None
    ) -> dict[str, Any]:
        """Give credits back; those of a debit together never exceed it."""
        require_amount(amount)
        account = self.users[user]
        request = ("refund", amount, app, debit)
        row = account.replayed("service", key, request)
        replayed = row is not None
        if row is None:
            if debit is not None:
                if debit not in account.ledger or debit.type != "usage":
                    raise RefusedError("not_found", resource="transaction")
                left = -debit.amount - debit.refunded
                if amount > left:
                    raise RefusedError("invalid_request", field="amount", left=left)
                debit.refunded += amount
            row = account.move("refund", amount, app, origin="service", key=key)
            account.keep("service", key, request, row)
        return self._moved(account, row, replayed)

    def grant(self, user: str, amount: int, reference: str) -> dict[str, Any]:
        """Reward a user, once per reference, whatever the amount the second time."""
        require_amount(amount)
        account = self.users[user]
        row = account.grants.get(reference)
        replayed = row is not None
        if row is None:
            row = account.grants[reference] = account.move("grant", amount)
        return {
            "replayed": replayed,
            "transaction": self._id(row),
            "available": account.available,
        }

    def init(self, user: str) -> dict[str, Any]:
        """Make a user known: changes nothing that could be seen."""
        account = self.users[user]
        return {
            "available": account.available,
            "earned": account.earned,
            "spent": account.spent,
        }

    # Reservations

    def reserve(
        self, user: str, amount: int, reason: str, hours: int, key: str | None
    ) -> dict[str, Any]:
        """Hold credits."""
        require_amount(amount)
        account = self.users[user]
        app = reason.partition(":")[0]
        request = ("reserve", amount, app)
        hold = account.replayed("service", key, request)
        if hold is not None:
            return {
                "replayed": True,
                "hold": hold.id,
                "expires": hold.expires_at,
                "available": account.available,
            }
        account.require(amount)
        hold = Hold(user, amount, app)
        self.holds.append(hold)
        account.reserved += amount
        account.keep("service", key, request, hold)
        return {
            "replayed": False,
            "hold": Chosen(lambda id_: setattr(hold, "id", id_)),
            "expires": self._within(timedelta(hours=hours), hold, "expires_at"),
            "available": account.available,
        }

    def commit(
        self, hold: Hold, user: str | None, amount: int | None, key: str | None
    ) -> dict[str, Any]:
        """Turn a hold, or a part of it, into a debit; also one that is late but was not swept."""
        if amount is not None:
            require_amount(amount)
        account = self._holder(hold, user)
        request = ("commit", hold)
        account.replayed("service", key, request)
        replayed = hold.status == "committed"
        if not replayed:
            if hold.status != "open":
                raise RefusedError("reservation_resolved", status=hold.status)
            amount = hold.amount if amount is None else amount
            require_amount(amount, most=hold.amount)
            hold.status = "committed"
            account.reserved -= hold.amount
            hold.debit = account.move("usage", -amount, hold.app, origin="service")
        account.keep("service", key, request, hold)
        assert hold.debit is not None
        return {
            "replayed": replayed,
            "transaction": self._id(hold.debit),
            "amount": -hold.debit.amount,
            "available": account.available,
        }

    def give_back(self, hold: Hold, user: str | None, key: str | None) -> dict[str, Any]:
        """End a hold; one that has expired is back already."""
        account = self._holder(hold, user)
        request = ("refund-reservation", hold)
        account.replayed("service", key, request)
        if hold.status == "committed":
            raise RefusedError("reservation_resolved", status="committed")
        replayed = hold.status != "open"
        if not replayed:
            hold.status = "refunded"
            account.reserved -= hold.amount
        account.keep("service", key, request, hold)
        return {"replayed": replayed, "available": account.available}

    def expire_holds(self) -> dict[str, Any]:
        """The job that ends holds whose time is over."""
        due = [hold for hold in self.holds if hold.status == "open" and hold.expires_at <= self.now]
        for hold in due:
            hold.status = "expired"
            self.users[hold.user].reserved -= hold.amount
        return {"done": len(due)}

    def _holder(self, hold: Hold, user: str | None) -> User:
        if user not in (None, hold.user):
            raise RefusedError("not_found", resource="reservation")
        return self.users[hold.user]

    # Gifts

    def give(
        self, user: str, credits: int, address: str | None, days: int, key: str | None
    ) -> dict[str, Any]:
        """Put credits into a code."""
        require_amount(credits, "totalCredits", GIFT_MAX)
        account = self.users[user]
        target = None if address is None else address.lower()
        type_ = "simple" if target is None else "personalized"
        first = account.keys.get(("user", key or ""), (None, None))[1]
        if isinstance(first, Gift) and first.target is None:
            # Whose it was is forgotten, and cannot be compared.
            request = ("gift", credits, type_, first.asked_for)
        else:
            request = ("gift", credits, type_, target)
        gift = account.replayed("user", key, request)
        if gift is not None:
            return {"replayed": True, **self._gift(gift)}
        account.require(credits)
        gift = Gift(user, credits, target)
        self.gifts.append(gift)
        account.addresses.add(email_of(user))
        account.move("gift", -credits, origin="user", key=key)
        account.keep("user", key, request, gift)
        return {
            "replayed": False,
            **self._gift(gift),
            "id": Chosen(lambda id_: setattr(gift, "id", id_)),
            "code": Chosen(lambda code: setattr(gift, "code", code)),
            "expires": self._within(timedelta(days=days), gift, "expires_at"),
        }

    def look_up(self, gift: Gift | None) -> dict[str, Any]:
        """What anybody with the code sees; past its time it is expired, swept or not."""
        if gift is None:
            raise RefusedError("not_found", resource="gift")
        late = gift.status == "active" and gift.expires_at <= self.now
        return {
            "type": gift.type,
            "status": "expired" if late else gift.status,
            "credits": gift.credits,
            "expires": gift.expires_at,
        }

    def redeem(
        self, gift: Gift | None, user: str, email: str, verified: bool | None, key: str | None
    ) -> dict[str, Any]:
        """One redeemer gets all; every attempt is written down, but not his repeated ones."""
        if gift is None:
            raise RefusedError("not_found", resource="gift")
        account = self.users[user]
        request = ("redeem", gift)
        account.replayed("user", key, request)
        replayed = gift.redeemer == user
        if not replayed:
            self._attempt(gift, account, email, verified)
            self._hand_over(gift, account)
        account.keep("user", key, request, gift)
        return {"replayed": replayed, "credits": gift.credits, "available": account.available}

    def redeem_pending(self, user: str, email: str, verified: bool | None) -> dict[str, Any]:
        """Every active personalized gift for an address, for whoever has just registered."""
        account = self.users[user]
        waiting = [
            gift
            for gift in sorted(self.gifts, key=lambda gift: gift.id)
            if verified is not False
            and gift.status == "active"
            and gift.expires_at > self.now
            and gift.target == email.lower()
        ]
        for gift in waiting:
            self._hand_over(gift, account)
        return {"redeemed": len(waiting), "credits": sum(gift.credits for gift in waiting)}

    def cancel(self, gift: Gift, user: str, key: str | None) -> dict[str, Any]:
        """The creator takes back what nobody has redeemed."""
        if gift.creator != user:
            raise RefusedError("not_found", resource="gift")
        account = self.users[user]
        request = ("cancel", gift)
        account.replayed("user", key, request)
        replayed = gift.status == "cancelled"
        if gift.status in ("depleted", "expired"):
            code = "gift_expired" if gift.status == "expired" else "gift_not_active"
            raise RefusedError(code, status=gift.status)
        if not replayed:
            self._return(gift, "cancelled")
        account.keep("user", key, request, gift)
        return {"replayed": replayed, "credits": gift.credits}

    def expire_gifts(self) -> dict[str, Any]:
        """The job that returns what nobody has redeemed in time, with a notice."""
        due = [
            gift for gift in self.gifts if gift.status == "active" and gift.expires_at <= self.now
        ]
        for gift in sorted(due, key=lambda gift: (gift.expires_at, gift.id)):
            self._return(gift, "expired")
            self.users[gift.creator].notices["gift_expired"] += 1
        return {"done": len(due)}

    def _attempt(self, gift: Gift, account: User, email: str, verified: bool | None) -> None:
        outcome, code = "", ""
        if gift.status == "depleted":
            outcome, code = "failed_depleted", "gift_not_active"
        elif gift.status == "cancelled":
            outcome, code = "failed_cancelled", "gift_not_active"
        elif gift.status == "expired" or gift.expires_at <= self.now:
            outcome, code = "failed_expired", "gift_expired"
        elif gift.target is not None and (gift.target != email.lower() or verified is False):
            outcome, code = "failed_wrong_user", "gift_wrong_recipient"
        if outcome:
            account.attempts.append((gift.id, outcome))
            raise RefusedError(code, outcome=outcome)

    def _hand_over(self, gift: Gift, account: User) -> None:
        gift.end("depleted")
        gift.redeemer = account.name
        account.move("gift", gift.credits)
        account.attempts.append((gift.id, "success"))

    def _return(self, gift: Gift, status: str) -> None:
        gift.end(status)
        self.users[gift.creator].move("gift", gift.credits)

    @staticmethod
    def _gift(gift: Gift) -> dict[str, Any]:
        return {
            "id": gift.id,
            "code": gift.code,
            "credits": gift.credits,
            "type": gift.type,
            "status": gift.status,
            "target": gift.target,
            "expires": gift.expires_at,
        }

    # Cloud Sync

    def activate(self, user: str, interval: str, key: str | None) -> dict[str, Any]:
        """Turn it on; charges at once, unless a period is paid."""
        account = self.users[user]
        sync = account.sync
        request = ("activate", interval)
        first = account.replayed("user", key, request)
        if first is not None:
            return {"replayed": True, **first}
        if sync.gifted:
            raise RefusedError("sync_already_gifted")
        if sync.active:
            raise RefusedError("sync_already_active")
        price = self.prices[interval]
        paid = sync.paid_until is not None and sync.paid_until > self.now
        if not paid:
            account.require(price)
            account.move("usage", -price, "sync")
        account.addresses.add(email_of(user))
        sync.active, sync.paused, sync.interval, sync.price = True, False, interval, price
        result: dict[str, Any] = {"interval": interval, "charged": 0 if paid else price}
        account.keep("user", key, request, result)
        if paid:
            sync.next_charge = result["next"] = sync.paid_until
            return {"replayed": False, **result, "anchor": sync.anchor}

        def begin(anchor: datetime) -> None:
            sync.anchor, sync.month = anchor, MONTHS[interval]
            result["next"] = sync.next_charge = sync.paid_until = add_months(anchor, sync.month)

        return {
            "replayed": False,
            **result,
            "anchor": Within(self.now, self.later, begin),
            "next": Afterwards(lambda: sync.next_charge),
        }

    def deactivate(self, user: str) -> dict[str, Any]:
        """Turn it off at once, or clear a pause."""
        sync = self.users[user].sync
        if sync.gifted:
            raise RefusedError("sync_gifted")
        if not sync.active and not sync.paused:
            raise RefusedError("sync_not_active")
        sync.active = sync.paused = False
        sync.next_charge = None
        return {}

    def change_interval(self, user: str, interval: str) -> dict[str, Any]:
        """Another interval and price from the next charge on."""
        sync = self.users[user].sync
        if sync.gifted:
            raise RefusedError("sync_gifted")
        if not sync.active:
            raise RefusedError("sync_not_active")
        sync.interval, sync.price = interval, self.prices[interval]
        return {"interval": interval, "price": sync.price, "effective": sync.next_charge}

    def gift_sync(self, user: str) -> dict[str, Any]:
        """On, and never charged; what was paid for stays."""
        sync = self.users[user].sync
        sync.active = sync.gifted = True
        sync.paused, sync.next_charge = False, None
        return {"active": True, "gifted": True}

    def revoke_sync(self, user: str) -> dict[str, Any]:
        """End such a gift."""
        sync = self.users[user].sync
        if not sync.gifted:
            raise RefusedError("sync_not_gifted")
        sync.active = sync.gifted = False
        return {"active": False, "gifted": False}

    def change_price(self, interval: str, price: int) -> dict[str, Any]:
        """A new price; running subscriptions keep theirs."""
        self.prices[interval] = price
        return {}

    def charge(self) -> dict[str, Any]:
        """The job that charges what is due, or pauses it with a notice."""
        due = [
            account
            for account in self.users.values()
            if account.sync.next_charge is not None and account.sync.next_charge <= self.now
        ]
        charged = 0
        for account in due:
            sync = account.sync
            if account.available < sync.price:
                sync.active, sync.paused, sync.next_charge = False, True, None
                account.notices["sync_paused"] += 1
                continue
            charged += 1
            account.move("usage", -sync.price, "sync")
            assert sync.anchor is not None
            sync.month += MONTHS[sync.interval]
            # What was skipped is not charged.
            while add_months(sync.anchor, sync.month) <= self.now:
                sync.month += MONTHS[sync.interval]
            sync.next_charge = sync.paid_until = add_months(sync.anchor, sync.month)
        return {"charged": charged, "paused": len(due) - charged, "errors": 0}

    def announce(self) -> dict[str, Any]:
        """The job that tells of a charge within three days that is not covered, once a charge."""
        done = 0
        for account in self.users.values():
            sync = account.sync
            if (
                sync.next_charge is not None
                and self.now < sync.next_charge <= self.now + timedelta(days=3)
                and account.available < sync.price
                and sync.announced_for != sync.next_charge
            ):
                sync.announced_for = sync.next_charge
                account.notices["charge_coming"] += 1
                done += 1
        return {"done": done}

    # Purchases

    def start_purchase(self, user: str, package: str, key: str | None) -> dict[str, Any]:
        """Begin to buy a package."""
        account = self.users[user]
        request = ("purchase", package)
        purchase = account.replayed("user", key, request)
        if purchase is not None:
            return {"replayed": True, **self._purchase(purchase)}
        if package not in self.packages:
            raise RefusedError("not_found", resource="package")
        credits, cents = self.packages[package]
        purchase = Purchase(user, credits, cents, package)
        self.purchases.append(purchase)
        account.addresses.add(email_of(user))
        account.keep("user", key, request, purchase)
        return {
            "replayed": False,
            **self._purchase(purchase),
            "id": Chosen(lambda id_: setattr(purchase, "id", id_)),
            "intent": Chosen(lambda id_: setattr(purchase, "intent", id_)),
        }

    @staticmethod
    def _purchase(purchase: Purchase) -> dict[str, Any]:
        return {
            "id": purchase.id,
            "intent": purchase.intent,
            "credits": purchase.credits,
            "cents": purchase.cents,
        }

    def payment_event(
        self, event: str, kind: str, at: int, purchase: Purchase, cents: int, currency: str
    ) -> dict[str, Any]:
        """What Stripe says of a payment: succeeded, failed, canceled, processing."""
        if self.events.get(event) == "applied":
            return {"state": "applied"}
        self.events[event] = "applied"
        if kind == "succeeded" and not purchase.credited:
            # Money that came in is credited, whatever was heard before, if it is the right money.
            if (cents, currency) != (purchase.cents, "eur"):
                self.events[event] = "failed"
            else:
                purchase.status, purchase.credited = "completed", True
                self.users[purchase.user].move("purchase", purchase.credits)
                self._settle(purchase)
        elif purchase.status not in ("pending", "failed"):
            pass
        elif kind == "canceled":
            purchase.status = "cancelled"
        elif kind == "failed" and at >= purchase.said_at:
            purchase.status, purchase.said_at = "failed", at
        elif kind == "processing" and (
            # In the same second the failure is the later.
            at > purchase.said_at or (at == purchase.said_at and purchase.status == "pending")
        ):
            purchase.status, purchase.said_at = "pending", at
        return {"state": self.events[event]}

    def refund_event(
        self, event: str, purchase: Purchase, refund: str, cents: int, status: str
    ) -> dict[str, Any]:
        """What Stripe says of a refund: it counts until it has failed or was canceled."""
        return self._reverse(event, purchase, refund, "refund", cents, REFUND_PHASES[status])

    def dispute_event(
        self, event: str, purchase: Purchase, dispute: str, cents: int, type_: str, status: str
    ) -> dict[str, Any]:
        """What Stripe says of a dispute: it counts from open on, until it is won."""
        phase = DISPUTE_PHASES[type_, status]
        return self._reverse(event, purchase, dispute, "dispute", cents, phase)

    def _reverse(
        self, event: str, purchase: Purchase, id_: str, kind: str, cents: int, phase: int
    ) -> dict[str, Any]:
        if event not in self.events:
            self.events[event] = "applied"
            found = purchase.reversals.setdefault(id_, Reversal(id_, kind, cents))
            found.phase = max(found.phase, phase)
            if purchase.credited:
                self._settle(purchase)
        return {"state": "applied"}

    def _settle(self, purchase: Purchase) -> None:
        """Take what the refunds and disputes say, each rounded down, never more than was given."""
        account = self.users[purchase.user]
        for reversal in purchase.reversals.values():
            if reversal.taken and not reversal.counts:
                account.move("reversal", reversal.taken)
                reversal.taken = 0
        # Those that have taken already stay before those that find something left.
        for reversal in sorted(purchase.reversals.values(), key=lambda r: r.taken == 0):
            left = purchase.credits - sum(r.taken for r in purchase.reversals.values())
            part = purchase.credits * reversal.cents // purchase.cents
            more = min(part - reversal.taken, left)
            if reversal.counts and more > 0:
                self._cover(account, more)
                account.move("reversal", -more)
                reversal.taken += more
        kept = [r for r in purchase.reversals.values() if r.counts]
        refunded = sum(r.cents for r in kept if r.kind == "refund")
        if any(r.kind == "dispute" for r in kept):
            purchase.status = "disputed"
        elif refunded:
            all_of_it = refunded >= purchase.cents
            purchase.status = "refunded" if all_of_it else "partially_refunded"
        else:
            purchase.status = "completed"

    def _cover(self, account: User, amount: int) -> None:
        """Cancel the payer's own active gifts, newest first, before his balance goes negative."""
        short = amount - account.available
        cancelled = []
        for gift in reversed(self.gifts):
            if short > 0 and gift.creator == account.name and gift.status == "active":
                short -= gift.credits
                cancelled.append(gift)
        for gift in sorted(cancelled, key=lambda gift: (gift.expires_at, gift.id)):
            self._return(gift, "cancelled")

    def foreign_event(self, event: str) -> dict[str, Any]:
        """What Stripe says of a payment that is not ours."""
        self.events[event] = "ignored"
        return {"state": "ignored"}

    # Erasing

    def erase(self, user: str) -> dict[str, Any]:
        """End what is open, forfeit what is left, and put a pseudonym where the user was."""
        account = self.users[user]
        seen = bool(account.ledger or account.attempts)
        gifts = [g for g in self.gifts if g.creator == user and g.status == "active"]
        for gift in sorted(gifts, key=lambda gift: (gift.expires_at, gift.id)):
            self._return(gift, "cancelled")
        holds = [h for h in self.holds if h.user == user and h.status == "open"]
        for hold in holds:
            hold.status = "refunded"
        account.reserved = 0
        left = account.book
        if left != 0:
            account.move("forfeiture", -left)
        assert account.available == 0
        self._forget(account)
        self.users[user] = User(user)

        def rename(pseudonym: str) -> None:
            account.name, account.erased = pseudonym, True
            self.users[pseudonym] = account
            for hold in self.holds:
                hold.user = pseudonym if hold.user == user else hold.user
            for purchase in self.purchases:
                purchase.user = pseudonym if purchase.user == user else purchase.user
            for gift in self.gifts:
                gift.creator = pseudonym if gift.creator == user else gift.creator
                gift.redeemer = pseudonym if gift.redeemer == user else gift.redeemer

        return {
            "forfeited": max(left, 0),
            "written off": max(-left, 0),
            "gifts": len(gifts),
            "holds": len(holds),
            # Of who has done nothing that can be seen there may be something, or nothing.
            "pseudonym": Chosen(rename) if seen else Perhaps(rename),
        }

    def _forget(self, account: User) -> None:
        """What tells of a user goes; amounts, their order and their types stay."""
        addresses = account.addresses | {
            gift.target for gift in self.gifts if gift.redeemer == account.name and gift.target
        }
        for gift in self.gifts:
            if account.name in (gift.creator, gift.redeemer) or gift.target in addresses:
                if gift.status == "active":
                    gift.forget_target = True
                else:
                    gift.target = None
        for row in account.ledger:
            row.key = None
            if not re.fullmatch("[A-Za-z0-9._-]+", row.app) or account.name in row.app:
                row.app = "erased"
        account.sync = Sync()
        account.keys.clear()
        account.notices.clear()

    # Time

    def pass_time(self, hours: int) -> dict[str, Any]:
        """Instead of waiting, everything that has a time moves into the past."""
        ago = timedelta(hours=hours)
        for hold in self.holds:
            hold.expires_at -= ago
        for gift in self.gifts:
            gift.expires_at -= ago
        for account in self.users.values():
            sync = account.sync
            for name in ("anchor", "next_charge", "paid_until", "announced_for"):
                at = getattr(sync, name)
                setattr(sync, name, at and at - ago)
        return {}

    def _within(self, after: timedelta, thing: object, name: str) -> Within:
        return Within(self.now + after, self.later + after, lambda at: setattr(thing, name, at))

    # What it all comes to

    def _id(self, row: Row) -> Any:
        return row.id or Chosen(lambda id_: setattr(row, "id", id_))

    def _moved(self, account: User, row: Row, replayed: bool) -> dict[str, Any]:
        """A move as it was, and the balance as it is."""
        return {
            "replayed": replayed,
            "transaction": self._id(row),
            "type": row.type,
            "amount": row.amount,
            "before": row.before,
            "after": row.after,
            "app": row.app,
            "key": row.key,
            "available": account.available,
            "earned": account.earned,
            "spent": account.spent,
        }

    def view(self, user: str) -> dict[str, Any]:
        """What a user sees of what is his, by whatever way he asks."""
        account = self.users[user]
        sync = account.sync
        usage: dict[str, tuple[int, int]] = {}
        for row in account.ledger:
            if row.type == "usage":
                credits, operations = usage.get(row.app, (0, 0))
                usage[row.app] = (credits - row.amount, operations + 1)
        return {
            "balance": {
                "available": account.available,
                "reserved": account.reserved,
                "earned": account.earned,
                "spent": account.spent,
                "transactions": len(account.ledger),
            },
            "ledger": [
                (self._id(row), row.type, row.amount, row.before, row.after, row.app)
                for row in reversed(account.ledger)
            ],
            "usage": usage,
            "sync": {
                "active": sync.active,
                "gifted": sync.gifted,
                "paused": sync.paused,
                "interval": sync.interval,
                "next": sync.next_charge,
                "paid": sync.paid_until,
                # What one who has none would pay is not promised.
                "price": sync.price if sync.active and not sync.gifted else None,
            },
            "created": {g.id: self._gift(g) for g in self.gifts if g.creator == user},
            "received": {g.id: g.credits for g in self.gifts if g.redeemer == user},
            "purchases": {
                p.id: (p.status, p.credits, p.cents) for p in self.purchases if p.user == user
            },
        }

    def state(self) -> dict[str, Any]:
        """What stands in the database, of all users."""
        return {
            "balances": {
                name: (account.book, account.reserved, account.earned, account.spent)
                for name, account in self.users.items()
            },
            "ledger": {
                name: [
                    (
                        self._id(row),
                        row.type,
                        row.origin,
                        row.amount,
                        row.before,
                        row.after,
                        row.app,
                        row.key,
                    )
                    for row in account.ledger
                ]
                for name, account in self.users.items()
            },
            "debit refunds": {
                str(row.id): row.refunded
                for account in self.users.values()
                for row in account.ledger
                if row.refunded
            },
            "holds": {
                h.id: (h.user, h.amount, h.status, -h.debit.amount if h.debit else None)
                for h in self.holds
            },
            "gifts": {g.id: (g.creator, g.credits, g.status, g.redeemer) for g in self.gifts},
            "attempts": {
                name: sorted(account.attempts)
                for name, account in self.users.items()
                if account.attempts
            },
            "sync": {
                name: (
                    account.sync.active,
                    account.sync.gifted,
                    account.sync.paused,
                    account.sync.anchor,
                    account.sync.next_charge,
                    account.sync.paid_until,
                )
                for name, account in self.users.items()
            },
            "purchases": {p.id: (p.user, p.status, p.credited) for p in self.purchases},
            "reversals": {
                r.id: (p.id, r.kind, r.taken) for p in self.purchases for r in p.reversals.values()
            },
            "notices": {
                name: dict(account.notices)
                for name, account in self.users.items()
                if account.notices
            },
            "events": self.events,
        }

    def require_conservation(self) -> None:
        """The money rules of database.md, held against the model itself."""
        total: Counter[str] = Counter()
        for account in self.users.values():
            for row in account.ledger:
                total[row.type] += row.amount
            held = sum(
                h.amount for h in self.holds if h.user == account.name and h.status == "open"
            )
            assert account.reserved == held
            assert account.earned - account.spent - account.reserved == account.available
            if all(row.type != "reversal" for row in account.ledger):
                assert account.available >= 0
        books = sum(account.book for account in self.users.values())
        codes = sum(gift.credits for gift in self.gifts if gift.status == "active")
        came = total["purchase"] + total["grant"] + total["refund"]
        went = total["usage"] + total["reversal"] + total["forfeiture"]
        assert books + codes == came + went
