"""The local Stripe's application: localstripe's routes, and ours before them."""

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from localstripe import resources, server
from localstripe.errors import UserError, json_response

from service.dev.local_stripe.aftermath import Aftermath, list_events, page_of
from service.dev.local_stripe.dashboard import Dashboard
from service.dev.local_stripe.engine import Engine
from service.dev.local_stripe.idempotency import Handler, IdempotencyKeys
from service.dev.local_stripe.objects import CheckoutSession, PaymentIntent, refusal
from service.dev.local_stripe.page import PaymentPage
from service.dev.local_stripe.store import DataFile
from service.dev.local_stripe.webhooks import Endpoint, WebhookSender

_log = logging.getLogger(__name__)

# From this version of Stripe's API on, requests say `allowed_payment_method_types`.
_NO_METHOD_TYPES_SINCE = "2026-10-28"

Action = Callable[[str, dict[str, Any]], Any]


def create_app(
    *, data_file: Path, base_url: str, sepa_delay: float, endpoint: Endpoint | None
) -> web.Application:
    """Make the application; there can be one in a process, since localstripe's state is global.

    `base_url` is its own address, for the pages; `sepa_delay` the seconds until a SEPA debit
    settles; `endpoint` receives the events.
    """
    keys = IdempotencyKeys()
    data = DataFile(data_file, keys)
    sender = WebhookSender()
    if endpoint is not None:
        sender.endpoints["service"] = endpoint
    engine = Engine(data, sender, base_url=base_url, sepa_delay=sepa_delay)
    resources.schedule_webhook = engine.announce

    async def lifetime(_app: web.Application) -> AsyncIterator[None]:
        data.load()
        engine.resume()
        async with sender.running():
            yield
        engine.stop()
        data.save()

    @web.middleware
    async def save(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        finally:
            if request.method not in ("GET", "HEAD"):
                data.save()

    app = web.Application(
        # Errors twice: the inner ones are results that an idempotency key keeps.
        middlewares=[_errors, _authenticate, save, keys.middleware, _errors]
    )
    app.cleanup_ctx.append(lifetime)
    app.on_response_prepare.append(server.add_cors_headers)
    _add_own_routes(app, engine, data, sender)
    _add_localstripe_routes(app)
    return app


def _add_own_routes(
    app: web.Application, engine: Engine, data: DataFile, sender: WebhookSender
) -> None:
    def post(path: str, action: Action) -> None:
        async def handle(request: web.Request) -> web.Response:
            given = await server.get_post_data(request) or {}
            expand = given.pop("expand", None)
            version = request.headers.get("Stripe-Version", "")
            if version >= _NO_METHOD_TYPES_SINCE and "payment_method_types" in given:
                raise refusal(
                    "Received unknown parameter: payment_method_types. "
                    "Did you mean allowed_payment_method_types?",
                    param="payment_method_types",
                    code="parameter_unknown",
                )
            thing = action(request.match_info.get("id", ""), given)
            return _answer(thing, expand)

        app.router.add_post(path, handle)

    def create_intent(_: str, given: dict[str, Any]) -> PaymentIntent:
        return engine.create_intent(**given)

    def confirm_intent(intent_id: str, given: dict[str, Any]) -> PaymentIntent:
        intent: PaymentIntent = PaymentIntent._api_retrieve(intent_id)
        engine.confirm_intent(intent, given.get("payment_method"))
        return intent

    def cancel_intent(intent_id: str, given: dict[str, Any]) -> PaymentIntent:
        intent: PaymentIntent = PaymentIntent._api_retrieve(intent_id)
        engine.cancel_intent(intent, given.get("cancellation_reason"))
        return intent

    def create_session(_: str, given: dict[str, Any]) -> CheckoutSession:
        return engine.create_session(**given)

    def expire_session(session_id: str, _: dict[str, Any]) -> CheckoutSession:
        session = find_session(session_id)
        engine.expire_session(session)
        return session

    def find_session(session_id: str) -> CheckoutSession:
        session = engine.find_session(session_id)
        if session is None:
            raise refusal(
                f"No such checkout.session: {session_id}", code="resource_missing", status=404
            )
        return session

    async def show_session(request: web.Request) -> web.Response:
        expand = server.unflatten_data(request.query).get("expand")
        return _answer(find_session(request.match_info["id"]), expand)

    post("/v1/payment_intents", create_intent)
    post("/v1/payment_intents/{id}/confirm", confirm_intent)
    post("/v1/payment_intents/{id}/cancel", cancel_intent)
    post("/v1/checkout/sessions", create_session)
    post("/v1/checkout/sessions/{id}/expire", expire_session)
    app.router.add_get("/v1/checkout/sessions/{id}", show_session)

    aftermath = Aftermath(engine)

    async def show_events(request: web.Request) -> web.Response:
        query = server.unflatten_data(request.query)
        return web.json_response(page_of(list_events(query), query, "/v1/events"))

    async def show_refunds(request: web.Request) -> web.Response:
        query = server.unflatten_data(request.query)
        refunds = aftermath.list_refunds(query.get("payment_intent"), query.get("charge"))
        return web.json_response(page_of(refunds, query, "/v1/refunds"))

    post("/v1/refunds", lambda _, given: aftermath.create_refund(given))
    app.router.add_get("/v1/refunds", show_refunds)
    app.router.add_get("/v1/events", show_events)
    post(
        "/_config/refunds/{id}",
        lambda refund, given: aftermath.end_refund(refund, given.get("status", "")),
    )
    post("/_config/disputes", lambda _, given: aftermath.open_dispute(given))
    post(
        "/_config/disputes/{id}",
        lambda dispute, given: aftermath.move_dispute(dispute, given.get("step", "")),
    )

    post("/_config/debits/{id}", lambda intent, _: engine.settle_now(intent))

    dashboard = Dashboard(engine, aftermath, sender)
    app.router.add_get("/", dashboard.show)
    app.router.add_post("/", dashboard.act)
    page = PaymentPage(engine)
    app.router.add_get("/c/pay/{id}", page.show)
    app.router.add_post("/c/pay/{id}", page.pay)

    async def set_endpoint(request: web.Request) -> web.Response:
        given = await server.get_post_data(request) or {}
        url, secret, events = given.get("url"), given.get("secret"), given.get("events")
        if not url or not secret:
            raise refusal("url and secret are required.")
        sender.endpoints[request.match_info["id"]] = Endpoint(
            url, secret, None if events is None else tuple(events)
        )
        return web.Response()

    async def remove_endpoint(request: web.Request) -> web.Response:
        sender.endpoints.pop(request.match_info["id"], None)
        return web.Response()

    async def deliver(request: web.Request) -> web.Response:
        given = await server.get_post_data(request) or {}
        on = resources.try_convert_to_bool(given.get("on"))
        if not isinstance(on, bool):
            raise refusal("on must be true or false", param="on")
        sender.delivering = on
        return web.Response()

    async def forget(_request: web.Request) -> web.Response:
        engine.stop()
        data.clear()
        sender.delivering = True
        return web.Response()

    app.router.add_post("/_config/webhooks/{id}", set_endpoint)
    app.router.add_delete("/_config/webhooks/{id}", remove_endpoint)
    app.router.add_post("/_config/deliveries", deliver)
    app.router.add_delete("/_config/data", forget)


def _add_localstripe_routes(app: web.Application) -> None:
    def name(route: web.AbstractRoute) -> tuple[str, str | None]:
        return route.method, route.resource.canonical if route.resource else None

    ours = {name(route) for route in app.router.routes()}
    for route in server.app.router.routes():
        method, path = name(route)
        # A GET route brings its HEAD with it.
        if path is not None and method != "HEAD" and (method, path) not in ours:
            app.router.add_route(method, path, route.handler)


def _answer(thing: Any, expand: list[str] | None) -> web.Response:
    response: web.Response = json_response(thing._export(expand=expand))
    return response


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer errors as Stripe does, where localstripe does not."""
    try:
        response = await handler(request)
    except UserError as error:
        body, status = error.body, int(error.code)
        if status == 402:
            body["error"]["type"] = "card_error"
            body["error"].setdefault("decline_code", "generic_decline")
        elif status == 404:
            body["error"].setdefault("code", "resource_missing")
        elif status >= 500:
            body["error"]["type"] = "api_error"
        response = web.json_response(body, status=status)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        message = f"Unrecognized request URL ({request.method}: {request.path})."
        error_body = {"error": {"type": "invalid_request_error", "message": message}}
        response = web.json_response(error_body, status=404)
    except Exception:
        _log.exception("%s %s", request.method, request.path)
        error_body = {"error": {"type": "api_error", "message": "Something went wrong."}}
        response = web.json_response(error_body, status=500)
    response.headers.setdefault("Request-Id", f"req_{secrets.token_hex(7)}")
    return response


@web.middleware
async def _authenticate(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    if not request.path.startswith("/v1/"):
        return await handler(request)
    response: web.StreamResponse = await server.auth_middleware(request, handler)
    return response
