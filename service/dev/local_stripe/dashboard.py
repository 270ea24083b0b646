"""The first page: what was paid, to be refunded and disputed by whoever tries the service out."""

import html
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from aiohttp import web
from localstripe import resources
from localstripe.errors import UserError

from service.dev.local_stripe.aftermath import Aftermath, Dispute
from service.dev.local_stripe.engine import Engine
from service.dev.local_stripe.objects import PaymentIntent, refusal
from service.dev.local_stripe.page import html_page
from service.dev.local_stripe.webhooks import WebhookSender

_SHOWN: Final = 50
_REFUND_ENDS: Final = {"succeeded": "The bank has paid it out", "failed": "The bank sends it back"}
_DISPUTE_STEPS: Final = {
    "withdrawn": "The money is withdrawn",
    "won": "Won",
    "lost": "Lost",
    "reinstated": "The money is reinstated",
}
_INQUIRY_STEPS: Final = {
    "warning_closed": "Closed without a dispute",
    "withdrawn": "It becomes a dispute: the money is withdrawn",
}


class Dashboard:
    """The routes of the page."""

    def __init__(self, engine: Engine, aftermath: Aftermath, sender: WebhookSender) -> None:
        self._engine = engine
        self._aftermath = aftermath
        self._sender = sender

    async def show(self, _request: web.Request) -> web.Response:
        """Show the payments, newest first."""
        return self._render()

    async def act(self, request: web.Request) -> web.Response:
        """Do what a button says (`action`, about `id`), and show the page again."""
        given = {
            name: value for name, value in (await request.post()).items() if isinstance(value, str)
        }
        try:
            self._act(given.get("action", ""), given.get("id", ""), given)
        except UserError as error:
            told = str(error.body["error"].get("message", "That is not possible."))
            return self._render(told, int(error.code))
        return web.Response(status=303, headers={"Location": "/"})

    def _act(self, action: str, about: str, given: dict[str, str]) -> None:
        match action:
            case "refund" | "refund_pending":
                status = "pending" if action == "refund_pending" else "succeeded"
                self._aftermath.create_refund(
                    {
                        "payment_intent": about,
                        "amount": _cents(given.get("amount")),
                        "metadata": {"status": status},
                    }
                )
            case "dispute" | "inquiry":
                self._aftermath.open_dispute(
                    {
                        "payment_intent": about,
                        "amount": _cents(given.get("amount")),
                        "status": "warning_needs_response" if action == "inquiry" else None,
                    }
                )
            case "end_refund":
                self._aftermath.end_refund(about, given.get("step", ""))
            case "move_dispute":
                self._aftermath.move_dispute(about, given.get("step", ""))
            case "settle":
                self._engine.settle_now(about)
            case "deliver":
                self._sender.delivering = about == "on"
            case _:
                raise refusal("Press one of the buttons.")

    def _render(self, alert: str | None = None, status: int = 200) -> web.Response:
        paid = _payments("succeeded")
        parts = ["<p>Local Stripe: no real money moves.</p>"]
        if alert:
            parts.append(f'<p role="alert">{html.escape(alert)}</p>')
        parts.append(self._deliveries())
        parts += [_debit(intent) for intent in reversed(_payments("processing"))]
        parts += [self._payment(intent) for intent in reversed(paid[-_SHOWN:])]
        if not paid:
            parts.append("<p>Nothing was paid yet.</p>")
        return html_page("Payments", "".join(parts), status=status)

    def _deliveries(self) -> str:
        on = self._sender.delivering
        button = _hidden("id", "off" if on else "on")
        button += _button("deliver", "Lose them" if on else "Send them")
        state = "are sent" if on else "are lost, and stay in the list of events"
        return f"<section><p>Webhooks {state}.</p>{_form(button)}</section>"

    def _payment(self, intent: PaymentIntent) -> str:
        refunds = self._aftermath.list_refunds(intent.id, None)
        disputes = [
            thing
            for thing in resources.store.values()
            if isinstance(thing, Dispute) and thing.payment_intent == intent.id
        ]
        amount = (
            '<label>Amount (all, where empty) <input name="amount" inputmode="decimal"></label>'
        )
        buttons = "".join(
            _button(action, label)
            for action, label in (
                ("refund", "Refund"),
                ("refund_pending", "Refund, pending at the bank"),
                ("dispute", "Dispute"),
                ("inquiry", "Inquiry, a warning of a dispute"),
            )
        )
        return (
            f"<section>{_heading(intent)}"
            + _form(_hidden("id", intent.id) + amount + buttons)
            + "".join(self._refund(refund) for refund in refunds)
            + "".join(self._dispute(dispute) for dispute in disputes)
            + "</section>"
        )

    def _refund(self, refund: Any) -> str:
        steps = {"pending": _REFUND_ENDS, "succeeded": {"failed": _REFUND_ENDS["failed"]}}
        return _story("Refund", refund, "end_refund", steps.get(refund.status, {}))

    def _dispute(self, dispute: Dispute) -> str:
        closed = dispute.status in ("won", "lost", "warning_closed")
        steps = _INQUIRY_STEPS if dispute.status.startswith("warning_") else _DISPUTE_STEPS
        return _story("Dispute", dispute, "move_dispute", {} if closed else steps)


def _payments(status: str) -> list[PaymentIntent]:
    return [
        thing
        for thing in resources.store.values()
        if isinstance(thing, PaymentIntent) and thing.status == status
    ]


def _heading(intent: PaymentIntent) -> str:
    about = html.escape(str(intent.description or intent.id))
    return f"<h2>{about}: {_money(intent)}</h2><p>{intent.id}</p>"


def _debit(intent: PaymentIntent) -> str:
    button = _hidden("id", intent.id) + _button("settle", "The bank answers now")
    return f"<section>{_heading(intent)}<p>A debit is under way.</p>{_form(button)}</section>"


def _story(title: str, thing: Any, action: str, steps: dict[str, str]) -> str:
    buttons = "".join(
        f'<button name="step" value="{step}">{html.escape(label)}</button>'
        for step, label in steps.items()
    )
    hidden = _hidden("action", action) + _hidden("id", thing.id)
    return f"<h3>{title} of {_money(thing)}: {html.escape(thing.status)}</h3><p>{thing.id}</p>" + (
        _form(hidden + buttons) if buttons else ""
    )


def _button(action: str, label: str) -> str:
    return f'<button name="action" value="{action}">{html.escape(label)}</button>'


def _hidden(name: str, value: str) -> str:
    return f'<input type="hidden" name="{name}" value="{html.escape(value)}">'


def _form(inside: str) -> str:
    return f'<form method="post" action="/">{inside}</form>'


def _money(thing: Any) -> str:
    return f"{thing.amount / 100:.2f} {html.escape(str(thing.currency).upper())}"


def _cents(euros: str | None) -> int | None:
    if not euros:
        return None
    try:
        cents = Decimal(euros.replace(",", ".")) * 100
    except InvalidOperation:
        raise refusal(f"{euros} is no amount.", param="amount") from None
    if not cents.is_finite() or cents != cents.to_integral_value():
        raise refusal(f"{euros} is no amount in whole cents.", param="amount")
    return int(cents)
