// The store: what it shows, and what happens when calls meet.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  InsufficientCreditsError,
  NetworkError,
  OutcomeUnknownError,
  SyncStateError,
} from "../../../service/web/client/errors.js";
import { createSyncBilling } from "../../../service/web/client/sync-billing.js";
import { deferred, failure, settled } from "./support.js";

const OFF = {
  active: false,
  interval: "monthly",
  nextChargeAt: null,
  pausedAt: null,
  paused: false,
  gifted: false,
  price: 30,
  paidUntil: null,
};
const ON = { ...OFF, active: true, nextChargeAt: "2026-06-18T00:09:41.123Z" };
const ACTIVATED = {
  success: true,
  active: true,
  interval: "monthly",
  nextChargeAt: ON.nextChargeAt,
  amountCharged: 30,
};
const NEXT_YEAR = { success: true, interval: "yearly", amountCharged: 360, effectiveAt: "x" };

/** A client whose calls are answered by hand, in any order. */
function handClient() {
  const calls = [];
  const call = (name) => (body) => {
    const made = { name, body, ...deferred() };
    calls.push(made);
    return made.promise;
  };
  const sync = {
    status: call("status"),
    activate: call("activate"),
    deactivate: call("deactivate"),
    changeInterval: call("changeInterval"),
  };
  const names = () => calls.map(({ name }) => name);
  return { sync, calls, names };
}

/** Answer the last call. */
async function give(client, value) {
  const call = client.calls.at(-1);
  if (value instanceof Error) call.reject(value);
  else call.resolve(value);
  await settled();
}

const poor = () => new InsufficientCreditsError({ code: "insufficient_credits", status: 402 });
const offline = () => new NetworkError({ code: "network_error" });

test("a subscriber is called at once and after each change, until it unsubscribes", async () => {
  const client = handClient();
  const billing = createSyncBilling(client);
  const seen = [];
  const unsubscribe = billing.subscribe((state) => seen.push(state));
  assert.equal(seen.length, 1);
  assert.deepEqual(
    [seen[0].active, seen[0].loaded, seen[0].loading, seen[0].price],
    [false, false, false, null],
  );
  const loading = billing.load();
  assert.equal(seen.at(-1).loading, true);
  assert.equal(billing.loading, true);
  await settled();
  await give(client, ON);
  const state = await loading;
  assert.deepEqual(state, { ...ON, loading: false, loaded: true, error: null });
  assert.equal(seen.at(-1), billing.state);
  const { active, interval, nextChargeAt, paused } = billing;
  assert.deepEqual(
    { active, interval, nextChargeAt, paused },
    { active: true, interval: "monthly", nextChargeAt: ON.nextChargeAt, paused: false },
  );
  unsubscribe();
  const before = seen.length;
  billing.load().catch(() => {});
  assert.equal(seen.length, before);
  assert.ok(Object.isFrozen(state));
});

test("one function may subscribe twice, and unsubscribes once", () => {
  const billing = createSyncBilling(handClient());
  let called = 0;
  const subscriber = () => (called += 1);
  billing.subscribe(subscriber);
  const unsubscribe = billing.subscribe(subscriber);
  unsubscribe();
  called = 0;
  billing.load();
  assert.equal(called, 1);
});

test("loads that meet are one call", async () => {
  const client = handClient();
  const billing = createSyncBilling(client);
  const one = billing.load();
  assert.equal(billing.load(), one);
  await settled();
  await give(client, OFF);
  assert.deepEqual(client.names(), ["status"]);
  assert.notEqual(billing.load(), one);
});

test("a subscriber may load, and that is the same load", async () => {
  const client = handClient();
  const billing = createSyncBilling(client);
  billing.subscribe(({ loading }) => {
    if (loading) billing.load();
  });
  billing.load();
  await settled();
  assert.deepEqual(client.names(), ["status"]);
});

test("a double click activates once", async () => {
  const client = handClient();
  const billing = createSyncBilling(client);
  const one = billing.activate("monthly");
  assert.equal(billing.activate("monthly"), one);
  await settled();
  assert.equal(billing.activate(), one);
  await give(client, ACTIVATED);
  assert.equal(billing.active, true);
  assert.equal(billing.loading, true);
  await give(client, ON);
  assert.deepEqual(await one, ACTIVATED);
  assert.equal(billing.loading, false);
  assert.deepEqual(client.names(), ["activate", "status"]);
  assert.deepEqual(client.calls[0].body, { interval: "monthly" });
});

test("a subscriber that calls back is one of the callers", async () => {
  const client = handClient();
  const billing = createSyncBilling(client);
  const calls = new Set();
  billing.subscribe(({ loading }) => {
    if (loading) calls.add(billing.activate("yearly"));
  });
  calls.add(billing.activate("yearly"));
  await settled();
  assert.equal(calls.size, 1);
  assert.deepEqual(client.names(), ["activate"]);
});

test("changes are made in the order of the clicks: the last one wins", async () => {
  const client = handClient();
  const billing = createSyncBilling(client);
  const all = [billing.activate(), billing.deactivate(), billing.activate("yearly")];
  await settled();
  assert.deepEqual(client.names(), ["activate"]);
  await give(client, ACTIVATED);
  await give(client, ON);
  assert.deepEqual(client.names(), ["activate", "status", "deactivate"]);
  await give(client, { success: true });
  assert.equal(billing.active, false);
  assert.equal(billing.nextChargeAt, null);
  await give(client, OFF);
  await give(client, { ...ACTIVATED, interval: "yearly" });
  await give(client, { ...ON, interval: "yearly", price: 360 });
  await Promise.all(all);
  assert.deepEqual([billing.active, billing.interval, billing.state.price], [true, "yearly", 360]);
  assert.equal(billing.loading, false);
});

test("a change goes on when the one before it failed", async () => {
  const client = handClient();
  const billing = createSyncBilling(client);
  const first = failure(billing.activate());
  const second = billing.changeInterval("yearly");
  await settled();
  await give(client, poor());
  assert.equal((await first).code, "insufficient_credits");
  await give(client, NEXT_YEAR);
  await give(client, { ...ON, interval: "yearly", price: 360 });
  assert.deepEqual(await second, NEXT_YEAR);
});

test("an answer that a change has overtaken is not shown", async () => {
  const client = handClient();
  const billing = createSyncBilling(client);
  const loading = billing.load();
  await settled();
  const [read] = client.calls;
  const activating = billing.activate();
  await settled();
  await give(client, ACTIVATED);
  assert.equal(billing.active, true);
  read.resolve(OFF);
  await settled();
  assert.equal(billing.active, true);
  await give(client, ON);
  await activating;
  assert.deepEqual(client.names(), ["status", "activate", "status", "status"]);
  await give(client, ON);
  assert.equal((await loading).active, true);
});

test("a load that meets an overtaken one waits for what comes instead", async () => {
  const client = handClient();
  const billing = createSyncBilling(client);
  const first = billing.load();
  await settled();
  const overtaken = client.calls.at(-1);
  const activating = billing.activate();
  await settled();
  await give(client, ACTIVATED);
  await give(client, ON);
  await activating;
  const second = billing.load();
  overtaken.resolve(OFF);
  await settled();
  await give(client, { ...ON, interval: "quarterly" });
  assert.equal((await first).interval, "quarterly");
  assert.equal((await second).interval, "quarterly");
  assert.deepEqual(client.names(), ["status", "activate", "status", "status"]);
});

test("after a change the rest is asked for, and it stands if that fails", async () => {
  const client = handClient();
  const billing = createSyncBilling(client);
  const done = billing.changeInterval("yearly");
  await settled();
  await give(client, NEXT_YEAR);
  await give(client, offline());
  await done;
  assert.deepEqual(
    [billing.interval, billing.state.price, billing.state.error],
    ["yearly", 360, null],
  );
});

test("an error is thrown and kept, and the state stays", async () => {
  const client = handClient();
  const billing = createSyncBilling(client);
  billing.load();
  await settled();
  await give(client, { ...OFF, paused: true, pausedAt: "2026-05-18T00:09:41.123Z" });
  const before = billing.state;
  const error = poor();
  const failed = failure(billing.activate());
  await settled();
  await give(client, error);
  assert.equal(await failed, error);
  assert.deepEqual(billing.state, { ...before, error });
  const loading = failure(billing.load());
  assert.equal(billing.state.error, null);
  await settled();
  const second = offline();
  await give(client, second);
  assert.equal(await loading, second);
  assert.deepEqual(billing.state, { ...before, error: second });
  assert.deepEqual(client.names(), ["status", "activate", "status"]);
});

for (const error of [
  new SyncStateError({ code: "sync_already_active", status: 400 }),
  new OutcomeUnknownError({ code: "outcome_unknown" }),
]) {
  test(`after ${error.code} the store looks how things stand`, async () => {
    const client = handClient();
    const billing = createSyncBilling(client);
    const failed = failure(billing.activate());
    await settled();
    await give(client, error);
    assert.deepEqual(client.names(), ["activate", "status"]);
    await give(client, ON);
    assert.equal(await failed, error);
    assert.deepEqual([billing.active, billing.state.error], [true, error]);
  });
}

test("who unsubscribes while a change is told is not told of it", () => {
  const billing = createSyncBilling(handClient());
  let unsubscribe = () => {};
  let called = 0;
  billing.subscribe(() => unsubscribe());
  unsubscribe = billing.subscribe(() => (called += 1));
  billing.load();
  assert.equal(called, 1);
});

test("a subscriber that throws keeps no other from the state", async (context) => {
  const thrown = [];
  context.mock.method(globalThis, "queueMicrotask", (work) => {
    try {
      work();
    } catch (error) {
      thrown.push(error.message);
    }
  });
  const billing = createSyncBilling(handClient());
  let loading = false;
  let faulty = false;
  billing.subscribe(() => {
    if (faulty) throw new Error("a subscriber's own");
  });
  billing.subscribe((state) => ({ loading } = state));
  faulty = true;
  billing.load();
  assert.equal(loading, true);
  assert.deepEqual(thrown, ["a subscriber's own"]);
});
