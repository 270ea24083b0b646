// What states and kinds are called, on more than one page.

import { texts } from "./i18n.js";

const say = texts({
  en: {
    types: /** @type {Record<string, string>} */ ({
      purchase: "Purchase",
      usage: "Used",
      refund: "Refund",
      gift: "Gift",
      grant: "Credited",
      reversal: "Reversal",
      forfeiture: "Forfeited",
    }),
    purchases: /** @type {Record<string, string>} */ ({
      pending: "Waiting for payment",
      processing: "Bank debit under way",
      completed: "Completed",
      failed: "Payment failed",
      cancelled: "Cancelled",
      refunded: "Refunded",
      partially_refunded: "Partly refunded",
      disputed: "Disputed",
    }),
    intervals: /** @type {Record<string, string>} */ ({
      monthly: "Monthly",
      quarterly: "Quarterly",
      yearly: "Yearly",
    }),
    gifts: /** @type {Record<string, string>} */ ({
      active: "Not redeemed yet",
      depleted: "Redeemed",
      expired: "Expired",
      cancelled: "Cancelled",
    }),
  },
  de: {
    types: {
      purchase: "Kauf",
      usage: "Verbraucht",
      refund: "Erstattung",
      gift: "Geschenk",
      grant: "Gutschrift",
      reversal: "Rückbuchung",
      forfeiture: "Verfallen",
    },
    purchases: {
      pending: "Zahlung steht aus",
      processing: "Lastschrift läuft",
      completed: "Abgeschlossen",
      failed: "Zahlung fehlgeschlagen",
      cancelled: "Abgebrochen",
      refunded: "Erstattet",
      partially_refunded: "Teilweise erstattet",
      disputed: "Angefochten",
    },
    intervals: { monthly: "Monatlich", quarterly: "Vierteljährlich", yearly: "Jährlich" },
    gifts: {
      active: "Noch nicht eingelöst",
      depleted: "Eingelöst",
      expired: "Abgelaufen",
      cancelled: "Zurückgenommen",
    },
  },
});

/** The kinds of moves, by what the API calls them. */
export const types = say.types;

/** A kind of move. @param {string} type */
export const typeWord = (type) => say.types[type] ?? type;

/** @typedef {"good" | "bad" | "wait" | "quiet"} Tone */

/**
 * Where a purchase stands, a debit under way being a state of its own.
 *
 * @param {{ status: string, metadata: Record<string, unknown> | null }} purchase
 */
export const purchaseState = ({ status, metadata }) =>
  status === "pending" && metadata?.payment === "processing" ? "processing" : status;

/** @type {Readonly<Record<string, Tone>>} */
const PURCHASE_TONES = {
  pending: "wait",
  processing: "wait",
  completed: "good",
  failed: "bad",
  disputed: "bad",
};

/**
 * The same as a tone and a word, for a badge.
 *
 * @param {{ status: string, metadata: Record<string, unknown> | null }} purchase
 * @returns {[Tone, string]}
 */
export function purchaseWord(purchase) {
  const state = purchaseState(purchase);
  return [PURCHASE_TONES[state] ?? "quiet", say.purchases[state] ?? state];
}

/** An interval of Cloud Sync. @param {string} interval */
export const intervalWord = (interval) => say.intervals[interval] ?? interval;

/**
 * Where a gift stands, for a badge.
 *
 * @param {string} status
 * @returns {[Tone, string]}
 */
export const giftWord = (status) => [
  status === "active" ? "wait" : status === "depleted" ? "good" : "quiet",
  say.gifts[status] ?? status,
];
