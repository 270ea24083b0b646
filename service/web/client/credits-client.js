// The credits of the user who is signed in, over the REST API.
//
//   const client = createCreditsClient({ baseUrl: "https://credits.example.org", getToken });
//   const { balance } = await client.balance();
//
// What is in the answers, with its units, is in types.js; what can go wrong, in errors.js.

import { SyncStateError } from "./errors.js";
import { createTransport, itemsOf, pathOf } from "./transport.js";

export * from "./errors.js";

/** @import { CallOptions, MoveOptions, Page, TransportOptions } from "./transport.js" */
/**
 * @import {
 *   Balance, Debit, Done, Gift, GiftCancelled, GiftRedeemed, Interval, Moved, NewGift, Package,
 *   PageQuery, Pricing, PublicGift, Purchase, ReceivedGift, StartedCheckout, StartedPurchase,
 *   SyncActivated, SyncIntervalChanged, SyncStatus, Transaction, TransactionQuery, Usage
 * } from "./types.js"
 */

/** @typedef {ReturnType<typeof createCreditsClient>} CreditsClient */

/**
 * A client for one user. Every method throws a `CreditsError`, or the reason of its signal.
 *
 * @param {TransportOptions} options
 */
export function createCreditsClient(options) {
  const call = createTransport(options);

  return {
    /**
     * What the user has; zeros for a user never seen.
     *
     * @param {CallOptions} [callOptions]
     * @returns {Promise<Balance>}
     */
    balance: (callOptions) => call.get("/credits/balance", {}, callOptions),

    /**
     * Spend credits; throws InsufficientCreditsError where there are too few.
     *
     * @param {Debit} debit
     * @param {MoveOptions} [moveOptions]
     * @returns {Promise<Moved>}
     */
    use: (debit, moveOptions) => call.move("POST", "/credits/use", debit, moveOptions),

    /**
     * A page of the history, newest first.
     *
     * @param {TransactionQuery} [query]
     * @param {CallOptions} [callOptions]
     * @returns {Promise<Page<Transaction>>}
     */
    transactions: (query, callOptions) =>
      call.getPage("/credits/transactions", { ...query }, callOptions),

    /**
     * The whole history, newest first, fetched page by page as it is read.
     *
     * @param {TransactionQuery} [query] `limit` is the size of the pages
     * @param {CallOptions} [callOptions] for each page
     * @returns {AsyncGenerator<Transaction, void, undefined>}
     */
    eachTransaction: (query, callOptions) =>
      itemsOf(() => call.getPage("/credits/transactions", { ...query }, callOptions), callOptions),

    /**
     * The user's purchases, newest first.
     *
     * @param {PageQuery} [query]
     * @param {CallOptions} [callOptions]
     * @returns {Promise<Purchase[]>}
     */
    purchases: (query, callOptions) => call.get("/credits/purchases", { ...query }, callOptions),

    /**
     * What can be bought, in the order of display; needs no token.
     *
     * @param {CallOptions} [callOptions]
     * @returns {Promise<Package[]>}
     */
    packages: (callOptions) => call.getPublic("/credits/packages", callOptions),

    /**
     * What everything costs; needs no token.
     *
     * @param {CallOptions} [callOptions]
     * @returns {Promise<Pricing>}
     */
    pricing: (callOptions) => call.getPublic("/credits/pricing", callOptions),

    /**
     * What was used by day and app, newest day first.
     *
     * @param {{ days?: number }} [query] the last days, today (UTC) included: 1 to 366 (30)
     * @param {CallOptions} [callOptions]
     * @returns {Promise<Usage[]>}
     */
    usage: (query, callOptions) => call.get("/credits/usage", { ...query }, callOptions),

    /**
     * Begin a purchase that is paid in the app, with Stripe's own library. After a PaymentError,
     * the same key goes on with the same purchase.
     *
     * @param {{ packageId: string }} wanted
     * @param {MoveOptions} [moveOptions]
     * @returns {Promise<StartedPurchase>}
     */
    beginPurchase: ({ packageId }, moveOptions) =>
      call.move("POST", "/credits/purchase", { packageId }, moveOptions),

    /**
     * Begin a purchase that is paid on Stripe's page, which leads back to one of the two
     * addresses; they must be on an origin that the service knows.
     *
     * @param {{ packageId: string, successUrl: string, cancelUrl: string }} wanted
     * @param {MoveOptions} [moveOptions]
     * @returns {Promise<StartedCheckout>}
     */
    beginCheckout: (wanted, moveOptions) =>
      call.move("POST", "/credits/purchase", wanted, moveOptions),

    /**
     * A purchase of the user's; if it is open, the service looks at Stripe how it stands.
     *
     * @param {string} purchaseId
     * @param {CallOptions} [callOptions]
     * @returns {Promise<Purchase>}
     */
    purchase: async (purchaseId, callOptions) =>
      call.get(pathOf`/credits/purchase/${purchaseId}`, {}, callOptions),

    sync: {
      /**
       * Inactive and monthly for a user never seen.
       *
       * @param {CallOptions} [callOptions]
       * @returns {Promise<SyncStatus>}
       */
      status: (callOptions) => call.get("/sync/status", {}, callOptions),

      /**
       * Turn it on, charging at once unless a period is paid already.
       *
       * @param {{ interval?: Interval }} [wanted] monthly unless it says otherwise
       * @param {MoveOptions} [moveOptions]
       * @returns {Promise<SyncActivated>}
       */
      activate: (wanted, moveOptions) =>
        call.move("POST", "/sync/activate", { ...wanted }, moveOptions),

      /**
       * Turn it off at once; nothing is refunded, what is paid stays paid, a pause is over.
       *
       * @param {CallOptions} [callOptions]
       * @returns {Promise<Done>}
       */
      deactivate: async (callOptions) => {
        try {
          return await call.change("POST", "/sync/deactivate", {}, callOptions);
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
      changeInterval: (wanted, callOptions) =>
        call.change("POST", "/sync/change-interval", wanted, callOptions),
    },

    gifts: {
      /**
       * What a code is worth; needs no token. The code as the user types it.
       *
       * @param {string} code
       * @param {CallOptions} [callOptions]
       * @returns {Promise<PublicGift>}
       */
      get: async (code, callOptions) => call.getPublic(pathOf`/gifts/${code}`, callOptions),

      /**
       * Put credits into a code.
       *
       * @param {NewGift} gift
       * @param {MoveOptions} [moveOptions]
       * @returns {Promise<Gift>}
       */
      create: (gift, moveOptions) => call.move("POST", "/gifts", gift, moveOptions),

      /**
       * The gifts that the user made, newest first.
       *
       * @param {PageQuery} [query]
       * @param {CallOptions} [callOptions]
       * @returns {Promise<Gift[]>}
       */
      created: (query, callOptions) => call.get("/gifts/me/created", { ...query }, callOptions),

      /**
       * The gifts that the user redeemed, newest first.
       *
       * @param {PageQuery} [query]
       * @param {CallOptions} [callOptions]
       * @returns {Promise<ReceivedGift[]>}
       */
      received: (query, callOptions) => call.get("/gifts/me/received", { ...query }, callOptions),

      /**
       * Redeem a code; asked again by the same user, the same answer.
       *
       * @param {string} code
       * @param {{ sourceAppId?: string }} [where]
       * @param {MoveOptions} [moveOptions]
       * @returns {Promise<GiftRedeemed>}
       */
      redeem: async (code, where, moveOptions) =>
        call.move("POST", pathOf`/gifts/${code}/redeem`, { ...where }, moveOptions),

      /**
       * Take a gift back that nobody has redeemed.
       *
       * @param {string} id
       * @param {MoveOptions} [moveOptions]
       * @returns {Promise<GiftCancelled>}
       */
      cancel: async (id, moveOptions) =>
        call.move("DELETE", pathOf`/gifts/${id}`, undefined, moveOptions),
    },
  };
}
