// The engine runs while sync is on, and at no other time, however events meet.

import assert from "node:assert/strict";
import { test } from "node:test";

import { createSyncBilling } from "../../../service/web/client/sync-billing.js";
import { createUnifiedSync } from "../../../service/web/client/unified-sync.js";
import { deferred, settled } from "./support.js";

const SERVER = "https://sync.example.org";
const getToken = async () => "token";

/** A store that is set by hand. */
function handStore(value) {
  const subscribers = new Set();
  const store = {
    loads: 0,
    onLoad: () => {},
    set(next) {
      value = next;
      for (const subscriber of [...subscribers]) subscriber(value);
    },
    subscribe(subscriber) {
      subscribers.add(subscriber);
      subscriber(value);
      return () => subscribers.delete(subscriber);
    },
    async load() {
      store.loads += 1;
      await store.onLoad();
    },
    subscribers,
  };
  return store;
}

/** An engine that writes down what it is told, and must be told in turn. */
function handEngine() {
  const engine = {
    log: [],
    runs: [],
    starting: async () => {},
    stopping: async () => {},
    running: false,
    async start(run) {
      assert.equal(engine.running, false, "started twice");
      engine.running = true;
      engine.log.push("start");
      engine.runs.push(run);
      await engine.starting(run);
    },
    async stop() {
      assert.equal(engine.running, true, "stopped twice");
      await engine.stopping();
      engine.running = false;
      engine.log.push("stop");
    },
    refuse: () => engine.runs.at(-1).onPaymentRequired(),
  };
  return engine;
}

/** Timers that go off by hand. */
function handTimers(context) {
  const waiting = new Map();
  let number = 0;
  context.mock.method(globalThis, "setTimeout", (work, delay) => {
    waiting.set(++number, { work, delay });
    return number;
  });
  context.mock.method(globalThis, "clearTimeout", (id) => waiting.delete(id));
  return {
    get delays() {
      return [...waiting.values()].map(({ delay }) => delay);
    },
    fire() {
      const [[id, { work }]] = waiting;
      waiting.delete(id);
      work();
      return settled();
    },
  };
}

function make(value = { active: false }, options = undefined) {
  const store = handStore(value);
  const engine = handEngine();
  return { store, engine, unified: createUnifiedSync(SERVER, getToken, store, engine, options) };
}

test("local only: nothing happens at all", async () => {
  const { store, engine, unified } = make();
  assert.equal(store.subscribers.size, 0);
  await unified.start();
  store.set({ active: false, paused: true });
  store.set({ active: true, paused: true });
  await settled();
  assert.deepEqual(engine.log, []);
  assert.equal(store.loads, 0);
  assert.deepEqual(unified.state, { status: "local", error: null });
  await unified.stop();
  assert.deepEqual(engine.log, []);
});

test("it follows the store, and gives the engine what it needs", async () => {
  const { store, engine, unified } = make({ active: true });
  await unified.start();
  await unified.start();
  const [run] = engine.runs;
  assert.equal(run.serverUrl, SERVER);
  assert.equal(run.getToken, getToken);
  assert.equal(run.signal.aborted, false);
  assert.equal(unified.state.status, "running");
  store.set({ active: true });
  await settled();
  assert.deepEqual(engine.log, ["start"]);
  store.set({ active: false });
  assert.equal(run.signal.aborted, true);
  await settled();
  assert.equal(unified.state.status, "local");
  store.set({ active: true });
  await settled();
  assert.deepEqual(engine.log, ["start", "stop", "start"]);
  await unified.stop();
  assert.deepEqual(engine.log, ["start", "stop", "start", "stop"]);
  assert.equal(store.subscribers.size, 0);
  store.set({ active: true });
  await settled();
  assert.equal(engine.log.length, 4);
});

test("its own state can be followed", async () => {
  const { engine, unified } = make({ active: true });
  const seen = [];
  unified.subscribe(({ status }) => seen.push(status));
  await unified.start();
  await unified.stop();
  assert.deepEqual(seen, ["local", "starting", "running", "stopping", "local"]);
  assert.deepEqual(engine.log, ["start", "stop"]);
});

test("stopped during a start: the start ends first, and nothing runs after it", async () => {
  const { engine, unified } = make({ active: true });
  const start = deferred();
  engine.starting = () => start.promise;
  void unified.start();
  await settled();
  const stopped = unified.stop();
  assert.equal(engine.runs[0].signal.aborted, true);
  await settled();
  assert.deepEqual(engine.log, ["start"]);
  start.resolve();
  await stopped;
  assert.deepEqual(engine.log, ["start", "stop"]);
});

test("off and on during a start, or during a stop: a run that was ended is not gone on with", async () => {
  const { store, engine, unified } = make({ active: true });
  const start = deferred();
  engine.starting = () => start.promise;
  void unified.start();
  await settled();
  store.set({ active: false });
  store.set({ active: true });
  start.reject(new DOMException("ended", "AbortError"));
  engine.starting = async () => {};
  await settled();
  assert.deepEqual(engine.log, ["start", "stop", "start"]);
  assert.deepEqual(unified.state, { status: "running", error: null });

  const stop = deferred();
  engine.stopping = () => stop.promise;
  store.set({ active: false });
  await settled();
  store.set({ active: true });
  store.set({ active: false });
  store.set({ active: true });
  stop.resolve();
  await settled();
  assert.deepEqual(engine.log, ["start", "stop", "start", "stop", "start"]);
});

test("a 402 stops the engine, then reloads the store; activation starts it again", async (context) => {
  const timers = handTimers(context);
  const { store, engine, unified } = make({ active: true });
  store.onLoad = () => {
    engine.log.push("load");
    store.set({ active: false, paused: true });
  };
  await unified.start();
  engine.refuse();
  assert.equal(engine.runs[0].signal.aborted, true);
  await settled();
  assert.deepEqual(engine.log, ["start", "stop", "load"]);
  assert.equal(unified.state.status, "local");
  assert.deepEqual(timers.delays, []);
  store.set({ active: true, paused: false });
  await settled();
  assert.deepEqual(engine.log, ["start", "stop", "load", "start"]);
});

test("a storm of 402 is one, and those that come late are none", async (context) => {
  handTimers(context);
  const { store, engine, unified } = make({ active: true });
  store.onLoad = () => store.set({ active: false });
  await unified.start();
  for (let times = 0; times < 100; times += 1) engine.refuse();
  await settled();
  assert.equal(store.loads, 1);
  store.set({ active: true });
  await settled();
  engine.runs[0].onPaymentRequired();
  await settled();
  assert.equal(store.loads, 1);
  assert.deepEqual(engine.log, ["start", "stop", "start"]);
  await unified.stop();
  engine.runs[1].onPaymentRequired();
  await settled();
  assert.equal(store.loads, 1);
});

test("where store and sync server disagree, the engine rests, longer each time", async (context) => {
  const timers = handTimers(context);
  const { engine, store, unified } = make({ active: true }, { minHold: 1000, maxHold: 3000 });
  await unified.start();
  const rests = [];
  for (let times = 0; times < 4; times += 1) {
    engine.refuse();
    await settled();
    assert.equal(unified.state.status, "held");
    assert.equal(engine.running, false);
    rests.push(...timers.delays);
    await timers.fire();
    assert.equal(engine.running, true);
  }
  assert.deepEqual(rests, [1000, 2000, 3000, 3000]);
  assert.equal(store.loads, 4);

  engine.refuse();
  await settled();
  store.set({ active: false });
  assert.deepEqual(timers.delays, []);
  store.set({ active: true });
  await settled();
  assert.equal(engine.running, true);
  engine.refuse();
  await settled();
  assert.deepEqual(timers.delays, [1000]);
});

test("after a long run the rest is short again", async (context) => {
  const timers = handTimers(context);
  let now = 0;
  context.mock.method(performance, "now", () => now);
  const { engine, unified } = make({ active: true }, { minHold: 1000, maxHold: 3000 });
  await unified.start();
  engine.refuse();
  await settled();
  await timers.fire();
  now += 3001;
  engine.refuse();
  await settled();
  assert.deepEqual(timers.delays, [1000]);
});

test("stop ends a rest", async (context) => {
  const timers = handTimers(context);
  const { engine, unified } = make({ active: true });
  await unified.start();
  engine.refuse();
  await unified.stop();
  assert.deepEqual(timers.delays, []);
  assert.equal(unified.state.status, "local");
  await unified.start();
  assert.deepEqual(engine.log, ["start", "stop", "start"]);
});

test("a reload that fails is told, and the engine tries again later", async (context) => {
  const timers = handTimers(context);
  const { engine, store, unified } = make({ active: true });
  const error = new Error("offline");
  store.onLoad = () => Promise.reject(error);
  await unified.start();
  engine.refuse();
  await settled();
  assert.deepEqual(unified.state, { status: "held", error });
  await timers.fire();
  assert.deepEqual(unified.state, { status: "running", error: null });
});

test("a start that throws 402 is a 402; one that throws anything else is tried again", async (context) => {
  const timers = handTimers(context);
  const { engine, store, unified } = make({ active: true });
  engine.starting = () => Promise.reject(Object.assign(new Error("pay"), { status: 402 }));
  store.onLoad = () => store.set({ active: false });
  await unified.start();
  await settled();
  assert.deepEqual(engine.log, ["start", "stop"]);
  assert.equal(store.loads, 1);
  assert.deepEqual(timers.delays, []);

  const error = new Error("no disk");
  engine.starting = () => Promise.reject(error);
  store.set({ active: true });
  await settled();
  assert.deepEqual(engine.log, ["start", "stop", "start", "stop"]);
  assert.deepEqual(unified.state, { status: "held", error });
  assert.equal(store.loads, 1);
  engine.starting = async () => {};
  await timers.fire();
  assert.deepEqual(unified.state, { status: "running", error: null });
});

test("an engine that refuses while it starts, or cannot stop, ends all the same", async (context) => {
  handTimers(context);
  const { engine, store, unified } = make({ active: true });
  const error = new Error("stuck");
  store.onLoad = () => store.set({ active: false });
  engine.starting = async (run) => run.onPaymentRequired();
  engine.stopping = async () => {
    engine.running = false;
    throw error;
  };
  await unified.start();
  await settled();
  assert.deepEqual(unified.state, { status: "local", error });
  assert.equal(store.loads, 1);
});

test("a function is asked at the start, on demand and after a rest", async (context) => {
  const timers = handTimers(context);
  const engine = handEngine();
  let on = false;
  const unified = createUnifiedSync(SERVER, getToken, () => on, engine);
  await unified.check();
  await unified.start();
  assert.deepEqual(engine.log, []);
  on = true;
  await unified.check();
  assert.deepEqual(engine.log, ["start"]);
  engine.refuse();
  await settled();
  on = false;
  await timers.fire();
  assert.deepEqual(engine.log, ["start", "stop"]);
  on = true;
  await unified.check();
  assert.deepEqual(engine.log, ["start", "stop", "start"]);
});

test("a function that throws says that sync is off", async () => {
  const engine = handEngine();
  const error = new Error("no settings");
  let ask = () => true;
  const unified = createUnifiedSync(SERVER, getToken, () => ask(), engine);
  await unified.start();
  ask = () => {
    throw error;
  };
  await unified.check();
  assert.deepEqual(engine.log, ["start", "stop"]);
  assert.deepEqual(unified.state, { status: "local", error });
});

test("a store that knows nothing yet says that sync is off", async () => {
  const { store, engine, unified } = make(null);
  await unified.start();
  store.set(undefined);
  await settled();
  assert.deepEqual(engine.log, []);
  store.set({ active: true });
  await settled();
  assert.deepEqual(engine.log, ["start"]);
});

test("a store of plain booleans will do", async () => {
  const store = handStore(true);
  store.load = undefined;
  const engine = handEngine();
  const unified = createUnifiedSync(SERVER, getToken, store, engine);
  await unified.start();
  assert.deepEqual(engine.log, ["start"]);
  engine.refuse();
  await settled();
  store.set(false);
  await settled();
  assert.deepEqual(engine.log, ["start", "stop"]);
  await unified.stop();
});

test("with the billing store: off, activated, refused, topped up, activated again", async (context) => {
  handTimers(context);
  const off = { active: false, interval: "monthly", nextChargeAt: null, price: 30 };
  const base = { ...off, pausedAt: null, paused: false, gifted: false, paidUntil: null };
  let status = base;
  const sync = {
    status: async () => status,
    activate: async () => {
      status = { ...base, active: true, nextChargeAt: "2026-06-18T00:09:41.123Z" };
      return { success: true, ...status, amountCharged: 30 };
    },
  };
  const billing = createSyncBilling({ sync });
  const engine = handEngine();
  const unified = createUnifiedSync(SERVER, getToken, billing, engine);
  await unified.start();
  await billing.load();
  assert.deepEqual(engine.log, []);
  await billing.activate();
  await settled();
  assert.deepEqual(engine.log, ["start"]);
  status = { ...base, paused: true, pausedAt: "2026-06-18T00:09:41.123Z" };
  engine.refuse();
  await settled();
  assert.deepEqual(engine.log, ["start", "stop"]);
  assert.equal(billing.paused, true);
  await billing.activate();
  await settled();
  assert.deepEqual(engine.log, ["start", "stop", "start"]);
});
