// The credits of the user who is signed in, over the REST API.
//
//   const client = createCreditsClient({ baseUrl: "https://credits.example.org", getToken });
//   const { balance } = await client.balance();
//
// What is in the answers, with its units, is in types.js; what can go wrong, in errors.js.

import { SyncStateError } from "./errors.js";
import { createTransport, pathOf } from "./transport.js";

export * from "./errors.js";

/** @import { CallOptions, MoveOptions, TransportOptions } from "./transport.js" */
/**
 * @import {
 *   Balance, Debit, Done, Gift, GiftCancelled, GiftRedeemed, Interval, Moved, NewGift, Package,
 *   PageQuery, Pricing, PublicGift, Purchase, ReceivedGift, StartedCheckout, StartedPurchase,
 *   SyncActivated, SyncIntervalChanged, SyncStatus, Transaction, TransactionQuery, Usage
 * } from "./types.js"
 */

/**
 * A page of a list that goes on.
 *
 * @template T
 * @typedef {object} Page
 * @property {T[]} items
 * @property {string | null} cursor where the next page begins, as `before`; null for the last page
 * @property {(options?: CallOptions) => Promise<Page<T> | null>} next the next page, null after
 *   the last
 */

/** @typedef {ReturnType<typeof createCreditsClient>} CreditsClient */

/**
 * A client for one user. Every method throws a `CreditsError`, or the reason of its signal.
 *
 * @param {TransportOptions} options
 */
export function createCreditsClient(options) {
  const request = createTransport(options);

  /**
   * @template T
   * @param {string} path
   * @param {Readonly<Record<string, string | number | undefined>>} [query]
   * @param {CallOptions} [callOptions]
   * @returns {Promise<T>}
   */
  async function get(path, query, callOptions) {
    return (await request({ method: "GET", path, query }, callOptions)).body;
  }

  /**
   * Of what is the same for everybody.
   *
   * @template T
   * @param {string} path
   * @param {CallOptions} [callOptions]
   * @returns {Promise<T>}
   */
  async function getPublic(path, callOptions) {
    return (await request({ method: "GET", path, anonymous: true }, callOptions)).body;
  }

  /**
   * @template T
   * @param {string} path
   * @param {object} body
   * @param {CallOptions} [callOptions]
   * @returns {Promise<T>}
   */
  async function post(path, body, callOptions) {
    return (await request({ method: "POST", path, body }, callOptions)).body;
  }

  /**
   * @template T
   * @param {"POST" | "DELETE"} method
   * @param {string} path
   * @param {object} [body]
   * @param {MoveOptions} [moveOptions]
   * @returns {Promise<T>}
   */
  async function move(method, path, body, moveOptions) {
    return (await request({ method, path, body, moves: true }, moveOptions)).body;
  }

  /**
   * A page of the history, newest first.
   *
   * @param {TransactionQuery} [query]
   * @param {CallOptions} [callOptions]
   * @returns {Promise<Page<Transaction>>}
   */
  async function transactions(query = {}, callOptions) {
    /** @type {import("./transport.js").Answer<Transaction[]>} */
    const answer = await request(
      { method: "GET", path: "/credits/transactions", query: { ...query } },
      callOptions,
    );
    const cursor = cursorOf(answer.headers.get("Link"));
    return {
      items: answer.body,
      cursor,
      next: async (nextOptions) =>
        cursor === null
          ? null
          : transactions({ ...query, offset: undefined, before: cursor }, nextOptions),
    };
  }

  /**
   * The whole history, newest first, fetched page by page as it is read.
   *
   * @param {TransactionQuery} [query] `limit` is the size of the pages
   * @param {CallOptions} [callOptions] for each page
   * @returns {AsyncGenerator<Transaction, void, undefined>}
   */
  async function* eachTransaction(query, callOptions) {
    /** @type {Page<Transaction> | null} */
    let page = await transactions(query, callOptions);
    while (page !== null) {
      yield* page.items;
      page = await page.next(callOptions);
    }
  }

  return {
    /**
     * What the user has; zeros for a user never seen.
     *
     * @param {CallOptions} [callOptions]
     * @returns {Promise<Balance>}
     */
    balance: (callOptions) => get("/credits/balance", {}, callOptions),

    /**
     * Spend credits; throws InsufficientCreditsError where there are too few.
     *
     * @param {Debit} debit
     * @param {MoveOptions} [moveOptions]
     * @returns {Promise<Moved>}
     */
    use: (debit, moveOptions) => move("POST", "/credits/use", debit, moveOptions),

    transactions,
    eachTransaction,

    /**
     * The user's purchases, newest first.
     *
     * @param {PageQuery} [query]
     * @param {CallOptions} [callOptions]
     * @returns {Promise<Purchase[]>}
     */
    purchases: (query, callOptions) => get("/credits/purchases", { ...query }, callOptions),

    /**
     * What can be bought, in the order of display; needs no token.
     *
     * @param {CallOptions} [callOptions]
     * @returns {Promise<Package[]>}
     */
    packages: (callOptions) => getPublic("/credits/packages", callOptions),

    /**
     * What everything costs; needs no token.
     *
     * @param {CallOptions} [callOptions]
     * @returns {Promise<Pricing>}
     */
    pricing: (callOptions) => getPublic("/credits/pricing", callOptions),

    /**
     * What was used by day and app, newest day first.
     *
     * @param {{ days?: number }} [query] the last days, today (UTC) included: 1 to 366 (30)
     * @param {CallOptions} [callOptions]
     * @returns {Promise<Usage[]>}
     */
    usage: (query, callOptions) => get("/credits/usage", { ...query }, callOptions),

    /**
     * Begin a purchase that is paid in the app, with Stripe's own library. After a PaymentError,
     * the same key goes on with the same purchase.
     *
     * @param {{ packageId: string }} wanted
     * @param {MoveOptions} [moveOptions]
     * @returns {Promise<StartedPurchase>}
     */
    beginPurchase: ({ packageId }, moveOptions) =>
      move("POST", "/credits/purchase", { packageId }, moveOptions),

    /**
     * Begin a purchase that is paid on Stripe's page, which leads back to one of the two
     * addresses; they must be on an origin that the service knows.
     *
     * @param {{ packageId: string, successUrl: string, cancelUrl: string }} wanted
     * @param {MoveOptions} [moveOptions]
     * @returns {Promise<StartedCheckout>}
     */
    beginCheckout: (wanted, moveOptions) => move("POST", "/credits/purchase", wanted, moveOptions),

    /**
     * A purchase of the user's; if it is open, the service looks at Stripe how it stands.
     *
     * @param {string} purchaseId
     * @param {CallOptions} [callOptions]
     * @returns {Promise<Purchase>}
     */
    purchase: async (purchaseId, callOptions) =>
      get(pathOf`/credits/purchase/${purchaseId}`, {}, callOptions),

    sync: {
      /**
       * Inactive and monthly for a user never seen.
       *
       * @param {CallOptions} [callOptions]
       * @returns {Promise<SyncStatus>}
       */
      status: (callOptions) => get("/sync/status", {}, callOptions),

      /**
       * Turn it on, charging at once unless a period is paid already.
       *
       * @param {{ interval?: Interval }} [wanted] monthly unless it says otherwise
       * @param {MoveOptions} [moveOptions]
       * @returns {Promise<SyncActivated>}
       */
      activate: (wanted, moveOptions) => move("POST", "/sync/activate", { ...wanted }, moveOptions),

      /**
       * Turn it off at once; nothing is refunded, what is paid stays paid, a pause is over.
       *
       * @param {CallOptions} [callOptions]
       * @returns {Promise<Done>}
       */
      deactivate: async (callOptions) => {
        try {
          return await post("/sync/deactivate", {}, callOptions);
        } catch (error) {
          // An attempt whose answer was lost has done it.
          const done = error instanceof SyncStateError && error.code === "sync_not_active";
          if (done && error.unsure) return { success: true };
          throw error;
        }
      },

      /**
       * Another interval and price from the next charge on.
       *
       * @param {{ interval: Interval }} wanted
       * @param {CallOptions} [callOptions]
       * @returns {Promise<SyncIntervalChanged>}
       */
      changeInterval: (wanted, callOptions) => post("/sync/change-interval", wanted, callOptions),
    },

    gifts: {
      /**
       * What a code is worth; needs no token. The code as the user types it.
       *
       * @param {string} code
       * @param {CallOptions} [callOptions]
       * @returns {Promise<PublicGift>}
       */
      get: async (code, callOptions) => getPublic(pathOf`/gifts/${code}`, callOptions),

      /**
       * Put credits into a code.
       *
       * @param {NewGift} gift
       * @param {MoveOptions} [moveOptions]
       * @returns {Promise<Gift>}
       */
      create: (gift, moveOptions) => move("POST", "/gifts", gift, moveOptions),

      /**
       * The gifts that the user made, newest first.
       *
       * @param {PageQuery} [query]
       * @param {CallOptions} [callOptions]
       * @returns {Promise<Gift[]>}
       */
      created: (query, callOptions) => get("/gifts/me/created", { ...query }, callOptions),

      /**
       * The gifts that the user redeemed, newest first.
       *
       * @param {PageQuery} [query]
       * @param {CallOptions} [callOptions]
       * @returns {Promise<ReceivedGift[]>}
       */
      received: (query, callOptions) => get("/gifts/me/received", { ...query }, callOptions),

      /**
       * Redeem a code; asked again by the same user, the same answer.
       *
       * @param {string} code
       * @param {{ sourceAppId?: string }} [where]
       * @param {MoveOptions} [moveOptions]
       * @returns {Promise<GiftRedeemed>}
       */
      redeem: async (code, where, moveOptions) =>
        move("POST", pathOf`/gifts/${code}/redeem`, { ...where }, moveOptions),

      /**
       * Take a gift back that nobody has redeemed.
       *
       * @param {string} id
       * @param {MoveOptions} [moveOptions]
       * @returns {Promise<GiftCancelled>}
       */
      cancel: async (id, moveOptions) =>
        move("DELETE", pathOf`/gifts/${id}`, undefined, moveOptions),
    },
  };
}

/**
 * The cursor in a Link header. Only that is taken of it: the token goes where the client was told
 * to send it, never where an answer points.
 *
 * @param {string | null} link
 * @returns {string | null}
 */
function cursorOf(link) {
  const target = /<([^>]*)>\s*;\s*rel="?next"?/.exec(link ?? "")?.[1];
  return target === undefined ? null : new URL(target, "http://x").searchParams.get("before");
}
