// Buying through Stripe's page, and not twice: who comes back and presses again goes on with the
// same purchase.

import { api } from "./api.js";
import { base } from "./session.js";
import { drawKey } from "../client/transport.js";

const KEPT = "mana-checkout";

/** @typedef {{ packageId: string, key: string, purchaseId?: string }} Begun */

/**
 * Begin a purchase, and go to Stripe's page.
 *
 * @param {string} packageId
 */
export async function buy(packageId) {
  const begun = await unfinished(packageId);
  const key = begun?.key ?? drawKey();
  // Kept before it is sent: if the answer is lost, the next press asks for the same purchase.
  keep({ packageId, key });
  const { purchaseId, checkoutUrl } = await api.beginCheckout(
    {
      packageId,
      successUrl: `${location.origin}${base}/purchases/{purchaseId}`,
      cancelUrl: `${location.origin}${base}/#top-up`,
    },
    { idempotencyKey: key },
  );
  keep({ packageId, key, purchaseId });
  if (!checkoutUrl) throw new Error("the purchase has no page to pay at");
  location.assign(checkoutUrl);
  // The button stays busy until the page is gone.
  await new Promise(() => {});
}

/** What was begun has ended: the next purchase is another one. @param {string} purchaseId */
export function forget(purchaseId) {
  if (read()?.purchaseId === purchaseId) sessionStorage.removeItem(KEPT);
}

/**
 * What was begun of this package and can still be paid.
 *
 * @param {string} packageId
 * @returns {Promise<Begun | null>}
 */
async function unfinished(packageId) {
  const begun = read();
  if (begun === null || begun.packageId !== packageId) return null;
  if (begun.purchaseId === undefined) return begun;
  const { status } = await api.purchase(begun.purchaseId);
  return status === "pending" ? begun : null;
}

/** @returns {Begun | null} */
function read() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
  } catch {
    return null;
  }
}

/** @param {Begun} begun */
function keep(begun) {
  sessionStorage.setItem(KEPT, JSON.stringify(begun));
}
