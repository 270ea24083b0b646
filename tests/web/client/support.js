// A service that answers as it is told, and times that pass at once.

import assert from "node:assert/strict";
import { webcrypto } from "node:crypto";

// Debian's node has no global one yet, which every browser has.
globalThis.crypto ??= webcrypto;

/** An answer of the service's. */
export function answer(status, body, headers = {}) {
  return () => new Response(JSON.stringify(body), { status, headers });
}

/** An answer that is not a success, in the one envelope. */
export function refusal(status, error, details, headers) {
  return answer(status, { statusCode: status, error, message: `It is ${error}`, details }, headers);
}

/** No answer: the connection breaks. */
export function broken() {
  throw new TypeError("fetch failed");
}

/** No answer, ever: only the signal ends it. */
export function hanging(call) {
  return new Promise((_resolve, reject) => {
    call.signal.addEventListener("abort", () => reject(call.signal.reason));
  });
}

/** A promise that others settle. */
export function deferred() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
}

/**
 * A `fetch` that gives one answer after the other, and writes down what it was asked. What is
 * asked beyond the last answer fails the test.
 */
export function fakeFetch(...answers) {
  const calls = [];
  const fetch = async (url, { method, headers, body, signal, ...more }) => {
    const call = { url, method, headers: new Headers(headers), signal, more };
    call.body = body === undefined ? undefined : JSON.parse(body);
    call.key = call.body?.idempotencyKey ?? call.headers.get("Idempotency-Key");
    call.token = call.headers.get("Authorization");
    calls.push(call);
    const next = answers.shift();
    if (next === undefined) throw new RangeError(`One call too many: ${method} ${url}`);
    return next(call);
  };
  return { fetch, calls };
}

/**
 * Let timers go off at once, in the order of their time, and write down how long they were. Those
 * of `keep` milliseconds never go off.
 */
export function quickTimers(context, keep = 30_000) {
  const delays = [];
  const setTimer = globalThis.setTimeout;
  context.mock.method(globalThis, "setTimeout", (work, delay) => {
    if (delay >= keep) return undefined;
    delays.push(delay);
    return setTimer(work, 0);
  });
  return delays;
}

/** Let everything happen that waits for nothing outside. */
export function settled() {
  return new Promise((resolve) => setImmediate(resolve));
}

/** What a call throws, which must throw. */
export function failure(promise) {
  return promise.then(
    () => assert.fail("it should have failed"),
    (error) => error,
  );
}
