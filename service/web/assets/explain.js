// What went wrong, in the reader's language. The API's own message is the last resort.

import { texts } from "./i18n.js";
import { credits } from "./format.js";
import { SignedOutError } from "./session.js";

/** @typedef {{ code?: string, message?: string, details?: unknown, requestId?: string | null, retryAfter?: number | null }} Told */

const say = texts({
  en: {
    codes: /** @type {Record<string, string>} */ ({
      forbidden: "You are not allowed to do this.",
      gift_expired: "This gift has expired.",
      gift_not_active: "This gift can no longer be redeemed.",
      gift_wrong_recipient: "This gift is meant for another e-mail address.",
      idempotency_key_reused:
        "This was sent before, with other values. Reload the page and try again.",
      not_found: "This does not exist, or not for you.",
      payment_provider_error:
        "The payment provider does not answer. Nothing was charged; try again.",
      stripe_not_configured: "Buying is switched off here.",
      sync_already_active: "Cloud Sync is already on.",
      sync_already_gifted: "Cloud Sync is already a gift.",
      sync_gifted: "Cloud Sync is a gift and cannot be changed.",
      sync_not_active: "Cloud Sync is not on.",
      sync_not_gifted: "Cloud Sync is not a gift.",
      unauthorized: "Your session has ended. Sign in again.",
      unavailable: "The service is not available right now. Try again in a moment.",
      outcome_unknown:
        "It is not known whether this was done. Reload the page before you repeat it.",
    }),
    insufficient: (/** @type {number} */ required, /** @type {number} */ available) =>
      `This takes ${credits(required)}, and you have ${credits(available)}.`,
    limited: (/** @type {number} */ seconds) =>
      `Too many attempts. Try again in ${seconds} ${seconds === 1 ? "second" : "seconds"}.`,
    network: "There is no connection to the service. Check your network and try again.",
    signedOut: "You are signed out.",
    unknown: "Something went wrong.",
    request: (/** @type {string} */ id) => `Request ${id}`,
  },
  de: {
    codes: {
      forbidden: "Das darfst du nicht.",
      gift_expired: "Dieses Geschenk ist abgelaufen.",
      gift_not_active: "Dieses Geschenk kann nicht mehr eingelöst werden.",
      gift_wrong_recipient: "Dieses Geschenk ist für eine andere E-Mail-Adresse bestimmt.",
      idempotency_key_reused:
        "Das wurde schon einmal mit anderen Werten gesendet. Lade die Seite neu und versuch es noch einmal.",
      not_found: "Das gibt es nicht, oder nicht für dich.",
      payment_provider_error:
        "Der Zahlungsdienst antwortet nicht. Es wurde nichts abgebucht; versuch es noch einmal.",
      stripe_not_configured: "Hier kann man gerade nichts kaufen.",
      sync_already_active: "Cloud Sync ist schon an.",
      sync_already_gifted: "Cloud Sync ist schon geschenkt.",
      sync_gifted: "Cloud Sync ist geschenkt und lässt sich nicht ändern.",
      sync_not_active: "Cloud Sync ist nicht an.",
      sync_not_gifted: "Cloud Sync ist nicht geschenkt.",
      unauthorized: "Deine Sitzung ist zu Ende. Melde dich neu an.",
      unavailable: "Der Dienst ist gerade nicht erreichbar. Versuch es gleich noch einmal.",
      outcome_unknown:
        "Es ist nicht sicher, ob das geschehen ist. Lade die Seite neu, bevor du es wiederholst.",
    },
    insufficient: (required, available) =>
      `Das braucht ${credits(required)}, und du hast ${credits(available)}.`,
    limited: (seconds) =>
      `Zu viele Versuche. Versuch es in ${seconds} ${seconds === 1 ? "Sekunde" : "Sekunden"} noch einmal.`,
    network: "Keine Verbindung zum Dienst. Prüfe dein Netz und versuch es noch einmal.",
    signedOut: "Du bist nicht angemeldet.",
    unknown: "Etwas ist schiefgegangen.",
    request: (id) => `Anfrage ${id}`,
  },
});

/**
 * An error as a sentence for people.
 *
 * @param {unknown} error
 * @returns {string}
 */
export function explain(error) {
  if (error instanceof SignedOutError) return say.signedOut;
  const told = /** @type {Told} */ (error ?? {});
  const details = /** @type {{ required?: number, available?: number } | null} */ (
    told.details ?? null
  );
  if (told.code === "insufficient_credits" && details?.required !== undefined) {
    return say.insufficient(details.required, details.available ?? 0);
  }
  if (told.code === "rate_limited")
    return say.limited(Math.max(1, Math.ceil(told.retryAfter ?? 60)));
  const known = told.code === undefined ? undefined : say.codes[told.code];
  if (known !== undefined) return known;
  if (told.code === "network_error" || told.code === "timeout" || told.code === "bad_answer") {
    return say.network;
  }
  if (error instanceof TypeError) return say.network;
  if (told.code === undefined) return say.unknown;
  const beside = told.requestId ? ` (${say.request(told.requestId)})` : "";
  return `${told.message || say.unknown}${beside}`;
}
