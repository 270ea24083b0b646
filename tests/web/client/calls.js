// Every method of the clients, with the call that it makes.

const ID = "0192f0c1-0000-7000-8000-000000000001";
const URLS = { successUrl: "https://app.example.org/ok", cancelUrl: "https://app.example.org/no" };
const DEBIT = { amount: 5, appId: "chat", description: "One question", metadata: { model: "x" } };
const GIFT = { totalCredits: 20, message: "For you", targetEmail: "bob@example.org" };
const WHY = { reason: "A mistake of ours" };

/**
 * Name, call, method, path behind /api/v1 (with its query), and what is sent: a body, `moves` for
 * an idempotency key, `anonymous` for no token.
 */
export const USER_CALLS = [
  ["balance", (c) => c.balance(), "GET", "/credits/balance"],
  ["use", (c) => c.use(DEBIT), "POST", "/credits/use", { body: DEBIT, moves: true }],
  ["transactions", (c) => c.transactions(), "GET", "/credits/transactions"],
  [
    "transactions of a kind",
    (c) => c.transactions({ limit: 5, before: "42", type: "usage", appId: "a&b" }),
    "GET",
    "/credits/transactions?limit=5&before=42&type=usage&appId=a%26b",
  ],
  [
    "transactions by offset",
    (c) => c.transactions({ offset: 0 }),
    "GET",
    "/credits/transactions?offset=0",
  ],
  ["purchases", (c) => c.purchases(), "GET", "/credits/purchases"],
  [
    "purchases by offset",
    (c) => c.purchases({ limit: 2, offset: 4 }),
    "GET",
    "/credits/purchases?limit=2&offset=4",
  ],
  ["packages", (c) => c.packages(), "GET", "/credits/packages", { anonymous: true }],
  ["pricing", (c) => c.pricing(), "GET", "/credits/pricing", { anonymous: true }],
  ["usage", (c) => c.usage(), "GET", "/credits/usage"],
  ["usage of a week", (c) => c.usage({ days: 7 }), "GET", "/credits/usage?days=7"],
  [
    "beginPurchase",
    (c) => c.beginPurchase({ packageId: ID, ...URLS }),
    "POST",
    "/credits/purchase",
    { body: { packageId: ID }, moves: true },
  ],
  [
    "beginCheckout",
    (c) => c.beginCheckout({ packageId: ID, ...URLS }),
    "POST",
    "/credits/purchase",
    { body: { packageId: ID, ...URLS }, moves: true },
  ],
  ["purchase", (c) => c.purchase(ID), "GET", `/credits/purchase/${ID}`],
  ["sync.status", (c) => c.sync.status(), "GET", "/sync/status"],
  ["sync.activate", (c) => c.sync.activate(), "POST", "/sync/activate", { body: {}, moves: true }],
  [
    "sync.activate for a year",
    (c) => c.sync.activate({ interval: "yearly" }),
    "POST",
    "/sync/activate",
    { body: { interval: "yearly" }, moves: true },
  ],
  ["sync.deactivate", (c) => c.sync.deactivate(), "POST", "/sync/deactivate", { body: {} }],
  [
    "sync.changeInterval",
    (c) => c.sync.changeInterval({ interval: "quarterly" }),
    "POST",
    "/sync/change-interval",
    { body: { interval: "quarterly" } },
  ],
  [
    "gifts.get",
    (c) => c.gifts.get("abcd-efgh 23"),
    "GET",
    "/gifts/abcd-efgh%2023",
    { anonymous: true },
  ],
  ["gifts.create", (c) => c.gifts.create(GIFT), "POST", "/gifts", { body: GIFT, moves: true }],
  ["gifts.created", (c) => c.gifts.created({ limit: 3 }), "GET", "/gifts/me/created?limit=3"],
  ["gifts.received", (c) => c.gifts.received(), "GET", "/gifts/me/received"],
  [
    "gifts.redeem",
    (c) => c.gifts.redeem("a/b?c#d"),
    "POST",
    "/gifts/a%2Fb%3Fc%23d/redeem",
    { body: {}, moves: true },
  ],
  [
    "gifts.redeem in an app",
    (c) => c.gifts.redeem("ABCD", { sourceAppId: "chat" }),
    "POST",
    "/gifts/ABCD/redeem",
    { body: { sourceAppId: "chat" }, moves: true },
  ],
  ["gifts.cancel", (c) => c.gifts.cancel(ID), "DELETE", `/gifts/${ID}`, { moves: true }],
];

export const ADMIN_CALLS = [
  ["users.find", (c) => c.users.find("ann@"), "GET", "/admin/users?query=ann%40"],
  ["users.get", (c) => c.users.get("auth0|5f"), "GET", "/admin/users/auth0%7C5f"],
  [
    "users.transactions",
    (c) => c.users.transactions("ann", { type: "usage" }),
    "GET",
    "/admin/users/ann/transactions?type=usage",
  ],
  ["users.purchases", (c) => c.users.purchases("ann"), "GET", "/admin/users/ann/purchases"],
  ["users.gifts", (c) => c.users.gifts("ann"), "GET", "/admin/users/ann/gifts"],
  ["users.actions", (c) => c.users.actions("ann"), "GET", "/admin/users/ann/actions"],
  [
    "users.grant",
    (c) => c.users.grant("ann", { amount: 10, ...WHY }),
    "POST",
    "/admin/users/ann/grant",
    { body: { amount: 10, ...WHY }, moves: true },
  ],
  [
    "users.refund",
    (c) => c.users.refund("ann", { transactionId: ID, ...WHY }),
    "POST",
    "/admin/users/ann/refund",
    { body: { transactionId: ID, ...WHY }, moves: true },
  ],
  ["users.exportAll", (c) => c.users.exportAll("ann"), "GET", "/admin/users/ann/export"],
  ["users.erase", (c) => c.users.erase("ann"), "DELETE", "/admin/users/ann"],
  ["sync.status", (c) => c.sync.status("ann"), "GET", "/admin/sync/ann"],
  ["sync.gift", (c) => c.sync.gift("ann", WHY), "POST", "/admin/sync/ann/gift", { body: WHY }],
  [
    "sync.revoke",
    (c) => c.sync.revoke("ann", WHY),
    "DELETE",
    "/admin/sync/ann/gift",
    { body: WHY },
  ],
  ["overview", (c) => c.overview({ days: 7 }), "GET", "/admin/overview?days=7"],
  [
    "stripeEvents.list",
    (c) => c.stripeEvents.list({ state: "failed" }),
    "GET",
    "/admin/stripe-events?state=failed",
  ],
  [
    "stripeEvents.replay",
    (c) => c.stripeEvents.replay("evt_1"),
    "POST",
    "/admin/stripe-events/evt_1/replay",
    { body: {} },
  ],
  ["notices.retry all", (c) => c.notices.retry(), "POST", "/admin/notices/retry", { body: {} }],
  [
    "users.find more",
    (c) => c.users.find("a", { limit: 50 }),
    "GET",
    "/admin/users?query=a&limit=50",
  ],
  ["notices.list", (c) => c.notices.list(), "GET", "/admin/notices"],
  [
    "notices.retry",
    (c) => c.notices.retry([ID]),
    "POST",
    "/admin/notices/retry",
    { body: { ids: [ID] } },
  ],
];
