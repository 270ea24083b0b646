// What a gift link opens: everything is seen before signing in but redeeming.

import { api } from "./api.js";
import { fill, h } from "./dom.js";
import { explain } from "./explain.js";
import { credits, date } from "./format.js";
import { handOn, picture, redeem, thanks, words } from "./giving.js";
import { texts } from "./i18n.js";
import { base, canSignIn, signIn, signOut } from "./session.js";
import { start } from "./shell.js";
import { fact } from "./parts.js";
import { actionButton, announce, region } from "./ui.js";
import { GiftRefusedError, InvalidRequestError, NotFoundError } from "../client/credits-client.js";

/** @typedef {import("./dom.js").Child} Child */
/** @typedef {import("./session.js").Person} Person */
/** @typedef {import("../client/types.js").PublicGift} PublicGift */
/** @typedef {import("../client/types.js").ReceivedGift} ReceivedGift */

/**
 * A gift, and what it is to whoever looks at it.
 *
 * @typedef {{ gift: PublicGift, own: boolean, received: ReceivedGift | null }} Found
 */

const say = texts({
  en: {
    title: "A gift of credits",
    from: "From",
    fromNow: (/** @type {string} */ name) => `${name} gives you`,
    somebody: "Somebody gives you",
    until: "Can be redeemed until",
    what: "Credits pay for Cloud Sync, AI and other things that cost money in your apps. 1\u00a0credit is 1\u00a0euro cent.",
    redeem: "Redeem",
    signInToRedeem: "Sign in to redeem",
    signInHint: "You come back to this page, and redeem the gift with one press.",
    signInInApp: "To redeem it, sign in to your app and open this link again.",
    personal:
      "This gift is meant for one person: it is redeemed with the e-mail address for which it was made.",
    you: (/** @type {string} */ who) => `You are signed in as ${who}.`,
    wrong: (/** @type {string} */ who) =>
      `This gift is meant for another e-mail address than ${who}, or that address is not confirmed yet.`,
    yours: "your account's",
    other: "Sign in as somebody else",
    own: "You made this gift",
    ownAbout: "Send the link to whom it is for. Until it is redeemed, you can take it back.",
    ownRedeem: "Redeem it yourself",
    toGifts: "To your gifts",
    enter: "Enter another code",
    account: "To your account",
    has: "You have this gift",
    hasAbout: (/** @type {string} */ amount, /** @type {string} */ when) =>
      `You redeemed it on ${when}, and ${amount} went to your account.`,
    used: "This gift has been redeemed",
    usedAbout:
      "Somebody else was faster, or it was meant for another person. Each gift is redeemed only once.",
    usedUnknown: "If it was you, sign in to see it.",
    usedOwn: "It has arrived: somebody has redeemed your gift.",
    expired: "This gift has expired",
    expiredAbout: (/** @type {string} */ when) =>
      `It could be redeemed until ${when}. Its credits go back to whoever gave it; perhaps you get a new one.`,
    expiredOwn: (/** @type {string} */ when) =>
      `It could be redeemed until ${when}. Its credits go back to you.`,
    cancelled: "This gift was taken back",
    cancelledAbout: "Whoever gave it has taken it back. Perhaps you get a new one.",
    cancelledOwn: "You took it back, and its credits are in your account.",
    unknown: "There is no such gift",
    unknownAbout: "Check that you have the whole link, or the code letter by letter.",
    worth: "Worth",
    signIn: "Sign in",
  },
  de: {
    title: "Credits geschenkt",
    from: "Von",
    fromNow: (name) => `${name} schenkt dir`,
    somebody: "Jemand schenkt dir",
    until: "Einlösbar bis",
    what: "Mit Credits bezahlst du Cloud Sync, KI und anderes, was in deinen Apps Geld kostet. 1\u00a0Credit ist 1\u00a0Eurocent.",
    redeem: "Einlösen",
    signInToRedeem: "Anmelden und einlösen",
    signInHint: "Du kommst auf diese Seite zurück und löst das Geschenk mit einem Druck ein.",
    signInInApp: "Um es einzulösen, melde dich in deiner App an und öffne diesen Link noch einmal.",
    personal:
      "Dieses Geschenk ist für eine einzige Person: Eingelöst wird es mit der E-Mail-Adresse, für die es gemacht ist.",
    you: (who) => `Du bist als ${who} angemeldet.`,
    wrong: (who) =>
      `Dieses Geschenk ist für eine andere E-Mail-Adresse bestimmt als ${who}, oder die Adresse ist noch nicht bestätigt.`,
    yours: "die deines Kontos",
    other: "Als jemand anderes anmelden",
    own: "Das ist ein Geschenk von dir",
    ownAbout:
      "Schick den Link dem Menschen, für den es ist. Bis es eingelöst ist, kannst du es zurücknehmen.",
    ownRedeem: "Selbst einlösen",
    toGifts: "Zu deinen Geschenken",
    enter: "Einen anderen Code eingeben",
    account: "Zu deinem Konto",
    has: "Du hast dieses Geschenk",
    hasAbout: (amount, when) =>
      `Du hast es am ${when} eingelöst und ${amount} auf dein Konto bekommen.`,
    used: "Dieses Geschenk ist eingelöst",
    usedAbout:
      "Jemand anderes war schneller, oder es war für einen anderen Menschen. Jedes Geschenk wird nur einmal eingelöst.",
    usedUnknown: "Wenn du das warst, melde dich an, um es zu sehen.",
    usedOwn: "Es ist angekommen: Jemand hat dein Geschenk eingelöst.",
    expired: "Dieses Geschenk ist abgelaufen",
    expiredAbout: (when) =>
      `Es war bis ${when} einlösbar. Die Credits gehen zurück, vielleicht bekommst du ein neues.`,
    expiredOwn: (when) => `Es war bis ${when} einlösbar. Die Credits gehen an dich zurück.`,
    cancelled: "Dieses Geschenk wurde zurückgenommen",
    cancelledAbout:
      "Wer es geschenkt hat, hat es zurückgenommen. Vielleicht bekommst du ein neues.",
    cancelledOwn: "Du hast es zurückgenommen, die Credits sind auf deinem Konto.",
    unknown: "Dieses Geschenk gibt es nicht",
    unknownAbout: "Prüfe, ob du den ganzen Link hast, oder den Code Zeichen für Zeichen.",
    worth: "Wert",
    signIn: "Anmelden",
  },
});

const PAGE = 500;
/** Who has made or redeemed more is shown the page that everybody sees; redeeming is the same. */
const PAGES_MAX = 4;

start({
  title: say.title,
  here: "gifts",
  anybody: true,
  render: (person) => {
    const code = codeHere();
    const whole = region({
      lines: 8,
      load: (signal) => look(code, person, signal),
      render: (found) =>
        found === null ? unknown() : draw(found, person, () => redeemHere(found.gift.code)),
    });
    const card = h(
      "section",
      { className: "card narrow-page", aria: { label: say.title } },
      whole.element,
    );
    void whole.reload();
    return card;

    /** @param {string} known */
    async function redeemHere(known) {
      try {
        const { element, heading } = thanks(await redeem(known));
        fill(card, element);
        heading.focus();
      } catch (error) {
        if (!(error instanceof GiftRefusedError) || error.code === "gift_wrong_recipient")
          throw error;
        // It has ended since it was looked at, and the page says how.
        if (await whole.reload()) {
          announce(explain(error));
          card.querySelector("h2")?.focus();
        }
      }
    }
  },
});

/** The code in the page's own address. */
function codeHere() {
  const last = location.pathname.split("/").at(-1) ?? "";
  try {
    return decodeURIComponent(last);
  } catch {
    return last;
  }
}

/**
 * The gift and what it is to this person, or null for a code that there is not.
 *
 * @param {string} code
 * @param {Person | null} person
 * @param {AbortSignal} signal
 * @returns {Promise<Found | null>}
 */
async function look(code, person, signal) {
  /** @type {PublicGift} */
  let gift;
  try {
    gift = await api.gifts.get(code, { signal });
  } catch (error) {
    if (error instanceof NotFoundError || error instanceof InvalidRequestError) return null;
    throw error;
  }
  if (person === null) return { gift, own: false, received: null };
  const ofCode = (/** @type {{ code: string }} */ other) => other.code === gift.code;
  const [made, received] = await Promise.all([
    search((page) => api.gifts.created(page, { signal }), ofCode),
    gift.redeemed ? search((page) => api.gifts.received(page, { signal }), ofCode) : null,
  ]);
  return { gift, own: made !== null, received };
}

/**
 * The item of a list that is looked for.
 *
 * @template T
 * @param {(page: { limit: number, offset: number }) => Promise<T[]>} load
 * @param {(item: T) => boolean} wanted
 * @returns {Promise<T | null>}
 */
async function search(load, wanted) {
  for (let page = 0; page < PAGES_MAX; page += 1) {
    const items = await load({ limit: PAGE, offset: page * PAGE });
    const found = items.find(wanted);
    if (found !== undefined) return found;
    if (items.length < PAGE) break;
  }
  return null;
}

/**
 * @param {Found} found
 * @param {Person | null} person
 * @param {() => Promise<void>} run redeems it
 */
function draw({ gift, own, received }, person, run) {
  const { creatorName, message, status, totalCredits } = gift;
  const until = date(gift.expiresAt);
  const from =
    creatorName !== null && fact(say.from, h("span", { className: "user-text" }, creatorName));
  const worth = fact(say.worth, credits(totalCredits));
  if (received !== null) {
    return ended(say.has, say.hasAbout(credits(received.credits), date(received.redeemedAt)), [
      words(message),
      h("dl", { className: "facts" }, worth, from),
      choices(link("/", say.account, "primary")),
    ]);
  }
  if (own && status === "active") {
    return ended(say.own, say.ownAbout, [
      words(message),
      h("dl", { className: "facts" }, worth, fact(say.until, until)),
      choices(
        handOn(`${location.origin}${base}/g/${gift.code}`),
        !gift.isPersonalized && actionButton({ label: say.ownRedeem, className: "small", run }),
        link("/gifts", say.toGifts, "small"),
      ),
    ]);
  }
  if (own) {
    /** @type {Record<string, [string, string]>} */
    const ends = {
      depleted: [say.used, say.usedOwn],
      expired: [say.expired, say.expiredOwn(until)],
      cancelled: [say.cancelled, say.cancelledOwn],
    };
    const [heading, about] = ends[status] ?? [say.used, ""];
    return ended(heading, about, [
      h("dl", { className: "facts" }, worth),
      choices(link("/gifts", say.toGifts)),
    ]);
  }
  if (status === "active") return open(gift, person, run);
  if (status === "depleted" && person === null) {
    return ended(say.used, say.usedUnknown, [choices(canSignIn && signInButton(say.signIn))]);
  }
  /** @type {Record<string, [string, string]>} */
  const ends = {
    depleted: [say.used, say.usedAbout],
    expired: [say.expired, say.expiredAbout(until)],
    cancelled: [say.cancelled, say.cancelledAbout],
  };
  const [heading, about] = ends[status] ?? [say.used, ""];
  return ended(heading, about, [
    h("dl", { className: "facts" }, from, worth),
    choices(link("/gifts", say.enter)),
  ]);
}

/**
 * A gift that can be had.
 *
 * @param {PublicGift} gift
 * @param {Person | null} person
 * @param {() => Promise<void>} run redeems it
 */
function open(gift, person, run) {
  const who = person?.email ?? person?.name ?? "";
  const refused = h("div", { className: "refused" });
  const redeemOnce = async () => {
    fill(refused);
    try {
      await run();
    } catch (error) {
      if (!(error instanceof GiftRefusedError)) throw error;
      fill(refused, wrongRecipient(who));
    }
  };
  return h(
    "div",
    { className: "gift" },
    picture(),
    h(
      "h2",
      {},
      h(
        "span",
        { className: "giver user-text" },
        gift.creatorName === null ? say.somebody : say.fromNow(gift.creatorName),
      ),
      " ",
      h("span", { className: "big" }, credits(gift.totalCredits)),
    ),
    words(gift.message),
    h("dl", { className: "facts" }, fact(say.until, date(gift.expiresAt))),
    gift.isPersonalized && h("p", { className: "hint" }, say.personal),
    person !== null
      ? [
          choices(actionButton({ label: say.redeem, className: "primary", run: redeemOnce })),
          refused,
          who && h("p", { className: "hint user-text" }, say.you(who)),
        ]
      : canSignIn
        ? [choices(signInButton(say.signInToRedeem)), h("p", { className: "hint" }, say.signInHint)]
        : h("p", { className: "hint" }, say.signInInApp),
    h("p", { className: "hint" }, say.what),
  );
}

/** @param {string} who */
function wrongRecipient(who) {
  return h(
    "div",
    { className: "failure", role: "alert" },
    h("p", { className: "user-text" }, say.wrong(who || say.yours)),
    actionButton({
      label: say.other,
      run: async () => {
        await signOut();
        if (!signIn()) location.reload();
      },
    }),
  );
}

function unknown() {
  return ended(say.unknown, say.unknownAbout, [choices(link("/gifts", say.enter))]);
}

/**
 * A gift that is not to be redeemed here, or not any more.
 *
 * @param {string} heading
 * @param {string} about
 * @param {Child} more
 */
function ended(heading, about, more) {
  return [h("h2", { className: "got", tabIndex: -1 }, heading), h("p", {}, about), more];
}

/** @param {...Child} children */
const choices = (...children) => h("div", { className: "choices" }, ...children);

/** @param {string} label */
const signInButton = (label) =>
  h("button", { type: "button", className: "primary", on: { click: () => signIn() } }, label);

/**
 * @param {string} path
 * @param {string} label
 * @param {string} [className]
 */
const link = (path, label, className = "") =>
  h("a", { className: `button ${className}`.trim(), href: base + path }, label);
