// Cloud Sync's subscription as a store that a page can follow.
//
//   const billing = createSyncBilling(client);
//   const unsubscribe = billing.subscribe((state) => show(state));
//   await billing.load();
//
// It keeps the contract of Svelte's stores: `subscribe` calls at once and then after each change.

import { OutcomeUnknownError, SyncStateError } from "./errors.js";
import { createStore } from "./store.js";

/** @import { CreditsClient } from "./credits-client.js" */
/** @import { Interval, SyncActivated, SyncIntervalChanged, SyncStatus, Time } from "./types.js" */

/**
 * @typedef {object} SyncBillingState
 * @property {boolean} active
 * @property {Interval} interval
 * @property {Time | null} nextChargeAt
 * @property {boolean} paused credits ran out
 * @property {Time | null} pausedAt
 * @property {boolean} gifted on, and never charged
 * @property {number | null} price credits of the next charge, null as long as it is not known
 * @property {Time | null} paidUntil
 * @property {boolean} loading whether a call is under way
 * @property {boolean} loaded whether the service has ever answered; before that, sync is off
 * @property {unknown} error what the last call threw, null from the beginning of the next one
 */

/** @typedef {ReturnType<typeof createSyncBilling>} SyncBilling */

/**
 * What changes the subscription, by what makes two of them the same.
 *
 * @typedef {object} Action
 * @property {string} name
 * @property {Promise<any>} done
 */

/** @type {SyncBillingState} */
const UNKNOWN = {
  active: false,
  interval: "monthly",
  nextChargeAt: null,
  paused: false,
  pausedAt: null,
  gifted: false,
  price: null,
  paidUntil: null,
  loading: false,
  loaded: false,
  error: null,
};

/**
 * The store of one user; make another one for another user.
 *
 * Changes are made one after the other, so the last one asked for is how it ends; one that is asked
 * for again while it waits or runs is made once. An answer that a change has overtaken is not shown.
 * What a call throws is kept in `error` as well, and the rest of the state stays.
 *
 * @param {Pick<CreditsClient, "sync">} client
 */
export function createSyncBilling({ sync }) {
  const store = createStore(UNKNOWN);
  let calls = 0;
  /** Grows whenever a change begins or ends: what was asked for before it may be out of date. */
  let era = 0;
  /** @type {Action | null} */
  let lastAction = null;
  /** @type {Promise<Readonly<SyncBillingState>> | null} */
  let reading = null;

  /** @param {SyncStatus} status */
  function show({ active, interval, nextChargeAt, paused, pausedAt, gifted, price, paidUntil }) {
    const shown = { active, interval, nextChargeAt, paused, pausedAt, gifted, price, paidUntil };
    store.set({ ...shown, loaded: true });
  }

  // `loading` and `error` say how a call goes. It is written down before its beginning is told,
  // since a subscriber may call in turn.

  function begin() {
    calls += 1;
    store.set({ loading: true, error: null });
  }

  /**
   * @template T
   * @param {Promise<T>} work
   * @returns {Promise<T>} settles when its end was told
   */
  async function untilTold(work) {
    try {
      const result = await work;
      calls -= 1;
      store.set({ loading: calls > 0 });
      return result;
    } catch (error) {
      calls -= 1;
      store.set({ loading: calls > 0, error });
      throw error;
    }
  }

  /**
   * Show how things stand, unless a change begins or ends meanwhile.
   *
   * @returns {Promise<boolean>} whether it was shown
   */
  async function refresh() {
    const asked = era;
    const status = await sync.status();
    if (asked !== era) return false;
    show(status);
    return true;
  }

  async function refreshIfPossible() {
    try {
      await refresh();
    } catch {
      // It is only a look: what the change itself answered stands.
    }
  }

  async function actionsDone() {
    while (lastAction !== null) await lastAction.done.catch(() => {});
  }

  /**
   * Make a change when those before it are through.
   *
   * @template T
   * @param {string} name
   * @param {() => Promise<T>} work
   * @param {(answer: T) => Partial<SyncBillingState>} stateAfter
   * @returns {Promise<T>}
   */
  function act(name, work, stateAfter) {
    if (lastAction?.name === name) return lastAction.done;
    const before = lastAction?.done;

    async function inTurn() {
      await before?.catch(() => {});
      era += 1;
      try {
        const answer = await work();
        era += 1;
        store.set({ ...stateAfter(answer), loaded: true });
        await refreshIfPossible();
        return answer;
      } catch (error) {
        era += 1;
        // Things may not be as they are shown: somebody else has changed them, or this has.
        if (error instanceof SyncStateError || error instanceof OutcomeUnknownError) {
          await refreshIfPossible();
        }
        throw error;
      } finally {
        if (lastAction === action) lastAction = null;
      }
    }

    const action = { name, done: untilTold(inTurn()) };
    lastAction = action;
    begin();
    return action.done;
  }

  return {
    /** Whether sync is on. */
    get active() {
      return store.state.active;
    },
    /** How long a charge lasts. */
    get interval() {
      return store.state.interval;
    },
    /** When the next charge comes, or null. */
    get nextChargeAt() {
      return store.state.nextChargeAt;
    },
    /** Whether credits ran out. */
    get paused() {
      return store.state.paused;
    },
    /** Whether a call is under way. */
    get loading() {
      return store.state.loading;
    },
    /** All of it, as subscribers get it. */
    get state() {
      return store.state;
    },

    /**
     * Ask the service how things stand; a call that is under way is shared.
     *
     * @returns {Promise<Readonly<SyncBillingState>>} the state after it
     */
    load() {
      if (reading !== null) return reading;

      async function read() {
        try {
          do await actionsDone();
          while (!(await refresh()));
        } finally {
          reading = null;
        }
      }

      reading = untilTold(read()).then(() => store.state);
      begin();
      return reading;
    },

    /**
     * Turn sync on, charging at once unless a period is paid already.
     *
     * @param {Interval} [interval] left out: the one that is shown
     * @returns {Promise<SyncActivated>}
     */
    activate: (interval = store.state.interval) =>
      act(
        `activate ${interval}`,
        () => sync.activate({ interval }),
        (answer) => ({
          active: true,
          interval: answer.interval,
          nextChargeAt: answer.nextChargeAt,
          paused: false,
          pausedAt: null,
        }),
      ),

    /**
     * Turn sync off; nothing is refunded, and what is paid stays paid.
     *
     * @returns {Promise<{ success: true }>}
     */
    deactivate: () =>
      act(
        "deactivate",
        () => sync.deactivate(),
        () => ({ active: false, nextChargeAt: null, paused: false, pausedAt: null }),
      ),

    /**
     * Another interval from the next charge on.
     *
     * @param {Interval} interval
     * @returns {Promise<SyncIntervalChanged>}
     */
    changeInterval: (interval) =>
      act(
        `change to ${interval}`,
        () => sync.changeInterval({ interval }),
        (answer) => ({ interval: answer.interval, price: answer.amountCharged }),
      ),

    subscribe: store.subscribe,
  };
}
