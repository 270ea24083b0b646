// What can go wrong with a call, as exceptions. All are CreditsErrors.

/**
 * What is known about a failure; everything but the code may be missing.
 *
 * @typedef {object} Failure
 * @property {string} code stable, for programs
 * @property {string} [message] for people, in English
 * @property {number | null} [status] of HTTP, null where there was no answer
 * @property {unknown} [details] facts, of a form that depends on the code
 * @property {string | null} [requestId] by which the service's log knows the request
 * @property {number | null} [retryAfter] seconds after which another attempt is welcome
 * @property {unknown} [cause]
 */

/** A call that did not succeed. */
export class CreditsError extends Error {
  /** @param {Failure} failure */
  constructor({ code, message, status, details, requestId, retryAfter, cause }) {
    super(message ?? code, cause === undefined ? undefined : { cause });
    this.name = new.target.name;
    /** The stable code, such as `insufficient_credits`. */
    this.code = code;
    /** The status of HTTP, null where there was no answer. */
    this.status = status ?? null;
    /** Facts for programs, null where there are none. */
    this.details = details ?? null;
    /** By which the service's log knows the request, null where there was no answer. */
    this.requestId = requestId ?? null;
    /** Seconds after which another attempt is welcome, null where nothing was said. */
    this.retryAfter = retryAfter ?? null;
    /**
     * The key that the call was made with, null for calls that take none. Repeating the same
     * call with it never moves credits twice.
     *
     * @type {string | null}
     */
    this.idempotencyKey = null;
    /** Whether an attempt of the call may have been carried out, this failure or not. */
    this.unsure = false;
  }
}

/** 400 `invalid_request`: something in the request is wrong; `fields` says what. */
export class InvalidRequestError extends CreditsError {
  /** @returns {{ field: string, message: string }[]} the fields that are wrong, if it is them */
  get fields() {
    return Array.isArray(this.details) ? this.details : [];
  }
}

/** 401: there is no token, or the service does not take it, a fresh one included. */
export class UnauthorizedError extends CreditsError {}

/** 402: the balance is too low. */
export class InsufficientCreditsError extends CreditsError {
  /** @returns {number | null} the credits that the call would take */
  get required() {
    return numberIn(this.details, "required");
  }

  /** @returns {number | null} the credits that can be spent */
  get available() {
    return numberIn(this.details, "available");
  }
}

/** 403 `forbidden`: the caller is known and may not. */
export class ForbiddenError extends CreditsError {}

/** 404: there is no such thing, or it belongs to somebody else. */
export class NotFoundError extends CreditsError {}

/** The gift cannot be had: `gift_not_active`, `gift_expired` or `gift_wrong_recipient`. */
export class GiftRefusedError extends CreditsError {}

/**
 * Cloud Sync is not in a state for that: `sync_already_active`, `sync_already_gifted`,
 * `sync_not_active`, `sync_gifted` or `sync_not_gifted`.
 */
export class SyncStateError extends CreditsError {}

/** 409: the idempotency key was used before, for another request. */
export class IdempotencyKeyReusedError extends CreditsError {}

/** 429: too many calls; `retryAfter` says when the next one may be made. */
export class RateLimitedError extends CreditsError {}

/** Stripe failed (`payment_provider_error`), or nothing is sold (`stripe_not_configured`). */
export class PaymentError extends CreditsError {}

/** 503 `unavailable`: nothing has happened, and trying again soon is right. */
export class UnavailableError extends CreditsError {}

/**
 * The call may have moved credits, and nobody knows: the service said so, or the connection broke,
 * and repeating did not help. Make the same call with the same `idempotencyKey` later.
 */
export class OutcomeUnknownError extends CreditsError {}

/** There was no answer of the service's: `network_error`, or `bad_answer` from something else. */
export class NetworkError extends CreditsError {}

/** There was no answer in time: `timeout`. */
export class RequestTimeoutError extends NetworkError {}

/** @type {Readonly<Record<string, typeof CreditsError>>} */
const CLASSES = Object.freeze({
  invalid_request: InvalidRequestError,
  unauthorized: UnauthorizedError,
  insufficient_credits: InsufficientCreditsError,
  forbidden: ForbiddenError,
  not_found: NotFoundError,
  gift_not_active: GiftRefusedError,
  gift_expired: GiftRefusedError,
  gift_wrong_recipient: GiftRefusedError,
  sync_already_active: SyncStateError,
  sync_already_gifted: SyncStateError,
  sync_not_active: SyncStateError,
  sync_gifted: SyncStateError,
  sync_not_gifted: SyncStateError,
  idempotency_key_reused: IdempotencyKeyReusedError,
  rate_limited: RateLimitedError,
  payment_provider_error: PaymentError,
  stripe_not_configured: PaymentError,
  unavailable: UnavailableError,
  outcome_unknown: OutcomeUnknownError,
});

/**
 * The exception for an answer that is not a success.
 *
 * @param {number} status
 * @param {Headers} headers
 * @param {string} text the body
 * @returns {CreditsError}
 */
export function errorOf(status, headers, text) {
  const known = {
    status,
    requestId: headers.get("X-Request-Id"),
    retryAfter: seconds(headers.get("Retry-After")),
  };
  const envelope = parsed(text);
  if (typeof envelope?.error !== "string") {
    const message = `Something between here and the service answered ${status}`;
    return new NetworkError({ ...known, code: "bad_answer", message });
  }
  const { error: code, message, details } = envelope;
  const Type = (Object.hasOwn(CLASSES, code) && CLASSES[code]) || CreditsError;
  return new Type({ ...known, code, message: String(message ?? code), details });
}

/**
 * @param {string} text
 * @returns {{ error?: unknown, message?: unknown, details?: unknown } | null}
 */
function parsed(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}

/**
 * @param {string | null} header a number of seconds, or a date
 * @returns {number | null}
 */
function seconds(header) {
  if (header === null) return null;
  if (/^\d+$/.test(header)) return Number(header);
  const until = (Date.parse(header) - Date.now()) / 1000;
  return Number.isNaN(until) ? null : Math.max(0, Math.ceil(until));
}

/**
 * @param {unknown} details
 * @param {string} name
 */
function numberIn(details, name) {
  const value = /** @type {Record<string, unknown> | null} */ (details)?.[name];
  return typeof value === "number" ? value : null;
}
