// Each method makes its call, and what the clients add to that.

import assert from "node:assert/strict";
import { test } from "node:test";

import { createAdminClient } from "../../../service/web/client/admin-client.js";
import {
  InvalidRequestError,
  SyncStateError,
  createCreditsClient,
} from "../../../service/web/client/credits-client.js";
import { ADMIN_CALLS, USER_CALLS } from "./calls.js";
import { answer, broken, failure, fakeFetch, quickTimers, refusal } from "./support.js";

const BASE = "https://credits.example.org";

function make(create, ...answers) {
  const { fetch, calls } = fakeFetch(...answers);
  return { client: create({ baseUrl: BASE, getToken: () => "token", fetch }), calls };
}

for (const [create, table] of [
  [createCreditsClient, USER_CALLS],
  [createAdminClient, ADMIN_CALLS],
]) {
  for (const [name, invoke, method, path, sent = {}] of table) {
    test(`${create.name}: ${name}`, async () => {
      const said = [{ some: "answer" }];
      const { client, calls } = make(create, answer(200, said));
      const result = await invoke(client);
      const [call] = calls;
      assert.deepEqual(result.items ?? result, said);
      assert.equal(`${call.method} ${call.url}`, `${method} ${BASE}/api/v1${path}`);
      assert.equal(call.token, sent.anonymous ? null : "Bearer token");
      assert.equal(Boolean(call.key), Boolean(sent.moves));
      if (call.body !== undefined) delete call.body.idempotencyKey;
      assert.deepEqual(call.body, sent.body);
    });
  }
}

function methodsOf(object, before = "") {
  return Object.entries(object).flatMap(([name, value]) =>
    typeof value === "function" ? [before + name] : methodsOf(value, `${before}${name}.`),
  );
}

test("the tables leave no method out", () => {
  for (const [create, table] of [
    [createCreditsClient, USER_CALLS],
    [createAdminClient, ADMIN_CALLS],
  ]) {
    const called = new Set(table.map(([name]) => name.split(" ")[0]));
    const methods = methodsOf(make(create).client).filter((name) => !name.includes("each"));
    assert.deepEqual([...called].sort(), methods.sort());
  }
});

test("what is no id makes no call: it would be another route's", async () => {
  const { client, calls } = make(createCreditsClient);
  for (const id of ["", ".", "..", "\ud800"]) {
    assert.equal((await failure(client.gifts.get(id))).constructor, InvalidRequestError);
    assert.equal((await failure(client.gifts.cancel(id))).constructor, InvalidRequestError);
    assert.equal((await failure(client.purchase(id))).constructor, InvalidRequestError);
  }
  assert.equal(calls.length, 0);
});

function linked(items, link) {
  return answer(200, items, link === undefined ? {} : { Link: link });
}

const NEXT = '<https://evil.example/api/v1/credits/transactions?limit=2&before=41>; rel="next"';

test("a page follows the cursor, keeps its filters, and goes to the service alone", async () => {
  const { client, calls } = make(
    createCreditsClient,
    linked([{ id: 4 }, { id: 3 }], NEXT),
    linked([{ id: 2 }]),
  );
  const first = await client.transactions({ limit: 2, offset: 1, type: "usage" });
  assert.equal(first.cursor, "41");
  const second = await first.next();
  assert.deepEqual(second.items, [{ id: 2 }]);
  assert.equal(second.cursor, null);
  assert.equal(await second.next(), null);
  const list = `${BASE}/api/v1/credits/transactions`;
  assert.deepEqual(
    calls.map(({ url }) => url),
    [`${list}?limit=2&offset=1&type=usage`, `${list}?limit=2&type=usage&before=41`],
  );
});

test("another relation than next is no next page", async () => {
  const { client } = make(createCreditsClient, linked([], "</x?before=1>; rel=prev"));
  assert.equal((await client.transactions()).cursor, null);
});

test("the iterator fetches no page before it is wanted", async () => {
  const pages = [linked([1, 2], NEXT), linked([3], NEXT), linked([4])];
  const { client, calls } = make(createCreditsClient, ...pages);
  const seen = [];
  for await (const item of client.eachTransaction({ limit: 2 })) {
    seen.push(item);
    if (item === 3) break;
  }
  assert.deepEqual(seen, [1, 2, 3]);
  assert.equal(calls.length, 2);

  const admin = make(createAdminClient, ...pages);
  const all = [];
  for await (const item of admin.client.users.eachTransaction("ann")) all.push(item);
  assert.deepEqual(all, [1, 2, 3, 4]);
});

test("turning sync off counts as done where only the answer was lost", async (context) => {
  quickTimers(context);
  const off = refusal(400, "sync_not_active");
  const { client } = make(createCreditsClient, broken, off, off);
  assert.deepEqual(await client.sync.deactivate(), { success: true });
  assert.equal((await failure(client.sync.deactivate())).constructor, SyncStateError);
});

test("a deactivation that is refused for another reason is not done", async (context) => {
  quickTimers(context);
  const { client } = make(createCreditsClient, broken, refusal(400, "sync_gifted"));
  assert.equal((await failure(client.sync.deactivate())).code, "sync_gifted");
});

test("revoking a gift counts as done where only the answer was lost", async (context) => {
  quickTimers(context);
  const off = refusal(400, "sync_not_gifted");
  const { client } = make(createAdminClient, broken, off, off);
  const done = { success: true, userId: "ann", gifted: false, active: false };
  assert.deepEqual(await client.sync.revoke("ann", { reason: "Over" }), done);
  assert.equal(
    (await failure(client.sync.revoke("ann", { reason: "Over" }))).code,
    "sync_not_gifted",
  );
});
