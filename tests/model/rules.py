"""The rules: what may happen next, of all that can happen, and what must hold after each step.

Hypothesis draws sequences of rules, shortens one that fails, and prints it. Sizes and seed come
from the environment:

- `MANA_MODEL_EXAMPLES`: how many sequences (each machine has its own default);
- `MANA_MODEL_STEPS`: how many steps a sequence has at most;
- `MANA_MODEL_SEED`: a number that draws other sequences; without it they are always the same ones,
  and others for SQL than for HTTP;
- `MANA_MODEL_SHRINK`: 0 leaves a sequence that fails as long as it was found.

A long run: `MANA_MODEL_EXAMPLES=2000 MANA_MODEL_STEPS=80 MANA_MODEL_SEED=1 pytest tests/model`.
"""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.model.drivers import Driver
from tests.model.model import (
    DISPUTE_PHASES,
    Model,
    Purchase,
    RefusedError,
    Row,
    differences,
    email_of,
)

USERS = ["ada", "ben", "cyd"]
APPS = ["chat", "cards"]
NO_PACKAGE = str(UUID(int=9))
INTERVALS = ["monthly", "quarterly", "yearly"]

user = st.sampled_from(USERS)
amount = st.one_of(st.integers(1, 40), st.integers(1, 200))
app = st.sampled_from(APPS)
interval = st.sampled_from(INTERVALS)
key = st.sampled_from([None, None, None, "k1", "k2", "k3", "k4"])
verified = st.sampled_from([None, None, True, False])
job = st.sampled_from(["charge", "charge", "announce", "expire_gifts", "expire_holds"])
pick = st.integers(0, 7)
"""One of a list, counted from its newest."""
hours = st.one_of(
    st.sampled_from([1, 5, 24, 2 * 24, 3 * 24, 10 * 24]),
    st.sampled_from([28 * 24, 30 * 24, 31 * 24, 89 * 24, 100 * 24, 366 * 24]),
)


class Machine(RuleBasedStateMachine):
    """One driver and the model beside it."""

    def __init__(self, driver: Driver, packages: dict[str, tuple[int, int]]) -> None:
        super().__init__()
        self.driver = driver
        self.model = Model(USERS, packages)
        self.packages = [*packages]
        self.events = 0
        self.reversals = 0
        self.calls: list[tuple[str, dict[str, Any]]] = []
        """What was called with success, to be called again."""
        self.sound = True
        driver.reset(self.model.prices)

    def step(self, operation: str, **arguments: Any) -> None:
        """Do it to both: they answer the same, or refuse for the same reason."""
        self.sound = False
        self.model.now = datetime.now(UTC)
        found = _answer(lambda: self.driver.call(operation, **arguments))
        self.model.later = datetime.now(UTC)
        expected = _answer(lambda: getattr(self.model, operation)(**arguments))
        hypothesis.note(f"{self.driver.words} {operation}({arguments}) answers {found}")
        hypothesis.event(f"{operation}: {_in_words(found)}")
        different = list(differences(expected, found))
        assert not different, (operation, arguments, different)
        if "refused" not in found:
            self.calls.append((operation, arguments))
        self.sound = True

    # Before anything else: somebody has little, somebody has much, and there is one of each thing.
    @initialize(credits=st.permutations([90, 200, 900]), owner=user)
    def start(self, credits: list[int], owner: str) -> None:
        for name, number in zip(USERS, credits, strict=True):
            self.step("grant", user=name, amount=number, reference="start")
            self.step("activate", user=name, interval="monthly", key=None)
        self.step("use", user=owner, origin="user", amount=9, app="chat", key="k1")
        self.step("reserve", user=owner, amount=12, reason="chat", hours=24, key=None)
        self.step("give", user=owner, credits=11, address=None, days=30, key=None)
        self.step("give", user=owner, credits=5, address="ben@example.org", days=1, key="k2")
        self.step("give", user=owner, credits=7, address="ada@example.org", days=30, key="k3")
        gift = self.model.gifts[-1]
        email = email_of("ada")
        self.step("redeem", gift=gift, user="ada", email=email, verified=True, key=None)
        self.step("start_purchase", user=owner, package=self.packages[1], key=None)
        self.payment_event(pick=0, kind="succeeded", at=2, wrong=None)

    # Debits, refunds, holds

    @rule(user=user, origin=st.sampled_from(["user", "service"]), amount=amount, app=app, key=key)
    def use(self, **arguments: Any) -> None:
        self.step("use", **arguments)

    @rule(user=user, pick=pick, other=st.integers(0, 4), amount=amount, app=app, key=key)
    def refund(self, user: str, pick: int, other: int, **arguments: Any) -> None:
        name, row = _nth(self.rows(), pick)
        # Mostly whose it is; also somebody else's, rows that are no debits, and none named.
        owner = user if other == 0 or name not in USERS else name
        self.step("refund", user=owner, debit=None if other == 1 else row, **arguments)

    @rule(
        user=user,
        amount=amount,
        reason=st.sampled_from(["chat", "chat:turn", "search:deep", "dear diary"]),
        hours=st.sampled_from([1, 24, 168]),
        key=key,
    )
    def reserve(self, **arguments: Any) -> None:
        self.step("reserve", **arguments)

    @rule(pick=pick, part=st.sampled_from([None, 1, 5, 150]), whose=st.integers(0, 6), key=key)
    def commit(self, pick: int, part: int | None, whose: int, key: str | None) -> None:
        hold = _nth(self.model.holds, pick)
        self.step("commit", hold=hold, user=_whose(hold.user, whose), amount=part, key=key)

    @rule(pick=pick, whose=st.integers(0, 6), key=key)
    def give_back(self, pick: int, whose: int, key: str | None) -> None:
        hold = _nth(self.model.holds, pick)
        self.step("give_back", hold=hold, user=_whose(hold.user, whose), key=key)

    # Gifts

    @rule(
        user=user,
        credits=amount,
        address=st.sampled_from([None, None, "ada@example.org", "Ben@Example.org"]),
        days=st.sampled_from([1, 30, 90]),
        key=key,
    )
    def give(self, **arguments: Any) -> None:
        self.step("give", **arguments)

    @rule(pick=pick, user=user, verified=verified, key=key)
    def redeem(self, pick: int, user: str, **arguments: Any) -> None:
        gift = _nth(self.model.gifts, pick)
        self.step("redeem", gift=gift, user=user, email=email_of(user).upper(), **arguments)

    @rule(pick=pick, user=user, other=st.integers(0, 4), key=key)
    def cancel(self, pick: int, user: str, other: int, key: str | None) -> None:
        gift = _nth(self.model.gifts, pick)
        owner = user if other == 0 or gift.creator not in USERS else gift.creator
        self.step("cancel", gift=gift, user=owner, key=key)

    # Cloud Sync

    @rule(user=user, interval=interval, key=key)
    def activate(self, **arguments: Any) -> None:
        self.step("activate", **arguments)

    @rule(
        user=user,
        interval=interval,
        what=st.sampled_from(["change", "change", "deactivate", "deactivate", "gift", "revoke"]),
    )
    def manage_sync(self, user: str, interval: str, what: str) -> None:
        match what:
            case "change":
                self.step("change_interval", user=user, interval=interval)
            case "deactivate":
                self.step("deactivate", user=user)
            case "gift":
                self.step("gift_sync", user=user)
            case "revoke":
                self.step("revoke_sync", user=user)

    @rule(hours=hours, job=job, times=st.integers(0, 2))
    def pass_time(self, hours: int, job: str, times: int) -> None:
        self.step("pass_time", hours=hours)
        for _ in range(times):
            self.step(job)

    @rule(job=job)
    def run_job(self, job: str) -> None:
        self.step(job)

    # Purchases

    @rule(user=user, pick=pick, key=key)
    def start_purchase(self, user: str, pick: int, key: str | None) -> None:
        self.step("start_purchase", user=user, package=_nth(self.packages, pick), key=key)

    @rule(
        pick=pick,
        kind=st.sampled_from(["succeeded", "succeeded", "failed", "canceled", "processing"]),
        at=st.integers(1, 4),
        wrong=st.sampled_from([None, None, None, "amount", "currency"]),
    )
    def payment_event(self, pick: int, kind: str, at: int, wrong: str | None) -> None:
        purchase = _nth(self.model.purchases, pick)
        self.step(
            "payment_event",
            event=self.next_event(),
            kind=kind,
            at=at,
            purchase=purchase,
            cents=purchase.cents - (wrong == "amount"),
            currency="usd" if wrong == "currency" else "eur",
        )

    @rule(
        pick=pick,
        part=st.sampled_from([1, 33, 50, 100]),
        status=st.sampled_from(["pending", "succeeded", "succeeded", "failed", "canceled"]),
        known=st.integers(0, 3),
    )
    def refund_event(self, pick: int, part: int, status: str, known: int) -> None:
        purchase, id_, cents = self.reversal("refund", pick, part, known)
        self.step(
            "refund_event",
            event=self.next_event(),
            purchase=purchase,
            refund=id_,
            cents=cents,
            status=status,
        )

    @rule(
        pick=pick,
        part=st.sampled_from([50, 100]),
        said=st.sampled_from([*DISPUTE_PHASES]),
        known=st.integers(0, 3),
    )
    def dispute_event(self, pick: int, part: int, said: tuple[str, str], known: int) -> None:
        purchase, id_, cents = self.reversal("dispute", pick, part, known)
        self.step(
            "dispute_event",
            event=self.next_event(),
            purchase=purchase,
            dispute=id_,
            cents=cents,
            type_=said[0],
            status=said[1],
        )

    def reversal(self, kind: str, pick: int, part: int, known: int) -> tuple[Purchase, str, int]:
        """A purchase, and one of its refunds or disputes that was heard of, or a new one."""
        purchase = _nth(self.model.purchases, pick)
        found = [r for r in purchase.reversals.values() if r.kind == kind]
        if found and known:
            one = _nth(found, known - 1)
            return purchase, one.id, one.cents
        self.reversals += 1
        return purchase, f"{kind}_{self.reversals}", max(purchase.cents * part // 100, 1)

    # Erasing

    @rule(user=user, comes_back=st.sampled_from([0, 60, 200]))
    def erase(self, user: str, comes_back: int) -> None:
        self.step("erase", user=user)
        if comes_back:
            self.step("grant", user=user, amount=comes_back, reference="start")

    # What is asked less often

    @rule(user=user, amount=amount, reference=st.sampled_from(["start", "bonus", "survey"]))
    def grant(self, **arguments: Any) -> None:
        self.step("grant", **arguments)

    @rule(pick=pick, user=user, what=st.sampled_from(["gift", "pending", "view", "init"]))
    def look(self, pick: int, user: str, what: str) -> None:
        match what:
            case "gift":
                self.step("look_up", gift=_nth(self.model.gifts, pick))
            case "pending":
                verified = [None, True, False][pick % 3]
                address = email_of(user).title()
                self.step("redeem_pending", user=user, email=address, verified=verified)
            case "view" | "init":
                self.step(what, user=user)

    @rule(
        user=user,
        wrong=st.sampled_from([0, -1, 1_000_000_001]),
        what=st.sampled_from(
            ["use", "refund", "grant", "hold", "gift", "package", "code", "event"]
        ),
    )
    def ask_nonsense(self, user: str, wrong: int, what: str) -> None:
        match what:
            case "use":
                self.step("use", user=user, origin="user", amount=wrong, app="chat", key="k1")
            case "refund":
                self.step("refund", user=user, amount=wrong, app="chat", key="k1", debit=None)
            case "grant":
                self.step("grant", user=user, amount=wrong, reference="bonus")
            case "hold":
                self.step("reserve", user=user, amount=wrong, reason="chat", hours=1, key="k1")
            case "gift":
                self.step("give", user=user, credits=wrong, address=None, days=1, key="k1")
            case "package":
                self.step("start_purchase", user=user, package=NO_PACKAGE, key="k5")
            case "code":
                self.step("look_up", gift=None)
                email = email_of(user)
                self.step("redeem", gift=None, user=user, email=email, verified=None, key="k5")
            case "event":
                self.step("foreign_event", event=self.next_event())

    @rule(interval=interval, price=st.sampled_from([25, 30, 90]))
    def change_price(self, interval: str, price: int) -> None:
        self.step("change_price", interval=interval, price=price)

    # Anything once more

    @rule(pick=st.integers(0, 19))
    def again(self, pick: int) -> None:
        operation, arguments = _nth(self.calls, pick)
        self.step(operation, **arguments)

    @precondition(lambda self: self.keyed())
    @rule(pick=pick)
    def again_with_its_key(self, pick: int) -> None:
        operation, arguments = _nth(self.keyed(), pick)
        self.step(operation, **arguments)

    def next_event(self) -> str:
        """An id that Stripe has not used yet."""
        self.events += 1
        return f"evt_{self.events}"

    # What must hold

    @invariant()
    def the_money_rules_hold(self) -> None:
        self.model.require_conservation()
        assert self.driver.violations() == []

    @invariant()
    def the_states_agree(self) -> None:
        different = list(differences(self.model.state(), self.driver.state([*self.model.users])))
        assert not different, different

    def teardown(self) -> None:
        # After a step that failed, the two have parted already.
        if self.sound:
            for name in USERS:
                self.step("view", user=name)
            assert self.driver.deadlocks() == 0

    def keyed(self) -> list[tuple[str, dict[str, Any]]]:
        """The calls that had an idempotency key."""
        return [call for call in self.calls if call[1].get("key")]

    def rows(self) -> list[tuple[str, Row]]:
        """The rows of all ledgers."""
        return [(name, row) for name, user in self.model.users.items() for row in user.ledger]


def _answer(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return call()
    except RefusedError as refused:
        return {"refused": refused.code, **refused.facts}


def _in_words(answer: dict[str, Any]) -> str:
    return str(answer.get("refused", "replayed" if answer.get("replayed") else "done"))


def _nth(things: list[Any], pick: int) -> Any:
    return things[-1 - pick % len(things)]


def _whose(owner: str, whose: int) -> str | None:
    """Nobody named, the owner where he is not erased, or somebody else."""
    if whose == 0:
        return next(name for name in USERS if name != owner)
    return owner if whose % 2 and owner in USERS else None


def run(make: Callable[[], Machine], *, examples: int, steps: int, seed: int) -> None:
    """Run the machine in the size that the environment asks for, or the given one."""
    examples = int(os.environ.get("MANA_MODEL_EXAMPLES", examples))
    steps = int(os.environ.get("MANA_MODEL_STEPS", steps))
    seed = int(os.environ.get("MANA_MODEL_SEED", seed))
    shortens = os.environ.get("MANA_MODEL_SHRINK") != "0"
    print(
        f"to repeat: MANA_MODEL_EXAMPLES={examples} MANA_MODEL_STEPS={steps}"
        f" MANA_MODEL_SEED={seed} pytest {os.environ.get('PYTEST_CURRENT_TEST', '').split(' ')[0]}"
    )

    @hypothesis.seed(seed)
    def machine() -> Machine:
        return make()

    run_state_machine_as_test(
        machine,  # type: ignore[arg-type]  # whatever makes one will do
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink)[: 2 if shortens else 1],
            # A step is several calls of a database, and a sequence is long.
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
