// What people at support do, over the REST API, with the token of an administrator.

import { SyncStateError } from "./errors.js";
import { createTransport, itemsOf, pathOf } from "./transport.js";

export * from "./errors.js";

/** @import { CallOptions, MoveOptions, Page, TransportOptions } from "./transport.js" */
/**
 * @import {
 *   Account, AdminAction, AdminGrant, AdminRefund, EventQuery, Moved, Notice, NoticeQuery,
 *   NoticesRetried, Overview, PageQuery, Purchase, StripeEvent, StripeEventReplayed, SupportGift,
 *   SyncGiftState, SyncStatus, Transaction, TransactionQuery, UserErased, UserFound, Why
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
       * Users of whom this is known, the best match first.
       *
       * @param {string} query an id or an e-mail address or the beginning of one, or what belongs
       *   to a user: a purchase, transaction, PaymentIntent, Stripe customer, gift code
       * @param {{ limit?: number }} [more] users, 1 to 500 (20)
       * @param {CallOptions} [callOptions]
       * @returns {Promise<UserFound[]>}
       */
      find: (query, more, callOptions) => call.get("/admin/users", { query, ...more }, callOptions),

      /**
       * What there is about a user: balance, holds, subscription.
       *
       * @param {string} userId
       * @param {CallOptions} [callOptions]
       * @returns {Promise<Account>}
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
       * The gifts that a user made, newest first; codes that are still worth something are masked.
       *
       * @param {string} userId
       * @param {PageQuery} [query]
       * @param {CallOptions} [callOptions]
       * @returns {Promise<SupportGift[]>}
       */
      gifts: async (userId, query, callOptions) =>
        call.get(pathOf`/admin/users/${userId}/gifts`, { ...query }, callOptions),

      /**
       * What administrators did to a user, with who it was and why, newest first.
       *
       * @param {string} userId
       * @param {PageQuery} [query]
       * @param {CallOptions} [callOptions]
       * @returns {Promise<AdminAction[]>}
       */
      actions: async (userId, query, callOptions) =>
        call.get(pathOf`/admin/users/${userId}/actions`, { ...query }, callOptions),

      /**
       * Give credits.
       *
       * @param {string} userId
       * @param {AdminGrant} grant
       * @param {MoveOptions} [moveOptions]
       * @returns {Promise<Moved>}
       */
      grant: async (userId, grant, moveOptions) =>
        call.move("POST", pathOf`/admin/users/${userId}/grant`, grant, moveOptions),

      /**
       * Give a debit back, or a part of it; InvalidRequestError for more than is left of it.
       *
       * @param {string} userId
       * @param {AdminRefund} refund
       * @param {MoveOptions} [moveOptions]
       * @returns {Promise<Moved>}
       */
      refund: async (userId, refund, moveOptions) =>
        call.move("POST", pathOf`/admin/users/${userId}/refund`, refund, moveOptions),

      /**
       * Everything that is stored about a user, to be handed to him; its form is in openapi.json.
       *
       * @param {string} userId
       * @param {CallOptions} [callOptions]
       * @returns {Promise<Record<string, unknown>>}
       */
      exportAll: async (userId, callOptions) =>
        call.get(pathOf`/admin/users/${userId}/export`, {}, callOptions),

      /**
       * Erase a user for good: what is left is forfeited, and a pseudonym takes his place in the
       * ledger. Again changes nothing, so the numbers are zeros where an answer was lost.
       *
       * @param {string} userId
       * @param {CallOptions} [callOptions]
       * @returns {Promise<UserErased>}
       */
      erase: async (userId, callOptions) =>
        call.change("DELETE", pathOf`/admin/users/${userId}`, undefined, callOptions),
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
       * @param {Why} why
       * @param {CallOptions} [callOptions]
       * @returns {Promise<SyncGiftState>}
       */
      gift: async (userId, why, callOptions) =>
        call.change("POST", pathOf`/admin/sync/${userId}/gift`, why, callOptions),

      /**
       * End a gifted Cloud Sync.
       *
       * @param {string} userId
       * @param {Why} why
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
     * @returns {Promise<Overview>}
     */
    overview: (query, callOptions) => call.get("/admin/overview", { ...query }, callOptions),

    stripeEvents: {
      /**
       * A page of the events that failed or wait, newest first.
       *
       * @param {EventQuery} [query]
       * @param {CallOptions} [callOptions]
       * @returns {Promise<Page<StripeEvent>>}
       */
      list: (query, callOptions) => call.getPage("/admin/stripe-events", { ...query }, callOptions),

      /**
       * Apply an event once more; nothing moves twice.
       *
       * @param {string} id
       * @param {CallOptions} [callOptions]
       * @returns {Promise<StripeEventReplayed>}
       */
      replay: async (id, callOptions) =>
        call.change("POST", pathOf`/admin/stripe-events/${id}/replay`, {}, callOptions),
    },

    notices: {
      /**
       * A page of the notices that were not delivered, newest first.
       *
       * @param {NoticeQuery} [query]
       * @param {CallOptions} [callOptions]
       * @returns {Promise<Page<Notice>>}
       */
      list: (query, callOptions) => call.getPage("/admin/notices", { ...query }, callOptions),

      /**
       * Send notices once more.
       *
       * @param {string[]} [ids] left out: all that failed or had no address
       * @param {CallOptions} [callOptions]
       * @returns {Promise<NoticesRetried>}
       */
      retry: (ids, callOptions) =>
        call.change("POST", "/admin/notices/retry", { ids }, callOptions),
    },
  };
}
