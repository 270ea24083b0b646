// What support does to a user: each in a dialog, with a reason, and once.

import { h } from "./dom.js";
import { credits } from "./format.js";
import { texts } from "./i18n.js";
import { admin, forgetKey, withKey } from "./support-api.js";
import { askForm, field } from "./forms.js";
import { announce } from "./ui.js";
import {
  CreditsError,
  IdempotencyKeyReusedError,
  InvalidRequestError,
} from "../client/admin-client.js";

/** @typedef {import("../client/types.js").Transaction} Transaction */

const say = texts({
  en: {
    reason: "Reason",
    reasonHint: "For your colleagues; the user sees it only in an export of all data.",
    reasonMissing: "Say why.",
    amount: "Credits",
    amountWrong: "A whole number from 1 to 1,000,000,000.",
    grant: "Grant credits",
    granted: (/** @type {string} */ amount) => `Granted: ${amount}.`,
    refund: "Refund a debit",
    refundButton: "Refund",
    refundOf: (/** @type {string} */ what, /** @type {string} */ amount) =>
      `${what}: ${amount} were debited.`,
    refundHint: "Leave it empty for all that is left of the debit.",
    refunded: (/** @type {string} */ amount) => `Refunded: ${amount}.`,
    left: (/** @type {string} */ amount) => `Only ${amount} are left of this debit.`,
    nothingLeft: "Nothing is left of this debit: it has been refunded.",
    before: (/** @type {string} */ amount) =>
      `That had been done before, with ${amount}, and was not done again.`,
    otherBefore:
      "An earlier attempt was carried out after all, with other values: see what support has done. Send this only if it is wanted beside that.",
    give: "Give Cloud Sync",
    giveAbout:
      "Cloud Sync is on and costs nothing until the gift is ended. What is paid already stays the user's.",
    giveButton: "Give",
    given: "Cloud Sync is a gift now.",
    revoke: "End the gift of Cloud Sync",
    revokeAbout: "Cloud Sync is off then. The data stay on the user's devices.",
    revokeButton: "End the gift",
    revoked: "The gift of Cloud Sync is ended.",
    erase: "Erase the user",
    eraseAbout:
      "Cloud Sync ends, open holds and gifts go back, and what is left is forfeited. Names, addresses and texts are cleared; amounts and times stay in the ledger, under a pseudonym. This cannot be undone.",
    eraseId: "The user id, to confirm",
    eraseWrong: "This is not the id of this user.",
    erased: (/** @type {string} */ amount) => `The user is erased. Forfeited: ${amount}.`,
    file: (/** @type {string} */ userId) => `data of ${userId}.json`,
  },
  de: {
    reason: "Grund",
    reasonHint:
      "Für die anderen im Support; der Benutzer sieht ihn nur in einem Export aller Daten.",
    reasonMissing: "Schreib, warum.",
    amount: "Credits",
    amountWrong: "Eine ganze Zahl von 1 bis 1.000.000.000.",
    grant: "Credits gutschreiben",
    granted: (amount) => `Gutgeschrieben: ${amount}.`,
    refund: "Abbuchung erstatten",
    refundButton: "Erstatten",
    refundOf: (what, amount) => `${what}: abgebucht wurden ${amount}.`,
    refundHint: "Leer heißt: alles, was von der Abbuchung übrig ist.",
    refunded: (amount) => `Erstattet: ${amount}.`,
    left: (amount) => `Von dieser Abbuchung sind nur noch ${amount} übrig.`,
    nothingLeft: "Von dieser Abbuchung ist nichts mehr übrig: sie ist erstattet.",
    before: (amount) =>
      `Das war schon geschehen, mit ${amount}, und ist nicht noch einmal geschehen.`,
    otherBefore:
      "Ein früherer Versuch hat doch geklappt, mit anderen Werten: sieh nach, was der Support getan hat. Sende das hier nur, wenn es zusätzlich sein soll.",
    give: "Cloud Sync schenken",
    giveAbout:
      "Cloud Sync ist an und kostet nichts, bis das Geschenk endet. Was schon bezahlt ist, bleibt dem Benutzer.",
    giveButton: "Schenken",
    given: "Cloud Sync ist jetzt geschenkt.",
    revoke: "Geschenktes Cloud Sync beenden",
    revokeAbout: "Cloud Sync ist dann aus. Die Daten bleiben auf den Geräten des Benutzers.",
    revokeButton: "Geschenk beenden",
    revoked: "Das geschenkte Cloud Sync ist beendet.",
    erase: "Benutzer löschen",
    eraseAbout:
      "Cloud Sync endet, offene Vormerkungen und Geschenke gehen zurück, und was übrig ist, verfällt. Namen, Adressen und Texte werden gelöscht; im Kontobuch bleiben Beträge und Zeiten unter einem Pseudonym. Das lässt sich nicht rückgängig machen.",
    eraseId: "Zur Bestätigung die Benutzer-ID",
    eraseWrong: "Das ist nicht die ID dieses Benutzers.",
    erased: (amount) => `Der Benutzer ist gelöscht. Verfallen: ${amount}.`,
    file: (userId) => `Daten von ${userId}.json`,
  },
});

const AMOUNT_MAX = 1_000_000_000;

/**
 * @param {string} userId
 * @param {() => void} changed
 */
export async function grant(userId, changed) {
  const amount = amountField();
  const reason = reasonField();
  let said = "";
  const done = await askForm({
    title: say.grant,
    fields: [amount, reason],
    label: say.grant,
    run: async () => {
      said = await move(
        `grant:${userId}`,
        (idempotencyKey) =>
          admin.users.grant(
            userId,
            { amount: Number(amount.value), reason: reason.value },
            { idempotencyKey },
          ),
        say.granted,
        changed,
      );
    },
  });
  if (done) tell(said, changed);
}

/**
 * @param {Transaction} debit
 * @param {() => void} changed
 */
export async function refund(debit, changed) {
  const amount = amountField({ hint: say.refundHint, optional: true });
  const reason = reasonField();
  let said = "";
  const done = await askForm({
    title: say.refund,
    body: h(
      "p",
      { className: "user-text" },
      say.refundOf(debit.description, credits(-debit.amount)),
    ),
    fields: [amount, reason],
    label: say.refundButton,
    run: async () => {
      const given = amount.value ? { amount: Number(amount.value) } : {};
      try {
        said = await move(
          `refund:${debit.id}`,
          (idempotencyKey) =>
            admin.users.refund(
              debit.userId,
              { transactionId: debit.id, ...given, reason: reason.value },
              { idempotencyKey },
            ),
          say.refunded,
          changed,
        );
      } catch (error) {
        throw tooMuch(error) ?? error;
      }
    },
  });
  if (done) tell(said, changed);
}

/**
 * @param {string} userId
 * @param {() => void} changed
 */
export async function giveSync(userId, changed) {
  const reason = reasonField();
  const done = await askForm({
    title: say.give,
    body: h("p", {}, say.giveAbout),
    fields: [reason],
    label: say.giveButton,
    run: () => admin.sync.gift(userId, { reason: reason.value }),
  });
  if (done) tell(say.given, changed);
}

/**
 * @param {string} userId
 * @param {() => void} changed
 */
export async function revokeSync(userId, changed) {
  const reason = reasonField();
  const done = await askForm({
    title: say.revoke,
    body: h("p", {}, say.revokeAbout),
    fields: [reason],
    label: say.revokeButton,
    danger: true,
    run: () => admin.sync.revoke(userId, { reason: reason.value }),
  });
  if (done) tell(say.revoked, changed);
}

/**
 * Save everything that is stored about a user as a file.
 *
 * @param {string} userId
 */
export async function download(userId) {
  const document_ = await admin.users.exportAll(userId);
  const file = new Blob([JSON.stringify(document_, null, 2)], { type: "application/json" });
  const url = URL.createObjectURL(file);
  h("a", { href: url, download: say.file(userId) }).click();
  // The browser has taken it over once this turn of the loop is through.
  setTimeout(() => URL.revokeObjectURL(url));
}

/**
 * @param {string} userId
 * @param {() => void} changed
 */
export async function erase(userId, changed) {
  const confirmed = field({
    name: "userId",
    label: say.eraseId,
    control: h("input", { type: "text", autocomplete: "off", spellcheck: false }),
    check: (value) => (value === userId ? "" : say.eraseWrong),
  });
  let said = "";
  const done = await askForm({
    title: say.erase,
    body: h("p", {}, say.eraseAbout),
    fields: [confirmed],
    label: say.erase,
    danger: true,
    run: async () => {
      const { forfeitedCredits } = await admin.users.erase(userId);
      said = say.erased(credits(forfeitedCredits));
    },
  });
  if (done) tell(said, changed);
}

/**
 * Move credits once, whatever became of an attempt before.
 *
 * @param {string} name
 * @param {(idempotencyKey: string) => Promise<import("../client/types.js").Moved>} run
 * @param {(amount: string) => string} tellOf
 * @param {() => void} changed
 * @returns {Promise<string>} what to say of it
 */
async function move(name, run, tellOf, changed) {
  try {
    const { done, again } = await withKey(name, run);
    const amount = credits(done.transaction.amount);
    return again && done.message ? say.before(amount) : tellOf(amount);
  } catch (error) {
    if (!(error instanceof IdempotencyKeyReusedError)) throw error;
    forgetKey(name);
    changed();
    throw new CreditsError({ code: "done_before", message: say.otherBefore });
  }
}

/**
 * What the service says of more than is left of a debit, in the reader's language.
 *
 * @param {unknown} error
 */
function tooMuch(error) {
  if (!(error instanceof InvalidRequestError)) return null;
  const told = /** @type {{ field: string, left?: unknown } | undefined} */ (error.fields[0]);
  if (told?.field !== "amount" || typeof told.left !== "number") return null;
  const message = told.left === 0 ? say.nothingLeft : say.left(credits(told.left));
  return new InvalidRequestError({ code: error.code, details: [{ field: "amount", message }] });
}

/**
 * @param {string} said
 * @param {() => void} changed
 */
function tell(said, changed) {
  announce(said);
  changed();
}

/** @param {{ hint?: string, optional?: boolean }} [options] */
function amountField({ hint, optional = false } = {}) {
  return field({
    name: "amount",
    label: say.amount,
    hint,
    optional,
    control: h("input", { type: "text", inputMode: "numeric", maxLength: 13, autocomplete: "off" }),
    check: (value) => {
      if (value === "" && optional) return "";
      return /^[0-9]+$/.test(value) && Number(value) >= 1 && Number(value) <= AMOUNT_MAX
        ? ""
        : say.amountWrong;
    },
  });
}

function reasonField() {
  return field({
    name: "reason",
    label: say.reason,
    hint: say.reasonHint,
    control: h("textarea", { maxLength: 500, rows: 3 }),
    check: (value) => (value ? "" : say.reasonMissing),
  });
}
