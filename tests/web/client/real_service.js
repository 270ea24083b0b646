// The clients against a service that runs; tests/web/test_client_modules.py says where.

import assert from "node:assert/strict";

import {
  InsufficientCreditsError,
  InvalidRequestError,
  NotFoundError,
  SyncStateError,
  UnauthorizedError,
  createCreditsClient,
} from "../../../service/web/client/credits-client.js";
import { createAdminClient } from "../../../service/web/client/admin-client.js";
import { createSyncBilling } from "../../../service/web/client/sync-billing.js";
import { createUnifiedSync } from "../../../service/web/client/unified-sync.js";
import { failure } from "./support.js";

const { MANA_URL: baseUrl = "", ANN = "", BOB = "", ADMIN = "" } = process.env;
const client = createCreditsClient({ baseUrl, getToken: () => ANN });
const bob = createCreditsClient({ baseUrl, getToken: async () => BOB });
const DEBIT = { appId: "chat", description: "Frage über Äpfel 🍏" };

const steps = {
  async "a balance"() {
    assert.deepEqual(await client.balance(), {
      balance: 2000,
      totalEarned: 2000,
      totalSpent: 0,
      reserved: 0,
      transactionsCount: 1,
    });
  },

  async "a debit, and the same again"() {
    const debit = { amount: 5, ...DEBIT, metadata: { model: "x" } };
    const first = await client.use(debit, { idempotencyKey: "ключ-1" });
    const again = await client.use(debit, { idempotencyKey: "ключ-1" });
    assert.equal(first.transaction.amount, -5);
    assert.equal(first.transaction.description, DEBIT.description);
    assert.equal(first.transaction.idempotencyKey, "ключ-1");
    assert.equal(again.transaction.id, first.transaction.id);
    assert.equal(first.message, undefined);
    assert.equal(again.message, "Transaction already processed");
    assert.equal(again.newBalance.balance, 1995);
  },

  async "a debit whose answers are lost moves once"() {
    let lost = 0;
    const losing = createCreditsClient({
      baseUrl,
      getToken: () => ANN,
      retry: { minDelay: 1 },
      async fetch(...call) {
        const answer = await fetch(...call);
        assert.equal(answer.status, 200);
        if (lost === 2) return answer;
        lost += 1;
        throw new TypeError("The answer was lost");
      },
    });
    const moved = await losing.use({ amount: 5, ...DEBIT });
    assert.equal(lost, 2);
    assert.equal(moved.newBalance.balance, 1990);
    assert.equal(moved.message, "Transaction already processed");
  },

  async refusals() {
    const poor = await failure(client.use({ amount: 100_000, ...DEBIT }));
    assert.ok(poor instanceof InsufficientCreditsError);
    assert.deepEqual([poor.required, poor.available], [100_000, 1990]);
    assert.ok(poor.requestId);

    const wrong = await failure(client.use({ amount: 1.5, ...DEBIT, appId: "" }));
    assert.ok(wrong instanceof InvalidRequestError);
    assert.deepEqual(
      wrong.fields.map(({ field }) => field),
      ["amount", "appId"],
    );

    assert.ok((await failure(client.purchase("none"))) instanceof NotFoundError);
    const admin = createAdminClient({ baseUrl, getToken: () => ANN });
    assert.equal((await failure(admin.sync.status("bob"))).code, "forbidden");
  },

  async purchases() {
    const packageId = (await client.packages())[0].id;
    const begun = await client.beginPurchase({ packageId });
    assert.match(begun.clientSecret, /_secret_/);
    assert.equal((await client.purchase(begun.purchaseId)).status, "pending");
    const urls = { successUrl: `${baseUrl}/purchases/{purchaseId}`, cancelUrl: `${baseUrl}/` };
    const checkout = await client.beginCheckout({ packageId, ...urls });
    assert.ok(new URL(checkout.checkoutUrl));
    assert.deepEqual(
      (await client.purchases()).map(({ id }) => id),
      [checkout.purchaseId, begun.purchaseId],
    );
  },

  async "a token that has expired is exchanged for a fresh one"() {
    const told = [];
    const options = { baseUrl, onUnauthorized: (error) => told.push(error) };
    const renewing = createCreditsClient({
      ...options,
      getToken: (wanted) => (wanted?.fresh ? ANN : "expired"),
    });
    assert.equal((await renewing.balance()).balance, 1990);
    const never = createCreditsClient({ ...options, getToken: () => "expired" });
    assert.ok((await failure(never.balance())) instanceof UnauthorizedError);
    assert.equal(told.length, 1);
  },

  async "over 120 rows by cursor"() {
    const debits = Array.from({ length: 120 }, (_row, number) => number);
    await Promise.all(
      debits.map((number) => client.use({ amount: 1, ...DEBIT, description: `No. ${number}` })),
    );
    const first = await client.transactions({ limit: 50 });
    const second = await first.next();
    const third = await second.next();
    assert.deepEqual(
      [first, second, third].map(({ items }) => items.length),
      [50, 50, 23],
    );
    assert.equal(await third.next(), null);

    const all = [];
    for await (const row of client.eachTransaction({ limit: 7 })) all.push(row);
    assert.equal(new Set(all.map(({ id }) => id)).size, 123);
    all.slice(1).forEach((row, at) => assert.equal(row.balanceAfter, all[at].balanceBefore));
    const used = [];
    for await (const row of client.eachTransaction({ type: "usage", limit: 100 })) used.push(row);
    assert.equal(used.length, 122);
    const [today] = await client.usage({ days: 2 });
    assert.deepEqual([today.appId, today.creditsUsed, today.operations], ["chat", 130, 122]);
  },

  async "a gift is made, seen, redeemed twice, and another one cancelled"() {
    const gift = await client.gifts.create({ totalCredits: 50, message: "For you" });
    const anybody = createCreditsClient({ baseUrl });
    const seen = await anybody.gifts.get(`${gift.code.slice(0, 4)}-${gift.code.slice(4)}`);
    assert.deepEqual([seen.code, seen.totalCredits, seen.redeemed], [gift.code, 50, false]);

    const got = await bob.gifts.redeem(gift.code.toLowerCase(), { sourceAppId: "chat" });
    assert.deepEqual([got.creditsReceived, got.newBalance, got.message], [50, 50, "For you"]);
    const again = await bob.gifts.redeem(gift.code);
    assert.deepEqual([again.creditsReceived, again.newBalance], [50, 50]);
    assert.equal((await failure(client.gifts.redeem(gift.code))).code, "gift_not_active");
    assert.ok((await failure(bob.gifts.redeem("NONE"))) instanceof NotFoundError);

    const other = await client.gifts.create({ totalCredits: 20, expirationDays: 3 });
    assert.equal((await client.gifts.cancel(other.id)).refundedCredits, 20);
    assert.equal((await client.gifts.cancel(other.id)).refundedCredits, 20);
    assert.equal((await failure(client.gifts.cancel(gift.id))).code, "gift_not_active");
    const made = await client.gifts.created({ limit: 5 });
    assert.deepEqual(
      made.map(({ status }) => status),
      ["cancelled", "depleted"],
    );
    assert.equal((await bob.gifts.received())[0]?.code, gift.code);
  },

  async "sync by the store, and the engine that follows it"() {
    const log = [];
    const engine = { start: () => log.push("start"), stop: () => log.push("stop") };
    const billing = createSyncBilling(client);
    const unified = createUnifiedSync("https://sync.example.org", () => ANN, billing, engine);
    await unified.start();
    await billing.load();
    assert.deepEqual([billing.active, billing.state.price], [false, 30]);
    const [one, other] = await Promise.all([billing.activate(), billing.activate()]);
    assert.equal(one, other);
    assert.equal(one.amountCharged, 30);
    assert.equal(billing.nextChargeAt, one.nextChargeAt);
    assert.equal(billing.state.paidUntil, one.nextChargeAt);
    await unified.check();
    assert.deepEqual(log, ["start"]);

    assert.ok((await failure(billing.activate())) instanceof SyncStateError);
    assert.equal(billing.active, true);
    await billing.changeInterval("yearly");
    assert.deepEqual([billing.interval, billing.state.price], ["yearly", 360]);
    await billing.deactivate();
    assert.equal(billing.active, false);
    await unified.check();
    assert.deepEqual(log, ["start", "stop"]);
    assert.equal((await failure(client.sync.deactivate())).code, "sync_not_active");
  },

  async "an administrator gives sync away and takes it back"() {
    const admin = createAdminClient({ baseUrl, getToken: () => ADMIN });
    const why = { reason: "A present" };
    assert.equal((await admin.sync.gift("bob", why)).gifted, true);
    assert.equal((await admin.sync.status("bob")).active, true);
    assert.equal((await bob.sync.status()).gifted, true);
    assert.equal((await admin.sync.revoke("bob", why)).active, false);
    assert.equal((await failure(admin.sync.revoke("bob", why))).code, "sync_not_gifted");
  },

  async "what needs no token"() {
    const anybody = createCreditsClient({ baseUrl });
    assert.equal((await anybody.packages())[0].credits, 500);
    assert.equal((await anybody.pricing()).sync.yearly, 360);
  },

  async "the sum of it"() {
    assert.equal((await client.balance()).balance, 2000 - 5 - 5 - 120 - 50 - 30);
  },
};

for (const [name, step] of Object.entries(steps)) {
  try {
    await step();
  } catch (error) {
    console.error(`In "${name}":`, error);
    process.exit(1);
  }
}
