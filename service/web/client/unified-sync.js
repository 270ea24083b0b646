// Runs an app's sync engine while Cloud Sync is on, and keeps it still otherwise.
//
//   const unified = createUnifiedSync("https://sync.example.org", getToken, billing, engine);
//   unified.start();
//
// Users start local-only: as long as sync is not on, the engine is not started, so that nothing is
// asked of the sync server.

import { createStore } from "./store.js";

/** @import { GetToken } from "./transport.js" */

/**
 * What an app brings: it moves the data. An engine for which the defaults do:
 *
 *   const engine = {
 *     async start({ serverUrl, getToken, onPaymentRequired, signal }) {
 *       this.timer = setInterval(async () => {
 *         const headers = { Authorization: `Bearer ${await getToken()}` };
 *         const answer = await fetch(`${serverUrl}/pull`, { headers, signal });
 *         if (answer.status === 402) onPaymentRequired();
 *       }, 60_000);
 *     },
 *     async stop() {
 *       clearInterval(this.timer);
 *     },
 *   };
 *
 * `start` and `stop` are called in turn, one after the other is through, and never twice in a row,
 * except that `stop` follows a `start` that threw, to clean up.
 *
 * @typedef {object} SyncEngine
 * @property {(run: EngineRun) => void | Promise<void>} start what it throws with `status` 402 is
 *   taken as `onPaymentRequired`, and after anything else it is tried again later
 * @property {() => void | Promise<void>} stop resolves when no further request is made
 */

/**
 * @typedef {object} EngineRun
 * @property {string} serverUrl
 * @property {GetToken} getToken
 * @property {() => void} onPaymentRequired to be called when the sync server answers 402; once or
 *   a hundred times is the same, and so is too late
 * @property {AbortSignal} signal aborted as soon as the engine shall stop, a `start` that is under
 *   way included
 */

/**
 * Whether sync is on: a boolean, or the state of a store. One that is paused is off, and so is what
 * is not known yet.
 *
 * @typedef {boolean | { active: boolean, paused?: boolean } | null | undefined} Enabled
 */

/**
 * A store such as `createSyncBilling` makes, or any that has Svelte's `subscribe`. `load` is called
 * after a 402, to find out how things stand.
 *
 * @typedef {object} EnabledStore
 * @property {(subscriber: (value: any) => void) => (() => void)} subscribe
 * @property {() => Promise<unknown>} [load]
 */

/**
 * @typedef {object} UnifiedSyncOptions
 * @property {number} [minHold] milliseconds that the engine rests after a 402 or a failed start,
 *   where the store still says that sync is on; doubled each time (30 000)
 * @property {number} [maxHold] milliseconds at most (300 000: so long may the sync server remember
 *   that sync was off)
 */

/**
 * @typedef {object} UnifiedSyncState
 * @property {"local" | "starting" | "running" | "stopping" | "held"} status `local`: sync is off,
 *   or `start` was not called; `held`: the engine rests and will be tried again
 * @property {unknown} error what the engine or the store threw last, null while all is well
 */

/** @typedef {{ end: AbortController, since: number }} Run `since` by `performance.now()` */

/** @typedef {ReturnType<typeof createUnifiedSync>} UnifiedSync */

/**
 * @param {string} serverUrl the sync server's, handed to the engine
 * @param {GetToken} getToken handed to the engine
 * @param {EnabledStore | (() => Enabled)} syncEnabled a store is followed; a function is asked at
 *   `start`, at `check` and after a rest
 * @param {SyncEngine} engine
 * @param {UnifiedSyncOptions} [options]
 */
export function createUnifiedSync(serverUrl, getToken, syncEnabled, engine, options = {}) {
  const { minHold = 30_000, maxHold = 300_000 } = options;

  /** @type {UnifiedSyncState} */
  const LOCAL = { status: "local", error: null };
  const store = createStore(LOCAL);

  let watching = false;
  let enabled = false;
  let unsubscribe = () => {};
  /** @type {Run | null} what the engine was started for and not stopped after */
  let run = null;
  /** @type {Promise<void> | null} */
  let settling = null;
  /** @type {ReturnType<typeof setTimeout> | null} as long as the engine rests */
  let hold = null;
  let holds = 0;

  function wanted() {
    return watching && enabled && hold === null;
  }

  /** Something is not as it was: let the engine follow. */
  function changed() {
    if (!wanted()) run?.end.abort();
    settling ??= settle();
    return settling;
  }

  /** One step after the other; each may take long, so everything is looked at again after it. */
  async function settle() {
    await null; // `settling` is set before it is taken back
    for (;;) {
      if (run !== null && (!wanted() || run.end.signal.aborted)) await stopEngine(run);
      else if (run === null && wanted()) await startEngine();
      else break;
    }
    settling = null;
    if (run === null) store.set({ status: hold === null ? "local" : "held" });
  }

  async function startEngine() {
    /** @type {Run} */
    const own = { end: new AbortController(), since: performance.now() };
    run = own;
    store.set({ status: "starting" });
    const { signal } = own.end;
    const onPaymentRequired = () => void refused(own);
    try {
      await engine.start({ serverUrl, getToken, onPaymentRequired, signal });
      if (!signal.aborted) store.set({ status: "running", error: null });
    } catch (error) {
      // One that is told to end while it starts may well throw.
      if (signal.aborted) return;
      if (statusOf(error) === 402) {
        void refused(own);
      } else {
        store.set({ error });
        rest(own);
      }
    }
  }

  /** @param {Run} own */
  async function stopEngine(own) {
    own.end.abort();
    store.set({ status: "stopping" });
    try {
      await engine.stop();
    } catch (error) {
      store.set({ error });
    }
    run = null;
  }

  /**
   * The sync server says that sync is not paid for. Requests that were under way together are
   * refused together, and one is enough to know.
   *
   * @param {Run} own
   */
  async function refused(own) {
    if (run !== own || own.end.signal.aborted) return;
    rest(own);
    await changed();
    if (typeof syncEnabled === "function" || !watching) return;
    try {
      await syncEnabled.load?.();
    } catch (error) {
      store.set({ error });
    }
  }

  /**
   * End a run and start no other for a while: where the store says that sync is on, and the sync
   * server that it is not, they agree after some minutes.
   *
   * @param {Run} own
   */
  function rest(own) {
    own.end.abort();
    if (performance.now() - own.since > maxHold) holds = 0;
    hold = setTimeout(rested, Math.min(maxHold, minHold * 2 ** holds));
    holds += 1;
  }

  function rested() {
    hold = null;
    check();
  }

  function endRest() {
    if (hold !== null) clearTimeout(hold);
    hold = null;
    holds = 0;
  }

  /** @param {Enabled} value */
  function follow(value) {
    const on = typeof value === "object" ? Boolean(value?.active && !value.paused) : value === true;
    if (on !== enabled) endRest();
    enabled = on;
    void changed();
  }

  /**
   * Ask again whether sync is on, where `syncEnabled` is a function.
   *
   * @returns {Promise<void>} resolves when the engine has followed
   */
  async function check() {
    if (watching && typeof syncEnabled === "function") {
      try {
        follow(syncEnabled());
      } catch (error) {
        store.set({ error });
        follow(false);
      }
    }
    await changed();
  }

  return {
    /** How it stands, as subscribers get it. */
    get state() {
      return store.state;
    },

    subscribe: store.subscribe,

    /**
     * Let the engine run whenever sync is on; again is the same.
     *
     * @returns {Promise<void>} resolves when the engine runs, or sync is off
     */
    async start() {
      if (!watching) {
        watching = true;
        if (typeof syncEnabled !== "function") unsubscribe = syncEnabled.subscribe(follow);
      }
      await check();
    },

    /**
     * Stop the engine, and start it no more.
     *
     * @returns {Promise<void>} resolves when it has stopped
     */
    async stop() {
      watching = false;
      enabled = false;
      unsubscribe();
      unsubscribe = () => {};
      endRest();
      await changed();
    },

    check,
  };
}

/**
 * @param {unknown} error
 * @returns {unknown}
 */
function statusOf(error) {
  return /** @type {{ status?: unknown } | null | undefined} */ (error)?.status;
}
