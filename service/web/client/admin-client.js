// What people at support do, over the REST API, with the token of an administrator.

import { SyncStateError } from "./errors.js";
import { createTransport, itemsOf, pathOf } from "./transport.js";

export * from "./errors.js";

/** @import { CallOptions, MoveOptions, Page, TransportOptions } from "./transport.js" */
/**
 * @import {
 *   AdminAnswer, AdminMove, PageQuery, Purchase, Reasoned, SyncGiftState, SyncStatus, Transaction,
 *   TransactionQuery
 * } from "./types.js"
 */

/** @typedef {ReturnType<typeof createAdminClient>} AdminClient */

/**
 * A client for one administrator. Every method throws a `CreditsError`, or the reason of its
 * signal; ForbiddenError for who is no administrator.
 *
 * @param {TransportOptions} options
 */
export function createAdminClient(options) {
  const call = createTransport(options);

  /**
   * A page of a user's history, newest first.
   *
   * @param {string} userId
   * @param {TransactionQuery} [query]
   * @param {CallOptions} [callOptions]
   * @returns {Promise<Page<Transaction>>}
   */
  async function getTransactions(userId, query, callOptions) {
    return call.getPage(pathOf`/admin/users/${userId}/transactions`, { ...query }, callOptions);
  }

  return {
    users: {
      /**
       * Users whose id or last known address fits.
       *
       * @param {string} query
       * @param {CallOptions} [callOptions]
       * @returns {Promise<AdminAnswer[]>}
       */
      find: (query, callOptions) => call.get("/admin/users", { query }, callOptions),

      /**
       * What there is about a user: balance, holds, subscription.
       *
       * @param {string} userId
       * @param {CallOptions} [callOptions]
       * @returns {Promise<AdminAnswer>}
       */
      get: async (userId, callOptions) => call.get(pathOf`/admin/users/${userId}`, {}, callOptions),

      transactions: getTransactions,

      /**
       * A user's whole history, newest first, fetched page by page as it is read.
       *
       * @param {string} userId
       * @param {TransactionQuery} [query] `limit` is the size of the pages
       * @param {CallOptions} [callOptions] for each page
       * @returns {AsyncGenerator<Transaction, void, undefined>}
       */
      eachTransaction: (userId, query, callOptions) =>
        itemsOf(() => getTransactions(userId, query, callOptions), callOptions),

      /**
       * A user's purchases, newest first.
       *
       * @param {string} userId
       * @param {PageQuery} [query]
       * @param {CallOptions} [callOptions]
       * @returns {Promise<Purchase[]>}
       */
      purchases: async (userId, query, callOptions) =>
        call.get(pathOf`/admin/users/${userId}/purchases`, { ...query }, callOptions),

      /**
       * The gifts that a user made and redeemed.
       *
       * @param {string} userId
       * @param {PageQuery} [query]
       * @param {CallOptions} [callOptions]
       * @returns {Promise<AdminAnswer[]>}
       */
      gifts: async (userId, query, callOptions) =>
        call.get(pathOf`/admin/users/${userId}/gifts`, { ...query }, callOptions),

      /**
       * What administrators did to a user, with who it was and why, newest first.
       *
       * @param {string} userId
       * @param {PageQuery} [query]
       * @param {CallOptions} [callOptions]
       * @returns {Promise<AdminAnswer[]>}
       */
      actions: async (userId, query, callOptions) =>
        call.get(pathOf`/admin/users/${userId}/actions`, { ...query }, callOptions),

      /**
       * Give credits.
       *
       * @param {string} userId
       * @param {{ amount: number } & Reasoned} grant `amount` in credits
       * @param {MoveOptions} [moveOptions]
       * @returns {Promise<AdminMove>}
       */
      grant: async (userId, grant, moveOptions) =>
        call.move("POST", pathOf`/admin/users/${userId}/grant`, grant, moveOptions),

      /**
       * Give a debit back, or a part of it; InvalidRequestError for more than is left of it.
       *
       * @param {string} userId
       * @param {{ transactionId: string, amount?: number } & Reasoned} refund `amount` in credits,
       *   left out: what is left of the debit
       * @param {MoveOptions} [moveOptions]
       * @returns {Promise<AdminMove>}
       */
      refund: async (userId, refund, moveOptions) =>
        call.move("POST", pathOf`/admin/users/${userId}/refund`, refund, moveOptions),
    },

    sync: {
      /**
       * Cloud Sync of a user.
       *
       * @param {string} userId
       * @param {CallOptions} [callOptions]
       * @returns {Promise<SyncStatus>}
       */
      status: async (userId, callOptions) =>
        call.get(pathOf`/admin/sync/${userId}`, {}, callOptions),

      /**
       * Turn a user's Cloud Sync on, never charged, until it is revoked; again is the same.
       *
       * @param {string} userId
       * @param {Reasoned} why
       * @param {CallOptions} [callOptions]
       * @returns {Promise<SyncGiftState>}
       */
      gift: async (userId, why, callOptions) =>
        call.change("POST", pathOf`/admin/sync/${userId}/gift`, why, callOptions),

      /**
       * End a gifted Cloud Sync.
       *
       * @param {string} userId
       * @param {Reasoned} why
       * @param {CallOptions} [callOptions]
       * @returns {Promise<SyncGiftState>}
       */
      revoke: async (userId, why, callOptions) => {
        try {
          return await call.change("DELETE", pathOf`/admin/sync/${userId}/gift`, why, callOptions);
        } catch (error) {
          // An attempt whose answer was lost has done it.
          if (error instanceof SyncStateError && error.unsure) {
            return { success: true, userId, gifted: false, active: false };
          }
          throw error;
        }
      },
    },

    /**
     * Credits per day, subscriptions, the next charge run, jobs, and the last ledger check.
     *
     * @param {{ days?: number }} [query] the last days, today (UTC) included
     * @param {CallOptions} [callOptions]
     * @returns {Promise<AdminAnswer>}
     */
    overview: (query, callOptions) => call.get("/admin/overview", { ...query }, callOptions),

    stripeEvents: {
      /**
       * Events of Stripe's, newest first.
       *
       * @param {{ state?: string } & PageQuery} [query]
       * @param {CallOptions} [callOptions]
       * @returns {Promise<AdminAnswer[]>}
       */
      list: (query, callOptions) => call.get("/admin/stripe-events", { ...query }, callOptions),

      /**
       * Apply an event again that could not be applied.
       *
       * @param {string} id
       * @param {CallOptions} [callOptions]
       * @returns {Promise<AdminAnswer>}
       */
      replay: async (id, callOptions) =>
        call.change("POST", pathOf`/admin/stripe-events/${id}/replay`, {}, callOptions),
    },

    notices: {
      /**
       * Notices, newest first.
       *
       * @param {{ state?: string } & PageQuery} [query]
       * @param {CallOptions} [callOptions]
       * @returns {Promise<AdminAnswer[]>}
       */
      list: (query, callOptions) => call.get("/admin/notices", { ...query }, callOptions),

      /**
       * Send notices again that were given up.
       *
       * @param {string[]} ids
       * @param {CallOptions} [callOptions]
       * @returns {Promise<AdminAnswer>}
       */
      retry: (ids, callOptions) =>
        call.change("POST", "/admin/notices/retry", { ids }, callOptions),
    },
  };
}
