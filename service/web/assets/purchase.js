// A purchase, followed until it is done: where Stripe's page leads back to.

import { api } from "./api.js";
import { forget } from "./checkout.js";
import { h } from "./dom.js";
import { credits, dateTime, euros } from "./format.js";
import { texts } from "./i18n.js";
import { base } from "./session.js";
import { start } from "./shell.js";
import { badge, fact, region } from "./ui.js";
import { purchaseState, purchaseWord } from "./words.js";
import { NotFoundError } from "../client/credits-client.js";

/** @typedef {import("../client/types.js").Purchase} Purchase */

const say = texts({
  en: {
    title: "Your purchase",
    about: /** @type {Record<string, string>} */ ({
      pending: "We are waiting for your payment. This page follows it by itself.",
      processing:
        "Your bank debit is under way, which takes a few days. The credits come when it has arrived; you need not stay on this page.",
      completed: "Thank you! The credits are in your account.",
      failed: "The payment did not work, and nothing was charged. You can try again.",
      cancelled: "This purchase was not paid, and nothing was charged.",
      refunded: "This purchase was refunded, and its credits were taken back.",
      partially_refunded: "A part of this purchase was refunded, and its credits were taken back.",
      disputed:
        "Your bank disputes this payment, so its credits are taken back until that is settled.",
    }),
    amount: "Credits",
    price: "Price",
    begun: "Begun",
    done: "Completed",
    back: "To your account",
    state: "State",
    again: "Try again",
    unknown:
      "There is no such purchase in your account. Perhaps you are signed in as somebody else.",
  },
  de: {
    title: "Dein Kauf",
    about: {
      pending: "Wir warten auf deine Zahlung. Diese Seite folgt ihr von selbst.",
      processing:
        "Deine Lastschrift läuft, das dauert ein paar Tage. Die Credits kommen, wenn sie eingetroffen ist; du musst nicht auf dieser Seite bleiben.",
      completed: "Danke! Die Credits sind auf deinem Konto.",
      failed:
        "Die Zahlung hat nicht geklappt, und es wurde nichts abgebucht. Du kannst es noch einmal versuchen.",
      cancelled: "Dieser Kauf wurde nicht bezahlt, und es wurde nichts abgebucht.",
      refunded: "Dieser Kauf wurde erstattet, und seine Credits wurden zurückgenommen.",
      partially_refunded:
        "Dieser Kauf wurde teilweise erstattet, und die Credits dafür wurden zurückgenommen.",
      disputed:
        "Deine Bank ficht diese Zahlung an; bis das geklärt ist, sind ihre Credits zurückgenommen.",
    },
    amount: "Credits",
    price: "Preis",
    begun: "Begonnen",
    done: "Abgeschlossen",
    back: "Zu deinem Konto",
    state: "Stand",
    again: "Noch einmal versuchen",
    unknown:
      "Diesen Kauf gibt es in deinem Konto nicht. Vielleicht bist du als jemand anderes angemeldet.",
  },
});

const FIRST_MS = 1_500;
/** The service asks Stripe at most once in ten seconds, so asking it more often finds nothing. */
const LAST_MS = 10_000;
/** A debit takes days: a page that is left open need not ask every ten seconds. */
const DEBIT_MS = 60_000;

start({
  title: say.title,
  here: "account",
  render: () => {
    const purchaseId = location.pathname.split("/").at(-1) ?? "";
    const about = h("p", { className: "lead", role: "status" });
    /** @type {string | null} */
    let state = null;
    const follow = region({
      lines: 5,
      load: (signal) => look(purchaseId, signal),
      render: (purchase) => {
        state = purchase === null ? null : purchaseState(purchase);
        const said = state === null ? say.unknown : (say.about[state] ?? "");
        // Said again only when it is something else.
        if (about.textContent !== said) about.textContent = said;
        return [about, purchase !== null && facts(purchase), wayOn(state)];
      },
    });
    void watch();
    return h("div", { className: "card narrow-page" }, follow.element);

    async function watch() {
      let pause = FIRST_MS;
      while ((await follow.reload()) && (state === "pending" || state === "processing")) {
        await wait(state === "processing" ? DEBIT_MS : pause);
        pause = Math.min(pause * 1.5, LAST_MS);
      }
      if (state !== null && state !== "pending") forget(purchaseId);
    }
  },
});

/**
 * The purchase, or null for one that is not there, or somebody else's.
 *
 * @param {string} purchaseId
 * @param {AbortSignal} signal
 */
async function look(purchaseId, signal) {
  try {
    return await api.purchase(purchaseId, { signal });
  } catch (error) {
    if (error instanceof NotFoundError) return null;
    throw error;
  }
}

/** @param {Purchase} purchase */
function facts(purchase) {
  return h(
    "dl",
    { className: "facts" },
    fact(say.state, badge(...purchaseWord(purchase))),
    fact(say.amount, credits(purchase.credits)),
    fact(say.price, euros(purchase.priceEuroCents)),
    fact(say.begun, dateTime(purchase.createdAt)),
    purchase.completedAt && fact(say.done, dateTime(purchase.completedAt)),
  );
}

/** @param {string | null} state */
function wayOn(state) {
  const lost = state === "failed" || state === "cancelled";
  return h(
    "div",
    { className: "choices" },
    lost && h("a", { className: "button primary", href: `${base}/#top-up` }, say.again),
    h("a", { className: "button", href: `${base}/` }, say.back),
  );
}

/** @param {number} ms */
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
