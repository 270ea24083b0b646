// What both pages of gifts do with a gift: hand on its link, redeem it, show what came of it.

import { api } from "./api.js";
import { h, svg } from "./dom.js";
import { SaidError } from "./explain.js";
import { credits } from "./format.js";
import { texts } from "./i18n.js";
import { base } from "./session.js";
import { fact } from "./parts.js";
import { actionButton, copyButton } from "./ui.js";
import { OutcomeUnknownError } from "../client/credits-client.js";

/** @typedef {import("./dom.js").Child} Child */
/** @typedef {import("../client/types.js").GiftRedeemed} GiftRedeemed */

const say = texts({
  en: {
    copyLink: "Copy link",
    share: "Share",
    shared: "I am giving you credits. Open the link to redeem them.",
    lost: "No answer came. Press again: a gift is redeemed only once.",
    got: (/** @type {string} */ amount) => `You have received ${amount}.`,
    from: (/** @type {string} */ name) => `From ${name}`,
    balance: "Your balance now",
    account: "To your account",
  },
  de: {
    copyLink: "Link kopieren",
    share: "Teilen",
    shared: "Ich schenke dir Credits. Öffne den Link, um sie einzulösen.",
    lost: "Es kam keine Antwort. Drück noch einmal: Ein Geschenk wird nur einmal eingelöst.",
    got: (amount) => `Du hast ${amount} bekommen.`,
    from: (name) => `Von ${name}`,
    balance: "Dein Guthaben jetzt",
    account: "Zu deinem Konto",
  },
});

/**
 * The ways to hand a link on.
 *
 * @param {string} url
 * @param {string} [description] a longer name for copying it
 * @returns {Child[]}
 */
export function handOn(url, description) {
  return [
    copyButton(say.copyLink, url, description),
    "share" in navigator &&
      actionButton({ label: say.share, className: "small", run: () => share(url) }),
  ];
}

/** @param {string} url */
async function share(url) {
  try {
    await navigator.share({ text: say.shared, url });
  } catch (error) {
    // Who closes the choice has changed their mind.
    if (!(error instanceof DOMException && error.name === "AbortError")) throw error;
  }
}

/**
 * Redeem a code. Asked again by the same person the service gives the same answer, so that it needs
 * no key to be kept.
 *
 * @param {string} code
 */
export async function redeem(code) {
  try {
    return await api.gifts.redeem(code);
  } catch (error) {
    if (error instanceof OutcomeUnknownError) throw new SaidError(say.lost);
    throw error;
  }
}

/**
 * What somebody has got, to be put in place of the button; `heading` is where the focus goes.
 *
 * @param {GiftRedeemed} redeemed
 */
export function thanks({ credits: amount, creatorName, message, newBalance }) {
  const heading = h("h2", { className: "got", tabIndex: -1 }, say.got(credits(amount)));
  const element = h(
    "div",
    { className: "gift joy" },
    picture(),
    heading,
    creatorName !== null && h("p", { className: "soft user-text" }, say.from(creatorName)),
    words(message),
    h("dl", { className: "facts" }, fact(say.balance, credits(newBalance))),
    h(
      "div",
      { className: "choices" },
      h("a", { className: "button primary", href: `${base}/` }, say.account),
    ),
  );
  return { element, heading };
}

/** What the giver has written. @param {string | null} message */
export const words = (message) =>
  message !== null && message !== "" && h("blockquote", { className: "user-text" }, message);

/** A present, and what flies from it when it is opened. */
export function picture() {
  const sparks = Array.from({ length: 8 }, (_, index) =>
    svg(
      "g",
      { transform: `translate(60 62) rotate(${index * 45 - 22.5})` },
      svg("circle", { class: `spark spark-${index % 3}`, r: 3.5 }),
    ),
  );
  return svg(
    "svg",
    { class: "present", viewBox: "0 0 120 112", width: 120, height: 112, "aria-hidden": "true" },
    sparks,
    svg("rect", { class: "box", x: 26, y: 56, width: 68, height: 46, rx: 6 }),
    svg("rect", { class: "ribbon", x: 54, y: 56, width: 12, height: 46 }),
    svg(
      "g",
      { class: "lid" },
      svg("path", {
        class: "bow",
        d: "M60 40 C44 12 26 24 36 36 Q42 42 60 40 C78 42 84 36 84 36 C94 24 76 12 60 40 Z",
      }),
      svg("rect", { class: "top", x: 20, y: 40, width: 80, height: 18, rx: 5 }),
      svg("rect", { class: "ribbon", x: 54, y: 40, width: 12, height: 18 }),
    ),
  );
}
