"""The page on which a person pays a Checkout Session with test money."""

import html
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from service.dev.local_stripe.engine import Engine
from service.dev.local_stripe.objects import CheckoutSession

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 32rem; margin: 3rem auto; padding: 0 1rem }
table { width: 100%; border-collapse: collapse }
td { padding: .3rem 0; border-bottom: 1px solid #ddd }
td:last-child { text-align: right }
section { margin: 2rem 0; border-top: 1px solid #ddd }
h2 { font-size: 1.2rem } h3 { font-size: 1rem; margin-bottom: 0 }
input { font: inherit; width: 8rem }
button { display: block; width: 100%; margin: .5rem 0; padding: .7rem; font: inherit }
[role=alert] { border-left: 4px solid #b00020; padding-left: .8rem; color: #b00020 }
"""


def _card(number: str) -> Mapping[str, Any]:
    card = {"number": number, "exp_month": 12, "exp_year": 2040, "cvc": "123"}
    return {"type": "card", "card": card}


def _sepa(iban: str) -> Mapping[str, Any]:
    return {"type": "sepa_debit", "sepa_debit": {"iban": iban}}


# The form's values, with Stripe's own test numbers.
CHOICES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "card": ("Pay with the card 4242 4242 4242 4242", _card("4242424242424242")),
    "card_declined": (
        "Pay with the card 4000 0000 0000 0002 (declined)",
        _card("4000000000000002"),
    ),
    "sepa": ("Pay by SEPA debit from DE89 … 3000", _sepa("DE89370400440532013000")),
    "sepa_fails": (
        "Pay by SEPA debit from DE62 … 3001 (fails later)",
        _sepa("DE62370400440532013001"),
    ),
}


class PaymentPage:
    """The routes of the page."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def show(self, request: web.Request) -> web.Response:
        """Show what is to be paid, and the ways to pay."""
        session = self._engine.find_session(request.match_info["id"])
        if session is None:
            return html_page("Not found", "<p>There is no such Checkout Session.</p>", status=404)
        return _render(session)

    async def pay(self, request: web.Request) -> web.Response:
        """Do what was chosen (`choice`), and lead back to the shop."""
        session = self._engine.find_session(request.match_info["id"])
        if session is None:
            return html_page("Not found", "<p>There is no such Checkout Session.</p>", status=404)
        choice = (await request.post()).get("choice")
        if choice == "cancel" and session.cancel_url:
            # As on Stripe's page: the session stays open until it expires.
            return _see_other(session.cancel_url)
        if session.status == "open":
            if not isinstance(choice, str) or choice not in _offered(session):
                return _render(session, "Choose one of the ways to pay.", status=400)
            _, method = CHOICES[choice]
            declined = self._engine.pay_session(session, dict(method))
            if declined is not None:
                return _render(session, declined, status=402)
        if session.status == "complete":
            return _see_other(_success_url(session))
        return _render(session)


def _offered(session: CheckoutSession) -> list[str]:
    return [
        name
        for name, (_, method) in CHOICES.items()
        if method["type"] in session.payment_method_types
    ]


def _success_url(session: CheckoutSession) -> str:
    return str(session.success_url).replace("{CHECKOUT_SESSION_ID}", session.id)


def _see_other(url: str) -> web.Response:
    return web.Response(status=303, headers={"Location": url})


def _render(session: CheckoutSession, alert: str | None = None, status: int = 200) -> web.Response:
    if session.status == "complete":
        link = html.escape(_success_url(session))
        return html_page("Paid", f'<p>This was paid. <a href="{link}">Back to the shop</a></p>')
    if session.status == "expired":
        return html_page("Expired", "<p>This Checkout Session has expired.</p>")
    currency = session.currency.upper()
    rows = [*session._items, ("Total", session.amount_total)]
    table = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{amount / 100:.2f} {html.escape(currency)}</td></tr>"
        for name, amount in rows
    )
    buttons = "".join(
        f'<button name="choice" value="{name}">{html.escape(CHOICES[name][0])}</button>'
        for name in _offered(session)
    )
    if session.cancel_url:
        buttons += '<button name="choice" value="cancel">Cancel and go back</button>'
    shown_alert = f'<p role="alert">{html.escape(alert)}</p>' if alert else ""
    body = (
        f"<p>Local Stripe: no real money moves.</p>{shown_alert}"
        f'<table>{table}</table><form method="post">{buttons}</form>'
    )
    return html_page("Pay", body, status=status)


def html_page(title: str, body: str, status: int = 200) -> web.Response:
    """A page of the local Stripe; `body` is HTML."""
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title} · local Stripe</title><style>{_STYLE}</style></head>"
        f"<body><h1>{title}</h1>{body}</body></html>"
    )
    return web.Response(text=text, content_type="text/html", status=status)
