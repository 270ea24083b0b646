// One user, as support sees him, and what support does to him.

import { h } from "./dom.js";
import { credits, date, dateTime, euros, number, signedNumber } from "./format.js";
import { texts } from "./i18n.js";
import { base } from "./session.js";
import { download, erase, giveSync, grant, refund, revokeSync } from "./support-actions.js";
import { admin, userPath } from "./support-api.js";
import { select } from "./forms.js";
import { badge, card, endless, fact, pagesByOffset, row, table } from "./parts.js";
import { actionButton, copyButton, region } from "./ui.js";
import { giftWord, intervalWord, purchaseWord, typeWord, types } from "./words.js";

/** @typedef {import("../client/types.js").AdminAction} Action */
/** @typedef {import("../client/types.js").Hold} Hold */
/** @typedef {import("../client/types.js").Purchase} Purchase */
/** @typedef {import("../client/types.js").SupportGift} SupportGift */
/** @typedef {import("../client/types.js").Transaction} Transaction */
/** @typedef {import("../client/types.js").TransactionType} TransactionType */
/** @typedef {import("./words.js").Tone} Tone */

const say = texts({
  en: {
    back: "All of support",
    balance: "Balance",
    email: "E-mail",
    held: "Held",
    earned: "Received in all",
    spent: "Spent in all",
    moves: "Moves",
    since: "Since",
    unseen: "Nobody of this id has been seen yet. Credits granted now wait for him.",
    copyId: "Copy the id",
    grant: "Grant credits",
    holds: "Held credits",
    until: (/** @type {string} */ when) => `until ${when}`,
    reason: "Reason",
    expires: "Expires",
    sync: "Cloud Sync",
    state: "State",
    states: {
      off: "Off",
      active: "On",
      paused: "Paused, credits ran out",
      gifted: "On, as a gift",
    },
    interval: "Interval",
    price: "Price",
    next: "Next charge",
    paidUntil: "Paid until",
    pausedAt: "Paused on",
    giveSync: "Give it as a gift",
    revokeSync: "End the gift",
    ledger: "Ledger",
    kind: "Kind",
    all: "All",
    when: "Date",
    what: "What",
    amount: "Credits",
    after: "Balance",
    action: "Action",
    refund: "Refund",
    refundOf: (/** @type {string} */ what, /** @type {string} */ amount) =>
      `Refund ${what}, ${amount}`,
    noMoves: "There is nothing here.",
    purchases: "Purchases",
    purchase: "Purchase",
    noPurchases: "Nothing was bought.",
    gifts: "Gifts made",
    code: "Code",
    to: (/** @type {string} */ who) => `for ${who}`,
    redeemedBy: "Redeemed by",
    noGifts: "No gifts were made.",
    actions: "What support has done",
    by: "By",
    noActions: "Nothing yet.",
    words: /** @type {Record<string, string>} */ ({
      grant: "Credits granted",
      refund: "Debit refunded",
      gift_sync: "Cloud Sync given",
      revoke_sync_gift: "Gift of Cloud Sync ended",
    }),
    noReason: "no reason given",
    data: "Personal data",
    dataAbout: "For requests under the GDPR: all that is stored, as one file, or the end of it.",
    download: "Download everything",
    erase: "Erase the user",
  },
  de: {
    back: "Zum ganzen Support",
    balance: "Guthaben",
    email: "E-Mail",
    held: "Vorgemerkt",
    earned: "Insgesamt erhalten",
    spent: "Insgesamt ausgegeben",
    moves: "Buchungen",
    since: "Seit",
    unseen: "Von dieser ID war noch nie jemand da. Gutgeschriebene Credits warten dann auf ihn.",
    copyId: "ID kopieren",
    grant: "Credits gutschreiben",
    holds: "Vorgemerkte Credits",
    until: (when) => `bis ${when}`,
    reason: "Grund",
    expires: "Läuft ab",
    sync: "Cloud Sync",
    state: "Stand",
    states: {
      off: "Aus",
      active: "An",
      paused: "Pausiert, Credits aufgebraucht",
      gifted: "An, als Geschenk",
    },
    interval: "Zeitraum",
    price: "Preis",
    next: "Nächste Abbuchung",
    paidUntil: "Bezahlt bis",
    pausedAt: "Pausiert am",
    giveSync: "Schenken",
    revokeSync: "Geschenk beenden",
    ledger: "Buchungen",
    kind: "Art",
    all: "Alle",
    when: "Datum",
    what: "Was",
    amount: "Credits",
    after: "Guthaben",
    action: "Aktion",
    refund: "Erstatten",
    refundOf: (what, amount) => `${what} erstatten, ${amount}`,
    noMoves: "Hier ist nichts.",
    purchases: "Käufe",
    purchase: "Kauf",
    noPurchases: "Es wurde nichts gekauft.",
    gifts: "Gemachte Geschenke",
    code: "Code",
    to: (who) => `für ${who}`,
    redeemedBy: "Eingelöst von",
    noGifts: "Es wurden keine Geschenke gemacht.",
    actions: "Was der Support getan hat",
    by: "Von",
    noActions: "Noch nichts.",
    words: {
      grant: "Credits gutgeschrieben",
      refund: "Abbuchung erstattet",
      gift_sync: "Cloud Sync geschenkt",
      revoke_sync_gift: "Geschenktes Cloud Sync beendet",
    },
    noReason: "ohne Grund",
    data: "Persönliche Daten",
    dataAbout:
      "Für Anfragen nach der DSGVO: alles, was gespeichert ist, als eine Datei, oder das Ende davon.",
    download: "Alles herunterladen",
    erase: "Benutzer löschen",
  },
});

const PAGE = 25;

/** @param {string} userId */
export function userPage(userId) {
  const parts = {
    account: accountPart(userId, changed),
    sync: syncPart(userId, changed),
    ledger: ledgerPart(userId, changed),
    purchases: purchasesPart(userId),
    gifts: giftsPart(userId),
    actions: actionsPart(userId),
  };
  for (const part of Object.values(parts)) void part.reload();
  return [
    h(
      "p",
      { className: "way-back" },
      h("a", { href: `${base}/admin` }, say.back),
      copyButton(say.copyId, userId),
    ),
    h(
      "div",
      { className: "grid two" },
      card(say.balance, parts.account.element),
      card(say.sync, parts.sync.element),
      wide(card(say.actions, parts.actions.element)),
      wide(card(say.ledger, parts.ledger.element)),
      card(say.purchases, parts.purchases.element),
      card(say.gifts, parts.gifts.element),
      wide(dataCard(userId, gone)),
    ),
  ];

  /** What an action can change is looked at anew. */
  function changed() {
    for (const part of [parts.account, parts.sync, parts.ledger, parts.actions]) void part.reload();
  }

  /** Nothing is left of what was shown. */
  function gone() {
    for (const part of Object.values(parts)) void part.reload();
  }
}

/**
 * @param {string} userId
 * @param {() => void} gone
 */
function dataCard(userId, gone) {
  return card(
    say.data,
    h("p", {}, say.dataAbout),
    h(
      "div",
      { className: "choices" },
      actionButton({ label: say.download, run: () => download(userId) }),
      button(say.erase, () => erase(userId, gone), "danger"),
    ),
  );
}

/** @param {HTMLElement} element */
function wide(element) {
  element.classList.add("whole");
  return element;
}

/**
 * @param {string} userId
 * @param {() => void} changed
 */
function accountPart(userId, changed) {
  return region({
    lines: 6,
    load: (signal) => admin.users.get(userId, { signal }),
    render: (it) => [
      h("p", { className: "big" }, credits(it.balance)),
      it.createdAt === null && h("p", { className: "hint" }, say.unseen),
      h(
        "dl",
        { className: "facts" },
        fact(say.held, number(it.reserved)),
        fact(say.earned, number(it.totalEarned)),
        fact(say.spent, number(it.totalSpent)),
        fact(say.moves, number(it.transactionsCount)),
        it.createdAt !== null && fact(say.since, date(it.createdAt)),
        it.email !== null && fact(say.email, it.email),
      ),
      it.reservations.length > 0 && holdsTable(it.reservations),
      h(
        "div",
        { className: "choices" },
        button(say.grant, () => grant(userId, changed)),
      ),
    ],
  });
}

/** @param {Hold[]} holds */
function holdsTable(holds) {
  const body = h("tbody");
  body.append(
    ...holds.map((it) =>
      row(
        [
          h("div", { className: "user-text" }, it.reason),
          h("div", { className: "soft" }, say.until(dateTime(it.expiresAt))),
        ],
        { cell: number(it.amount), className: "number", label: say.held },
      ),
    ),
  );
  return h(
    "div",
    { className: "apart" },
    table(say.holds, [say.reason, { text: say.held, className: "number" }], body),
  );
}

/**
 * @param {string} userId
 * @param {() => void} changed
 */
function syncPart(userId, changed) {
  return region({
    lines: 5,
    load: (signal) => admin.sync.status(userId, { signal }),
    render: (it) => {
      const state = it.gifted ? "gifted" : it.active ? "active" : it.paused ? "paused" : "off";
      /** @type {Tone} */
      const tone = it.active ? "good" : it.paused ? "bad" : "quiet";
      return [
        h("p", {}, badge(tone, say.states[state])),
        h(
          "dl",
          { className: "facts" },
          fact(say.interval, intervalWord(it.interval)),
          fact(say.price, credits(it.price)),
          it.nextChargeAt !== null && fact(say.next, dateTime(it.nextChargeAt)),
          it.pausedAt !== null && fact(say.pausedAt, dateTime(it.pausedAt)),
          it.paidUntil !== null && fact(say.paidUntil, dateTime(it.paidUntil)),
        ),
        h(
          "div",
          { className: "choices" },
          it.gifted
            ? button(say.revokeSync, () => revokeSync(userId, changed), "danger")
            : button(say.giveSync, () => giveSync(userId, changed)),
        ),
      ];
    },
  });
}

/**
 * @param {string} userId
 * @param {() => void} changed
 */
function ledgerPart(userId, changed) {
  const type = select([["", say.all], ...Object.entries(types)]);
  type.setAttribute("aria-label", say.kind);
  const list = endless({
    first: (signal) =>
      admin.users.transactions(
        userId,
        { limit: PAGE, type: /** @type {TransactionType | undefined} */ (type.value || undefined) },
        { signal },
      ),
    rows: h("tbody"),
    frame: (rows) =>
      table(
        say.ledger,
        [
          say.when,
          say.what,
          { text: say.amount, className: "number" },
          { text: say.after, className: "number" },
          say.action,
        ],
        /** @type {HTMLTableSectionElement} */ (rows),
        "moves",
      ),
    row: (/** @type {Transaction} */ it) => {
      const what = it.description || typeWord(it.type);
      return row(
        { cell: dateTime(it.createdAt), className: "when" },
        [
          h("div", { className: "user-text" }, what),
          h(
            "div",
            { className: "soft" },
            [typeWord(it.type), it.appId].filter(Boolean).join(" · "),
          ),
          h("div", { className: "soft code" }, it.id),
        ],
        {
          cell: signedNumber(it.amount),
          className: it.amount > 0 ? "number plus" : "number",
          label: say.amount,
        },
        { cell: number(it.balanceAfter), className: "number", label: say.after },
        it.type === "usage" && {
          cell: button(
            say.refund,
            () => refund(it, changed),
            "small",
            say.refundOf(what, credits(-it.amount)),
          ),
          className: "act",
        },
      );
    },
    empty: say.noMoves,
  });
  type.addEventListener("change", () => void list.reload());
  return {
    element: h("div", { className: "grid" }, h("div", { className: "narrow" }, type), list.element),
    reload: list.reload,
  };
}

/** @param {string} userId */
function purchasesPart(userId) {
  return endless({
    lines: 3,
    first: (signal) =>
      pagesByOffset(PAGE, (page) => admin.users.purchases(userId, page, { signal })),
    rows: h("tbody"),
    frame: (rows) =>
      table(
        say.purchases,
        [
          say.purchase,
          { text: say.amount, className: "number" },
          { text: say.price, className: "number" },
          say.state,
        ],
        /** @type {HTMLTableSectionElement} */ (rows),
      ),
    row: (/** @type {Purchase} */ it) =>
      row(
        [
          dateTime(it.createdAt),
          h("div", { className: "soft code" }, it.id),
          it.stripePaymentIntentId !== null &&
            h("div", { className: "soft code" }, it.stripePaymentIntentId),
        ],
        { cell: number(it.credits), className: "number", label: say.amount },
        { cell: euros(it.priceEuroCents), className: "number", label: say.price },
        badge(...purchaseWord(it)),
      ),
    empty: say.noPurchases,
  });
}

/** @param {string} userId */
function giftsPart(userId) {
  return endless({
    lines: 3,
    first: (signal) => pagesByOffset(PAGE, (page) => admin.users.gifts(userId, page, { signal })),
    rows: h("tbody"),
    frame: (rows) =>
      table(
        say.gifts,
        [say.code, { text: say.amount, className: "number" }, say.state, say.redeemedBy],
        /** @type {HTMLTableSectionElement} */ (rows),
      ),
    row: (/** @type {SupportGift} */ it) =>
      row(
        [
          h("span", { className: "code" }, it.code),
          h(
            "div",
            { className: "soft" },
            [date(it.createdAt), it.targetEmail && say.to(it.targetEmail)]
              .filter(Boolean)
              .join(" · "),
          ),
          it.message && h("div", { className: "soft user-text" }, it.message),
        ],
        { cell: number(it.totalCredits), className: "number", label: say.amount },
        badge(...giftWord(it.status)),
        it.redeemedBy !== null && {
          cell: h("a", { href: userPath(it.redeemedBy) }, it.redeemedBy),
          label: say.redeemedBy,
        },
      ),
    empty: say.noGifts,
  });
}

/** @param {string} userId */
function actionsPart(userId) {
  return endless({
    lines: 2,
    first: (signal) => pagesByOffset(PAGE, (page) => admin.users.actions(userId, page, { signal })),
    rows: h("tbody"),
    frame: (rows) =>
      table(
        say.actions,
        [say.when, say.what, say.reason, say.by],
        /** @type {HTMLTableSectionElement} */ (rows),
      ),
    row: (/** @type {Action} */ it) =>
      row(
        dateTime(it.createdAt),
        [
          h("strong", {}, say.words[it.action] ?? it.action),
          typeof it.details.amount === "number" &&
            h("div", { className: "soft" }, credits(it.details.amount)),
          it.transactionId !== null && h("div", { className: "soft code" }, it.transactionId),
        ],
        {
          cell:
            it.reason === null
              ? h("span", { className: "soft" }, say.noReason)
              : h("span", { className: "user-text" }, it.reason),
          label: say.reason,
        },
        {
          cell: [
            it.adminName ?? it.adminId,
            it.adminName !== null && h("div", { className: "soft" }, it.adminId),
          ],
          label: say.by,
        },
      ),
    empty: say.noActions,
  });
}

/**
 * A button that opens a dialog.
 *
 * @param {string} label
 * @param {() => Promise<unknown>} open
 * @param {string} [className]
 * @param {string} [description]
 */
function button(label, open, className = "", description) {
  return h(
    "button",
    {
      type: "button",
      className,
      aria: { label: description, haspopup: "dialog" },
      on: { click: () => void open() },
    },
    label,
  );
}
