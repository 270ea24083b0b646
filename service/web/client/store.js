// A state that can be followed, by the contract of Svelte's stores.

/**
 * @template {object} T
 * @param {T} initial
 */
export function createStore(initial) {
  /** @type {Readonly<T>} */
  let state = Object.freeze({ ...initial });
  /** @type {Set<(state: Readonly<T>) => void>} */
  const subscribers = new Set();

  /** @param {(state: Readonly<T>) => void} subscriber */
  function tell(subscriber) {
    try {
      // Not the state of one change: a subscriber may have caused the next one.
      if (subscribers.has(subscriber)) subscriber(state);
    } catch (error) {
      // One that fails keeps the others from nothing, and is heard of all the same.
      queueMicrotask(() => {
        throw error;
      });
    }
  }

  return {
    get state() {
      return state;
    },

    /** @param {Partial<T>} change */
    set(change) {
      const next = Object.freeze({ ...state, ...change });
      const names = /** @type {(keyof T)[]} */ (Object.keys(next));
      if (names.every((name) => Object.is(next[name], state[name]))) return;
      state = next;
      for (const subscriber of [...subscribers]) tell(subscriber);
    },

    /**
     * Follow the state: `subscriber` is called at once, and after each change.
     *
     * @param {(state: Readonly<T>) => void} subscriber
     * @returns {() => void} unsubscribes
     */
    subscribe(subscriber) {
      // The same function may subscribe twice.
      const own = (/** @type {Readonly<T>} */ now) => subscriber(now);
      subscribers.add(own);
      subscriber(state);
      return () => {
        subscribers.delete(own);
      };
    },
  };
}
