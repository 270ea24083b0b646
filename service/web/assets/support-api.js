// The API as support calls it, and keys that outlive an attempt.

import { createAdminClient } from "../client/admin-client.js";
import { drawKey } from "../client/transport.js";
import { base, getToken } from "./session.js";

/** @typedef {import("../client/types.js").SyncStatus} SyncStatus */
/**
 * @typedef {{
 *   userId: string, email: string | null, balance: number, reserved: number, syncActive: boolean,
 *   lastMoveAt: string | null,
 * }} FoundUser
 * @typedef {{
 *   id: string, amount: number, reason: string, status: string, createdAt: string, expiresAt: string,
 * }} Hold
 * @typedef {{
 *   userId: string, email: string | null, balance: number, reserved: number, totalEarned: number,
 *   totalSpent: number, transactionsCount: number, createdAt: string | null, sync: SyncStatus,
 *   reservations: Hold[],
 * }} Account
 * @typedef {{
 *   id: string, code: string, totalCredits: number, type: string, status: string,
 *   targetEmail: string | null, message: string | null, redeemedBy: string | null,
 *   redeemedAt: string | null, expiresAt: string, createdAt: string,
 * }} SupportGift
 * @typedef {{
 *   id: string, adminId: string, adminName: string | null, action: string, reason: string | null,
 *   transactionId: string | null, details: Record<string, unknown>, createdAt: string,
 * }} Action
 * @typedef {{
 *   date: string, sold: number, granted: number, used: number, reversed: number, refunded: number,
 *   outstanding: number,
 * }} Day
 * @typedef {{
 *   job: string, lastStartedAt: string | null, lastEndedAt: string | null,
 *   lastSucceededAt: string | null, did: Record<string, unknown> | null, error: string | null,
 *   late: boolean,
 * }} Job
 * @typedef {{
 *   days: Day[],
 *   subscriptions: { active: number, paused: number, gifted: number },
 *   nextRun: { due: number, charges: number, pauses: number, credits: number },
 *   jobs: Job[],
 *   ledgerCheck: { checkedAt: string | null, violations: number | null },
 *   stripeEvents: { failed: number, received: number },
 *   notices: { waiting: number, failed: number, undeliverable: number },
 * }} Overview
 * @typedef {{
 *   id: string, type: string, state: string, error: string | null, receivedAt: string,
 *   attempts: number, nextAttemptAt: string | null, purchaseId: string | null,
 * }} StripeEvent
 * @typedef {{ id: string, state: string, outcome: string | null, error: string | null }} Replayed
 * @typedef {{
 *   id: string, userId: string, kind: string, state: string, attempts: number,
 *   lastError: string | null, createdAt: string, nextAttemptAt: string | null,
 * }} Notice
 */

export const admin = createAdminClient({ baseUrl: location.origin + base, getToken });

/** Where a user's page is. @param {string} userId */
export const userPath = (userId) => `${base}/admin/users/${encodeURIComponent(userId)}`;

/**
 * Do something with an idempotency key that is kept until it has succeeded, over a reload as well:
 * whoever does not know how an attempt ended, and tries again, does it once.
 *
 * @template T
 * @param {string} name of what is done, and to whom
 * @param {(idempotencyKey: string) => Promise<T>} run
 * @returns {Promise<{ done: T, again: boolean }>} again: there was an attempt before this one
 */
export async function withKey(name, run) {
  const place = `mana-support:${name}`;
  const kept = sessionStorage.getItem(place);
  const key = kept ?? drawKey();
  sessionStorage.setItem(place, key);
  const done = await run(key);
  sessionStorage.removeItem(place);
  return { done, again: kept !== null };
}

/** An attempt has turned out to have succeeded: the next one is another. @param {string} name */
export function forgetKey(name) {
  sessionStorage.removeItem(`mana-support:${name}`);
}
