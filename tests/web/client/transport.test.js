// Tokens, keys, repeats, time-outs: what holds for every call.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  CreditsError,
  GiftRefusedError,
  IdempotencyKeyReusedError,
  InsufficientCreditsError,
  InvalidRequestError,
  NetworkError,
  NotFoundError,
  OutcomeUnknownError,
  PaymentError,
  RateLimitedError,
  RequestTimeoutError,
  SyncStateError,
  UnauthorizedError,
  UnavailableError,
  createCreditsClient,
} from "../../../service/web/client/credits-client.js";
import {
  answer,
  broken,
  deferred,
  failure,
  fakeFetch,
  hanging,
  quickTimers,
  refusal,
  settled,
} from "./support.js";

const BASE = "https://credits.example.org";
const DEBIT = { amount: 5, appId: "chat", description: "One question" };
const BALANCE = {
  balance: 7,
  totalEarned: 10,
  totalSpent: 3,
  reserved: 0,
  transactionsCount: 2,
};
const busy = (seconds) => refusal(503, "unavailable", undefined, { "Retry-After": `${seconds}` });
const unknown = refusal(503, "outcome_unknown");
const expired = refusal(401, "unauthorized");

function clientOf(fetch, options = {}) {
  return createCreditsClient({ baseUrl: BASE, getToken: () => "token", fetch, ...options });
}

test("the token goes into the Authorization header and nowhere else", async () => {
  const { fetch, calls } = fakeFetch(answer(200, BALANCE));
  assert.deepEqual(await clientOf(fetch).balance(), BALANCE);
  const [call] = calls;
  assert.equal(call.url, `${BASE}/api/v1/credits/balance`);
  assert.equal(call.token, "Bearer token");
  assert.equal(call.more.credentials, "omit");
  assert.equal(call.more.redirect, "error");
});

test("without a base the calls go to the page's own origin", async () => {
  const { fetch, calls } = fakeFetch(answer(200, BALANCE), answer(200, BALANCE));
  await createCreditsClient({ getToken: () => "token", fetch }).balance();
  await clientOf(fetch, { baseUrl: `${BASE}/` }).balance();
  assert.deepEqual(
    calls.map(({ url }) => url),
    ["/api/v1/credits/balance", `${BASE}/api/v1/credits/balance`],
  );
});

test("the global fetch is called as it is at the time of the call", async (context) => {
  const client = createCreditsClient({ baseUrl: BASE, getToken: async () => "token" });
  const { fetch, calls } = fakeFetch(answer(200, BALANCE));
  context.mock.method(globalThis, "fetch", fetch);
  await client.balance();
  assert.equal(calls.length, 1);
});

const ERRORS = [
  [400, "invalid_request", InvalidRequestError],
  [401, "unauthorized", UnauthorizedError],
  [402, "insufficient_credits", InsufficientCreditsError],
  [404, "not_found", NotFoundError],
  [400, "gift_expired", GiftRefusedError],
  [403, "gift_wrong_recipient", GiftRefusedError],
  [400, "sync_already_active", SyncStateError],
  [409, "idempotency_key_reused", IdempotencyKeyReusedError],
  [429, "rate_limited", RateLimitedError],
  [502, "payment_provider_error", PaymentError],
  [503, "stripe_not_configured", PaymentError],
  [503, "unavailable", UnavailableError],
  [418, "something_new", CreditsError],
  [418, "toString", CreditsError],
];
for (const [status, code, Type] of ERRORS) {
  test(`${status} ${code} is a ${Type.name}`, async () => {
    const headers = { "X-Request-Id": "r-1" };
    const failed = refusal(status, code, { some: "fact" }, headers);
    const { fetch, calls } = fakeFetch(failed, failed);
    const error = await failure(clientOf(fetch).balance());
    assert.equal(error.constructor, Type);
    assert.ok(error instanceof CreditsError && error instanceof Error);
    assert.equal(error.name, Type.name);
    const { message, details, requestId, retryAfter, idempotencyKey } = error;
    assert.deepEqual(
      { status: error.status, code: error.code, message, details, requestId },
      { status, code, message: `It is ${code}`, details: { some: "fact" }, requestId: "r-1" },
    );
    assert.deepEqual({ retryAfter, idempotencyKey }, { retryAfter: null, idempotencyKey: null });
    assert.equal(calls.length, status === 401 ? 2 : 1);
  });
}

test("what an error knows of its own", async () => {
  const fields = [{ field: "amount", message: "is required" }];
  const { fetch } = fakeFetch(
    refusal(400, "invalid_request", fields),
    refusal(400, "invalid_request"),
    refusal(402, "insufficient_credits", { required: 30, available: 12 }),
    refusal(429, "rate_limited", undefined, { "Retry-After": "17" }),
  );
  const client = clientOf(fetch);
  assert.deepEqual((await failure(client.use(DEBIT))).fields, fields);
  assert.deepEqual((await failure(client.use(DEBIT))).fields, []);
  const poor = await failure(client.use(DEBIT));
  assert.deepEqual([poor.required, poor.available], [30, 12]);
  assert.equal((await failure(client.balance())).retryAfter, 17);
});

test("a Retry-After may be a date", async (context) => {
  context.mock.method(Date, "now", () => Date.parse("2026-05-18T00:00:00Z"));
  const headers = { "Retry-After": "Mon, 18 May 2026 00:00:40 GMT" };
  const { fetch } = fakeFetch(refusal(429, "rate_limited", undefined, headers));
  assert.equal((await failure(clientOf(fetch).balance())).retryAfter, 40);
});

test("a call that moves credits draws a key, and keeps it when it is repeated", async (context) => {
  quickTimers(context);
  const moved = answer(200, { success: true });
  const { fetch, calls } = fakeFetch(broken, unknown, busy(2), moved, moved);
  const client = clientOf(fetch);
  await client.use(DEBIT);
  await client.use(DEBIT);
  const keys = calls.map(({ key }) => key);
  assert.match(keys[0], /^[0-9a-f-]{36}$/);
  assert.deepEqual(new Set(keys.slice(0, 4)), new Set([keys[0]]));
  assert.notEqual(keys[4], keys[0]);
  assert.deepEqual(calls[3].body, { ...DEBIT, idempotencyKey: keys[0] });
});

test("a key of the caller's is used, the body's before the options'", async () => {
  const moved = answer(200, { success: true });
  const { fetch, calls } = fakeFetch(moved, moved, refusal(402, "insufficient_credits"));
  const client = clientOf(fetch);
  await client.use(DEBIT, { idempotencyKey: "order-1" });
  await client.use({ ...DEBIT, idempotencyKey: "order-2" }, { idempotencyKey: "no" });
  assert.deepEqual(
    calls.map(({ key }) => key),
    ["order-1", "order-2"],
  );
  const error = await failure(client.use(DEBIT, { idempotencyKey: "order-3" }));
  assert.equal(error.idempotencyKey, "order-3");
});

test("a key is drawn where the browser has no randomUUID", async (context) => {
  const { fetch, calls } = fakeFetch(answer(200, {}), answer(200, {}));
  const own = Object.getOwnPropertyDescriptor(globalThis, "crypto");
  const poor = { getRandomValues: globalThis.crypto.getRandomValues.bind(globalThis.crypto) };
  Object.defineProperty(globalThis, "crypto", { value: poor, configurable: true });
  context.after(() => Object.defineProperty(globalThis, "crypto", own));
  await clientOf(fetch).use(DEBIT);
  await clientOf(fetch).use(DEBIT);
  assert.match(calls[0].key, /^[0-9a-f]{32}$/);
  assert.notEqual(calls[0].key, calls[1].key);
});

test("reads are repeated as well, each time after a longer pause", async (context) => {
  context.mock.method(Math, "random", () => 1);
  const delays = quickTimers(context);
  const { fetch, calls } = fakeFetch(broken, broken, broken, answer(200, BALANCE));
  await clientOf(fetch).balance();
  assert.deepEqual(delays, [300, 600, 1200]);
  assert.equal(calls.length, 4);
});

test("Retry-After is waited for, and jitter comes on top", async (context) => {
  const delays = quickTimers(context);
  const { fetch } = fakeFetch(busy(2), answer(200, BALANCE), busy(2), answer(200, BALANCE));
  const client = clientOf(fetch);
  context.mock.method(Math, "random", () => 0);
  await client.balance();
  context.mock.method(Math, "random", () => 0.5);
  await client.balance();
  assert.deepEqual(delays, [2150, 2225]);
});

test("repeats come to an end, and it can be chosen how many there are", async (context) => {
  quickTimers(context);
  const { fetch, calls } = fakeFetch(...Array(5).fill(broken));
  const error = await failure(clientOf(fetch).balance());
  assert.equal(error.constructor, NetworkError);
  assert.equal(error.code, "network_error");
  assert.equal(error.cause.message, "fetch failed");
  assert.equal(calls.length, 4);
  await failure(clientOf(fetch, { retry: { limit: 0 } }).balance());
  assert.equal(calls.length, 5);
});

for (const [name, failing] of [
  ["429", refusal(429, "rate_limited", undefined, { "Retry-After": "1" })],
  ["503 without Retry-After", refusal(503, "unavailable")],
  ["500", refusal(500, "internal_error")],
  ["502 of Stripe's", refusal(502, "payment_provider_error")],
  ["a page instead of the service", () => new Response("<html>", { status: 404 })],
]) {
  test(`not repeated: ${name}`, async () => {
    const { fetch, calls } = fakeFetch(failing);
    assert.ok((await failure(clientOf(fetch).balance())) instanceof CreditsError);
    assert.equal(calls.length, 1);
  });
}

test("a proxy's own 502 is repeated; its page is no answer", async (context) => {
  quickTimers(context);
  const page = () => new Response("<html>Bad gateway</html>", { status: 502 });
  const { fetch, calls } = fakeFetch(page, answer(200, BALANCE), ...Array(4).fill(page));
  await clientOf(fetch).balance();
  assert.equal(calls.length, 2);
  const error = await failure(clientOf(fetch).balance());
  assert.deepEqual(
    [error.constructor, error.code, error.status],
    [NetworkError, "bad_answer", 502],
  );
});

test("a success that is not JSON is no answer", async () => {
  const { fetch } = fakeFetch(() => new Response("<html>Sign in to this network</html>"));
  const error = await failure(clientOf(fetch).balance());
  assert.deepEqual([error.constructor, error.code], [NetworkError, "bad_answer"]);
});

test("a move that got no answer has an unknown outcome, and says its key", async (context) => {
  quickTimers(context);
  const internal = refusal(500, "internal_error");
  for (const failing of [broken, unknown, internal, () => new Response("", { status: 504 })]) {
    const { fetch, calls } = fakeFetch(...Array(4).fill(failing));
    const error = await failure(clientOf(fetch).use(DEBIT));
    assert.equal(error.constructor, OutcomeUnknownError);
    assert.equal(error.code, "outcome_unknown");
    assert.equal(error.idempotencyKey, calls[0].key);
    assert.equal(error.unsure, true);
  }
});

test("what comes last does not hide that an attempt before may have worked", async (context) => {
  quickTimers(context);
  for (const [last, Type] of [
    [refusal(503, "unavailable"), OutcomeUnknownError],
    [refusal(429, "rate_limited"), OutcomeUnknownError],
    [refusal(402, "insufficient_credits"), InsufficientCreditsError],
    [refusal(409, "idempotency_key_reused"), IdempotencyKeyReusedError],
  ]) {
    const { fetch } = fakeFetch(broken, last);
    const error = await failure(clientOf(fetch).use(DEBIT));
    assert.equal(error.constructor, Type);
  }
});

test("a move that certainly did not happen is not called unknown", async (context) => {
  quickTimers(context);
  const { fetch } = fakeFetch(...Array(4).fill(busy(1)));
  const error = await failure(clientOf(fetch).use(DEBIT));
  assert.equal(error.constructor, UnavailableError);
  assert.equal(error.unsure, false);
});

test("a 401 asks once for a fresh token and repeats with it", async () => {
  const asked = [];
  const getToken = async (wanted) => {
    asked.push(wanted);
    return wanted?.fresh ? "fresh" : "old";
  };
  const { fetch, calls } = fakeFetch(expired, answer(200, { success: true }));
  await clientOf(fetch, { getToken }).use(DEBIT);
  assert.deepEqual(asked, [undefined, { fresh: true }]);
  assert.deepEqual(
    calls.map(({ token }) => token),
    ["Bearer old", "Bearer fresh"],
  );
  assert.equal(calls[0].key, calls[1].key);
});

test("a token that is refused again ends the call, and somebody is told", async (context) => {
  quickTimers(context);
  const told = [];
  const getToken = context.mock.fn(() => "token");
  const { fetch, calls } = fakeFetch(expired, busy(1), expired);
  const client = clientOf(fetch, { getToken, onUnauthorized: (error) => told.push(error) });
  const error = await failure(client.balance());
  assert.equal(error.constructor, UnauthorizedError);
  assert.deepEqual(told, [error]);
  assert.equal(calls.length, 3);
  assert.equal(getToken.mock.callCount(), 2);
});

test("calls that are refused together ask for one fresh token", async (context) => {
  const fresh = deferred();
  const getToken = context.mock.fn((wanted) => (wanted?.fresh ? fresh.promise : "old"));
  const success = answer(200, BALANCE);
  const { fetch, calls } = fakeFetch(expired, expired, expired, success, success, success);
  const client = clientOf(fetch, { getToken });
  const all = Promise.all([client.balance(), client.balance(), client.balance()]);
  fresh.resolve("fresh");
  await all;
  assert.equal(getToken.mock.calls.filter((call) => call.arguments[0]?.fresh).length, 1);
  assert.equal(calls.filter(({ token }) => token === "Bearer fresh").length, 3);
});

test("nobody signed in: no request, and somebody is told", async () => {
  const told = [];
  const { fetch, calls } = fakeFetch();
  const onUnauthorized = (error) => told.push(error);
  for (const getToken of [undefined, () => null, async () => ""]) {
    const client = createCreditsClient({ baseUrl: BASE, fetch, getToken, onUnauthorized });
    const error = await failure(client.use(DEBIT));
    assert.equal(error.constructor, UnauthorizedError);
    assert.equal(error.status, null);
  }
  assert.equal(told.length, 3);
  assert.equal(calls.length, 0);
});

test("what getToken throws is thrown on", async () => {
  const { fetch, calls } = fakeFetch();
  const getToken = () => {
    throw new RangeError("no session");
  };
  assert.equal((await failure(clientOf(fetch, { getToken }).balance())).message, "no session");
  assert.equal(calls.length, 0);
});

test("a call ends with its time; 30 s unless something else is said", async (context) => {
  const timers = [];
  context.mock.method(globalThis, "setTimeout", (work, delay) => timers.push({ work, delay }));
  const { fetch, calls } = fakeFetch(hanging, hanging, hanging);
  const client = clientOf(fetch);
  for (const [call, delay, Type] of [
    [() => client.balance(), 30_000, RequestTimeoutError],
    [() => client.balance({ timeout: 50 }), 50, RequestTimeoutError],
    [() => client.use(DEBIT, { timeout: 60 }), 60, OutcomeUnknownError],
  ]) {
    const outcome = failure(call());
    await settled();
    const timer = timers.pop();
    assert.equal(timer.delay, delay);
    timer.work();
    const error = await outcome;
    assert.equal(error.constructor, Type);
    assert.equal((error.cause ?? error).code, "timeout");
  }
  assert.ok(calls.every(({ signal }) => signal.aborted));
});

test("a token that never comes does not hold a call for ever", async () => {
  const { fetch } = fakeFetch();
  const client = clientOf(fetch, { getToken: () => new Promise(() => {}), timeout: 1 });
  const error = await failure(client.use(DEBIT));
  assert.equal(error.constructor, RequestTimeoutError);
  assert.equal(error.unsure, false);
});

test("a pause that is longer than the call may last is not begun", async (context) => {
  const delays = quickTimers(context, 1000);
  const { fetch, calls } = fakeFetch(busy(60));
  const error = await failure(clientOf(fetch).balance());
  assert.deepEqual([error.constructor, error.retryAfter], [UnavailableError, 60]);
  assert.equal(calls.length, 1);
  assert.deepEqual(delays, []);
});

test("the caller's signal ends a call, with its reason, wherever it stands", async () => {
  const reason = new Error("The page was left");
  const before = AbortSignal.abort(reason);
  const { fetch, calls } = fakeFetch(hanging, broken);
  const client = clientOf(fetch);
  assert.equal(await failure(client.balance({ signal: before })), reason);
  assert.equal(calls.length, 0);

  const during = new AbortController();
  const hung = failure(client.use(DEBIT, { signal: during.signal }));
  await settled();
  during.abort(reason);
  assert.equal(await hung, reason);
  assert.equal(calls.length, 1);

  const between = new AbortController();
  const paused = failure(client.balance({ signal: between.signal }));
  await settled();
  between.abort(reason);
  assert.equal(await paused, reason);
  assert.equal(calls.length, 2);
});
