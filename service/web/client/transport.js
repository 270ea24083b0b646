// How the clients call the service: tokens, idempotency keys, repeats, time-outs.

import {
  CreditsError,
  InvalidRequestError,
  NetworkError,
  OutcomeUnknownError,
  PaymentError,
  RateLimitedError,
  RequestTimeoutError,
  UnauthorizedError,
  UnavailableError,
  errorOf,
} from "./errors.js";

/**
 * Where the caller's token comes from: a JWT, or null for nobody. With `fresh`, the last one was
 * refused, so a cached one will not do. What it throws is thrown on.
 *
 * @typedef {(wanted?: { fresh?: boolean }) => string | null | Promise<string | null>} GetToken
 */

/**
 * @typedef {object} TransportOptions
 * @property {string} [baseUrl] where the service is, such as `https://credits.example.org`;
 *   left out or empty: the page's own origin
 * @property {GetToken} [getToken] needed for everything but packages, pricing and a gift's look-up
 * @property {typeof globalThis.fetch} [fetch] instead of the global one
 * @property {(error: UnauthorizedError) => void} [onUnauthorized] told of every call that ends in
 *   a 401, before it throws; the place to lead to signing in
 * @property {number} [timeout] milliseconds that a call may take with all its repeats (30 000)
 * @property {RetryOptions} [retry] how calls are repeated that got no answer
 */

/**
 * @typedef {object} RetryOptions
 * @property {number} [limit] repeats of one call at most (3)
 * @property {number} [minDelay] milliseconds before the first one, doubled with each (300)
 * @property {number} [maxDelay] milliseconds before any, if the service asks for no more (5000)
 */

/**
 * @typedef {object} CallOptions
 * @property {AbortSignal} [signal] ends the call, which then throws the signal's reason; whether
 *   credits have moved is not known then
 * @property {number} [timeout] milliseconds, instead of the client's
 */

/**
 * For calls that move credits.
 *
 * @typedef {CallOptions & { idempotencyKey?: string }} MoveOptions `idempotencyKey`: 1 to 255
 *   characters, drawn where it is left out; keep one of your own where a call must survive a
 *   reload of the page
 */

/** @typedef {Readonly<Record<string, string | number | null | undefined>>} Query */

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

/**
 * @typedef {object} Call
 * @property {"GET" | "POST" | "DELETE"} method
 * @property {string} path behind `/api/v1`, encoded (see `pathOf`)
 * @property {Query} [query]
 * @property {Readonly<Record<string, any>>} [body]
 * @property {boolean} [anonymous] without a token
 * @property {boolean} [moves] with an idempotency key
 */

/**
 * @template T
 * @typedef {object} Answer
 * @property {T} body
 * @property {Headers} headers
 */

const API = "/api/v1";
const TIMEOUT = 30_000;
/** Milliseconds; a timer that should last longer fires at once. */
const LONGEST_TIMER = 2 ** 31 - 1;
const RETRY = { limit: 3, minDelay: 300, maxDelay: 5_000 };

/**
 * A path with ids in it, each of them encoded.
 *
 * @param {TemplateStringsArray} parts
 * @param {...string} ids
 */
export function pathOf(parts, ...ids) {
  return String.raw({ raw: parts }, ...ids.map(segment));
}

/** @param {string} id */
function segment(id) {
  try {
    // A browser takes dots away, encoded or not, and would call another route.
    if (id !== "" && id !== "." && id !== "..") return encodeURIComponent(id);
  } catch {
    // Half of a surrogate pair.
  }
  throw new InvalidRequestError({ code: "invalid_request", message: "This cannot be an id" });
}

/** A key that nobody else draws. */
export function drawKey() {
  // Pages that came over plain HTTP (a phone that tries a development server) have no randomUUID.
  if ("randomUUID" in crypto) return crypto.randomUUID();
  const bytes = /** @type {Crypto} */ (crypto).getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * What makes calls, for one caller.
 *
 * @param {TransportOptions} options
 */
export function createTransport({
  baseUrl = "",
  getToken = () => null,
  fetch = (...call) => globalThis.fetch(...call),
  onUnauthorized,
  timeout = TIMEOUT,
  retry,
}) {
  const root = baseUrl.replace(/\/+$/, "") + API;
  const { limit, minDelay, maxDelay } = { ...RETRY, ...retry };

  /** @type {Promise<string | null> | null} */
  let renewal = null;

  /** A fresh token: calls that are refused at the same time ask for one together. */
  function freshToken() {
    renewal ??= (async () => getToken({ fresh: true }))().finally(() => (renewal = null));
    return renewal;
  }

  /**
   * One attempt.
   *
   * @param {Call} call
   * @param {string | null} token
   * @param {string | null} key
   * @param {AbortSignal} signal
   * @returns {Promise<{ body: any, headers: Headers }>}
   */
  async function attempt(call, token, key, signal) {
    const headers = new Headers({ Accept: "application/json" });
    if (token !== null) headers.set("Authorization", `Bearer ${token}`);
    let body;
    if (call.body !== undefined) {
      headers.set("Content-Type", "application/json");
      body = JSON.stringify(key === null ? call.body : { ...call.body, idempotencyKey: key });
    } else if (key !== null) {
      headers.set("Idempotency-Key", key);
    }
    /** @type {Response} */
    let response;
    let text;
    try {
      response = await fetch(root + call.path + queryOf(call.query), {
        method: call.method,
        headers,
        body,
        signal,
        cache: "no-store",
        credentials: "omit",
        redirect: "error",
      });
      text = await response.text();
    } catch (cause) {
      throw new NetworkError({ code: "network_error", message: "No answer came", cause });
    }
    if (!response.ok) throw errorOf(response.status, response.headers, text);
    try {
      return { body: JSON.parse(text), headers: response.headers };
    } catch (cause) {
      const message = "The answer is not the service's";
      throw new NetworkError({ code: "bad_answer", message, status: response.status, cause });
    }
  }

  /**
   * @param {CreditsError} error
   * @param {number} repeats so far
   */
  function delayAfter(error, repeats) {
    const backOff = Math.min(maxDelay, minDelay * 2 ** repeats);
    // Those who failed together shall not come back together.
    return (error.retryAfter ?? 0) * 1000 + backOff * (0.5 + Math.random() / 2);
  }

  /**
   * Make a call, and repeat it where that may help. Repeating is safe: whatever the service does,
   * it does once however often it is asked, and credits it moves once a key.
   *
   * @template T
   * @param {Call} call
   * @param {MoveOptions} [options]
   * @returns {Promise<Answer<T>>}
   */
  async function request(call, options = {}) {
    // The body's wins, as it does for the service.
    const key = call.moves
      ? (call.body?.idempotencyKey ?? options.idempotencyKey ?? drawKey())
      : null;
    const limits = bound(options.signal, options.timeout ?? timeout);
    let unsure = false;

    /** @param {string | null} bearer */
    async function attemptOnce(bearer) {
      try {
        return await limits.race(() => attempt(call, bearer, key, limits.signal));
      } catch (error) {
        unsure ||= limits.signal.aborted || mayHaveHappened(error);
        // Told in our words, not in those in which `fetch` says that it was stopped.
        limits.signal.throwIfAborted();
        throw error;
      }
    }

    /** @type {string | null} */
    let token = null;
    let renewed = false;

    async function attemptWithToken() {
      if (call.anonymous) return attemptOnce(null);
      token ??= await limits.race(async () => getToken());
      if (!token) throw new UnauthorizedError({ code: "unauthorized", message: "Not signed in" });
      try {
        return await attemptOnce(token);
      } catch (error) {
        if (!(error instanceof UnauthorizedError) || renewed) throw error;
        renewed = true;
        token = await limits.race(() => freshToken());
        if (!token) throw error;
        return attemptOnce(token);
      }
    }

    try {
      for (let repeats = 0; ; repeats += 1) {
        try {
          return await attemptWithToken();
        } catch (error) {
          if (!isPassing(error) || repeats >= limit) throw error;
          const delay = delayAfter(error, repeats);
          if (delay > limits.left()) throw error;
          await limits.race(() => pause(delay, limits.signal));
        }
      }
    } catch (error) {
      if (!(error instanceof CreditsError)) throw error;
      const told = unsure && key !== null && !isVerdict(error) ? unknownOutcome(error) : error;
      told.idempotencyKey = key;
      told.unsure = unsure;
      if (error instanceof UnauthorizedError) onUnauthorized?.(error);
      throw told;
    } finally {
      limits.end();
    }
  }

  /**
   * Read a page of a list that goes on.
   *
   * @template T
   * @param {string} path
   * @param {Query} [query]
   * @param {CallOptions} [options]
   * @returns {Promise<Page<T>>}
   */
  async function getPage(path, query, options) {
    /** @type {Answer<T[]>} */
    const { body, headers } = await request({ method: "GET", path, query }, options);
    const cursor = cursorOf(headers.get("Link"));
    return {
      items: body,
      cursor,
      next: async (nextOptions) => {
        if (cursor === null) return null;
        return getPage(path, { ...query, offset: null, before: cursor }, nextOptions);
      },
    };
  }

  return {
    /**
     * Read something.
     *
     * @template T
     * @param {string} path
     * @param {Query} [query]
     * @param {CallOptions} [options]
     * @returns {Promise<T>}
     */
    async get(path, query, options) {
      return (await request({ method: "GET", path, query }, options)).body;
    },

    /**
     * Read what needs no token.
     *
     * @template T
     * @param {string} path
     * @param {CallOptions} [options]
     * @returns {Promise<T>}
     */
    async getPublic(path, options) {
      return (await request({ method: "GET", path, anonymous: true }, options)).body;
    },

    getPage,

    /**
     * Change something that is the same after a repetition.
     *
     * @template T
     * @param {"POST" | "DELETE"} method
     * @param {string} path
     * @param {Call["body"]} body
     * @param {CallOptions} [options]
     * @returns {Promise<T>}
     */
    async change(method, path, body, options) {
      return (await request({ method, path, body }, options)).body;
    },

    /**
     * Move credits.
     *
     * @template T
     * @param {"POST" | "DELETE"} method
     * @param {string} path
     * @param {Call["body"]} body
     * @param {MoveOptions} [options]
     * @returns {Promise<T>}
     */
    async move(method, path, body, options) {
      return (await request({ method, path, body, moves: true }, options)).body;
    },
  };
}

/**
 * Every item of a list that goes on, fetched page by page as it is read.
 *
 * @template T
 * @param {() => Promise<Page<T>>} first
 * @param {CallOptions} [options] for each further page
 * @returns {AsyncGenerator<T, void, undefined>}
 */
export async function* itemsOf(first, options) {
  /** @type {Page<T> | null} */
  let page = await first();
  while (page !== null) {
    yield* page.items;
    page = await page.next(options);
  }
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

/**
 * Whether an attempt that failed so may have done its work all the same.
 *
 * @param {unknown} error
 */
function mayHaveHappened(error) {
  if (error instanceof UnavailableError || error instanceof PaymentError) return false;
  return error instanceof CreditsError && !isRefusal(error.status);
}

/**
 * Whether the failure says of all attempts together that nothing has happened: an attempt that
 * came before it would have been found by its key.
 *
 * @param {CreditsError} error
 */
function isVerdict(error) {
  if (error instanceof PaymentError) return true;
  const unseen =
    error instanceof NetworkError ||
    error instanceof UnauthorizedError ||
    error instanceof RateLimitedError;
  return isRefusal(error.status) && !unseen;
}

/** @param {number | null} status */
function isRefusal(status) {
  return status !== null && status >= 400 && status < 500;
}

/**
 * Whether the failure may be over in a moment.
 *
 * @param {unknown} error
 * @returns {error is CreditsError}
 */
function isPassing(error) {
  if (error instanceof RequestTimeoutError) return false;
  if (error instanceof NetworkError) return error.status === null || error.status >= 500;
  if (error instanceof UnavailableError) return error.retryAfter !== null;
  return error instanceof OutcomeUnknownError;
}

/**
 * @param {CreditsError} error
 * @returns {OutcomeUnknownError}
 */
function unknownOutcome(error) {
  if (error instanceof OutcomeUnknownError) return error;
  const { status, requestId, retryAfter } = error;
  const message = "The call may or may not have been carried out";
  const known = { status, requestId, retryAfter, message, cause: error };
  return new OutcomeUnknownError({ ...known, code: "outcome_unknown" });
}

/** @param {Query} [query] */
function queryOf(query = {}) {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null) given.set(name, String(value));
  }
  return String(given) && `?${given}`;
}

/**
 * What ends a call from outside: its time, or its caller's signal.
 *
 * @param {AbortSignal | undefined} outer
 * @param {number} timeout milliseconds
 */
function bound(outer, timeout) {
  const controller = new AbortController();
  const { signal } = controller;
  const until = performance.now() + timeout;
  const timer = setTimeout(
    () =>
      controller.abort(new RequestTimeoutError({ code: "timeout", message: "No answer in time" })),
    Math.min(timeout, LONGEST_TIMER),
  );
  const follow = () => controller.abort(outer?.reason);
  if (outer?.aborted) follow();
  else outer?.addEventListener("abort", follow, { once: true });
  return {
    signal,
    left: () => until - performance.now(),
    /**
     * Do something, and wait no longer than the call may last.
     *
     * @template T
     * @param {() => Promise<T>} work
     * @returns {Promise<T>}
     */
    async race(work) {
      signal.throwIfAborted();
      /** @type {() => void} */
      let stop = () => {};
      const stopped = new Promise((_resolve, reject) => {
        stop = () => reject(signal.reason);
        signal.addEventListener("abort", stop, { once: true });
      });
      try {
        return await Promise.race([work(), /** @type {Promise<never>} */ (stopped)]);
      } finally {
        signal.removeEventListener("abort", stop);
      }
    },
    end() {
      clearTimeout(timer);
      outer?.removeEventListener("abort", follow);
    },
  };
}

/**
 * @param {number} delay milliseconds
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
function pause(delay, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, delay);
    signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  });
}
