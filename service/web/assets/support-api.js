// The API as support calls it, and keys that outlive an attempt.

import { createAdminClient } from "../client/admin-client.js";
import { drawKey } from "../client/transport.js";
import { base, getToken } from "./session.js";

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
