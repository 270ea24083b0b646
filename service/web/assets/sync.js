// Cloud Sync: where it stands, and turning it on, off and to another interval.

import { api, sync } from "./api.js";
import { h, newId } from "./dom.js";
import { credits, date } from "./format.js";
import { texts } from "./i18n.js";
import { base } from "./session.js";
import { start } from "./shell.js";
import { actionForm, announce, ask, badge, card, fact, region } from "./ui.js";
import { intervalWord } from "./words.js";

/** @typedef {import("../client/types.js").Interval} Interval */
/** @typedef {import("../client/sync-billing.js").SyncBillingState} SyncState */

const say = texts({
  en: {
    title: "Cloud Sync",
    state: "State",
    states: {
      local: "Only on this device",
      active: "On",
      paused: "Paused",
      gifted: "On, as a gift",
    },
    about: {
      local: "Your data stays on your device. With Cloud Sync, all your devices have it.",
      active: "Your data is the same on all your devices.",
      paused:
        "Your credits ran out. Your data stays on your devices, and syncs again once you top up and turn it on.",
      gifted: "Cloud Sync is given to you. It costs you nothing.",
    },
    next: "Next charge",
    price: "Price",
    interval: "Interval",
    paidUntil: "Paid until",
    balance: "Balance",
    short: (/** @type {string} */ missing) => `For the next charge, ${missing} are missing.`,
    topUp: "Top up",
    choose: "How often it is charged",
    per: { monthly: "a month", quarterly: "a quarter", yearly: "a year" },
    activate: "Turn on",
    activateAgain: "Turn on again",
    activated: "Cloud Sync is on.",
    paidHint: (/** @type {string} */ until) =>
      `It is paid until ${until}: until then nothing is charged, and another interval begins after it.`,
    chargeHint: "The price is charged at once, and again at the end of each period, in credits.",
    change: "Change the interval",
    changed: (/** @type {string} */ from) => `The new interval holds from ${from}.`,
    changeHint: (/** @type {string} */ from) => `It holds from the next charge on: ${from}.`,
    deactivate: "Turn off",
    deactivated: "Cloud Sync is off.",
    askOff: "Turn Cloud Sync off?",
    offAbout: "Your data stays on this device. Other devices no longer get what you change.",
    offPaid: (/** @type {string} */ until) =>
      `What is paid stays yours: until ${until} you can turn it on again for nothing. Nothing is refunded.`,
  },
  de: {
    title: "Cloud Sync",
    state: "Stand",
    states: {
      local: "Nur auf diesem Gerät",
      active: "An",
      paused: "Pausiert",
      gifted: "An, als Geschenk",
    },
    about: {
      local: "Deine Daten bleiben auf deinem Gerät. Mit Cloud Sync haben sie alle deine Geräte.",
      active: "Deine Daten sind auf allen deinen Geräten gleich.",
      paused:
        "Deine Credits sind aufgebraucht. Deine Daten bleiben auf deinen Geräten und werden wieder abgeglichen, sobald du auflädst und Cloud Sync einschaltest.",
      gifted: "Cloud Sync ist dir geschenkt. Es kostet dich nichts.",
    },
    next: "Nächste Abbuchung",
    price: "Preis",
    interval: "Zeitraum",
    paidUntil: "Bezahlt bis",
    balance: "Guthaben",
    short: (missing) => `Für die nächste Abbuchung fehlen ${missing}.`,
    topUp: "Aufladen",
    choose: "Wie oft abgebucht wird",
    per: { monthly: "im Monat", quarterly: "im Vierteljahr", yearly: "im Jahr" },
    activate: "Einschalten",
    activateAgain: "Wieder einschalten",
    activated: "Cloud Sync ist an.",
    paidHint: (until) =>
      `Es ist bis ${until} bezahlt: bis dahin wird nichts abgebucht, ein anderer Zeitraum beginnt danach.`,
    chargeHint: "Der Preis wird sofort abgebucht und dann am Ende jedes Zeitraums, in Credits.",
    change: "Zeitraum ändern",
    changed: (from) => `Der neue Zeitraum gilt ab ${from}.`,
    changeHint: (from) => `Er gilt ab der nächsten Abbuchung: ${from}.`,
    deactivate: "Ausschalten",
    deactivated: "Cloud Sync ist aus.",
    askOff: "Cloud Sync ausschalten?",
    offAbout:
      "Deine Daten bleiben auf diesem Gerät. Andere Geräte bekommen deine Änderungen nicht mehr.",
    offPaid: (until) =>
      `Was bezahlt ist, bleibt deins: bis ${until} kannst du es ohne Kosten wieder einschalten. Erstattet wird nichts.`,
  },
});

/** @type {readonly Interval[]} */
const INTERVALS = ["monthly", "quarterly", "yearly"];

/**
 * What of the store is drawn: when it changes, here or in another tab, so does the page.
 *
 * @param {SyncState} state
 */
const drawn = (state) =>
  JSON.stringify([
    state.active,
    state.paused,
    state.gifted,
    state.interval,
    state.nextChargeAt,
    state.paidUntil,
  ]);

start({
  title: say.title,
  here: "sync",
  render: () => {
    /** @type {SyncState | null} */
    let state = null;
    let shown = "";
    const whole = region({
      lines: 8,
      load: async (signal) => {
        // The store's own load, so that the banner and this page never say two things.
        const [, { balance }, pricing] = await Promise.all([
          sync.load(),
          api.balance({ signal }),
          api.pricing({ signal }),
        ]);
        return { balance, prices: pricing.sync };
      },
      render: ({ balance, prices }) => {
        if (state === null) return null;
        shown = drawn(state);
        return draw(state, balance, prices);
      },
    });
    sync.subscribe((now) => {
      state = now;
      if (!shown || now.loading || drawn(now) === shown) return;
      // Before it is drawn, since loading it changes the store as well.
      shown = drawn(now);
      void whole.reload();
    });
    void whole.reload();
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") sync.load().catch(() => {});
    });
    return whole.element;
  },
});

/**
 * @param {SyncState} state
 * @param {number} balance credits
 * @param {Record<Interval, number>} prices credits
 */
function draw(state, balance, prices) {
  const kind = state.gifted
    ? "gifted"
    : state.active
      ? "active"
      : state.paused
        ? "paused"
        : "local";
  const charged = state.active && !state.gifted;
  const missing = (state.price ?? 0) - balance;
  const tone = state.active ? "good" : state.paused ? "bad" : "quiet";
  return h(
    "div",
    { className: "grid sided" },
    card(
      say.state,
      h("p", {}, badge(tone, say.states[kind])),
      h("p", {}, say.about[kind]),
      h(
        "dl",
        { className: "facts" },
        charged && fact(say.interval, intervalWord(state.interval)),
        charged && state.price !== null && fact(say.price, credits(state.price)),
        charged && state.nextChargeAt && fact(say.next, date(state.nextChargeAt)),
        !charged &&
          isAhead(state.paidUntil) &&
          fact(say.paidUntil, date(/** @type {string} */ (state.paidUntil))),
        fact(say.balance, credits(balance)),
      ),
      charged && missing > 0 && h("p", { className: "warning" }, say.short(credits(missing))),
      h(
        "div",
        { className: "choices" },
        h(
          "a",
          {
            className: state.paused || (charged && missing > 0) ? "button primary" : "button",
            href: `${base}/#top-up`,
          },
          say.topUp,
        ),
        state.active && !state.gifted && turnOff(state),
      ),
    ),
    state.gifted ? null : charged ? changeCard(state, prices) : activateCard(state, prices),
  );
}

/**
 * @param {SyncState} state
 * @param {Record<Interval, number>} prices
 */
function activateCard(state, prices) {
  const choice = intervals(state.interval, prices);
  const paid = isAhead(state.paidUntil);
  return card(
    say.activate,
    actionForm({
      fields: [],
      label: state.paused ? say.activateAgain : say.activate,
      said: say.activated,
      extra: [
        choice.element,
        h(
          "p",
          { className: "hint" },
          paid ? say.paidHint(date(/** @type {string} */ (state.paidUntil))) : say.chargeHint,
        ),
      ],
      run: () => sync.activate(choice.value()),
    }),
  );
}

/**
 * @param {SyncState} state
 * @param {Record<Interval, number>} prices
 */
function changeCard(state, prices) {
  const choice = intervals(state.interval, prices);
  const from = state.nextChargeAt === null ? "" : date(state.nextChargeAt);
  return card(
    say.change,
    actionForm({
      fields: [],
      label: say.change,
      extra: [choice.element, h("p", { className: "hint" }, say.changeHint(from))],
      run: async () => {
        const { effectiveAt } = await sync.changeInterval(choice.value());
        announce(say.changed(date(effectiveAt)));
      },
    }),
  );
}

/** @param {SyncState} state */
function turnOff(state) {
  return h(
    "button",
    {
      type: "button",
      className: "danger",
      on: {
        click: () =>
          void ask({
            title: say.askOff,
            body: [
              h("p", {}, say.offAbout),
              isAhead(state.paidUntil) &&
                h("p", {}, say.offPaid(date(/** @type {string} */ (state.paidUntil)))),
            ],
            label: say.deactivate,
            danger: true,
            run: () => sync.deactivate(),
          }).then((done) => done && announce(say.deactivated)),
      },
    },
    say.deactivate,
  );
}

/**
 * The intervals with their prices, one of them chosen.
 *
 * @param {Interval} current
 * @param {Record<Interval, number>} prices
 */
function intervals(current, prices) {
  const group = newId();
  const inputs = INTERVALS.map((value) =>
    h("input", { type: "radio", name: group, value, checked: value === current }),
  );
  return {
    element: h(
      "fieldset",
      {},
      h("legend", {}, say.choose),
      h(
        "div",
        { className: "options below" },
        inputs.map((input) => {
          const interval = /** @type {Interval} */ (input.value);
          return h(
            "label",
            { className: "option" },
            input,
            h("strong", {}, intervalWord(interval)),
            h("span", {}, `${credits(prices[interval])} ${say.per[interval]}`),
          );
        }),
      ),
    ),
    value: () => /** @type {Interval} */ (inputs.find((input) => input.checked)?.value ?? current),
  };
}

/** Whether a time is still to come. @param {string | null} iso */
const isAhead = (iso) => iso !== null && Date.parse(iso) > Date.now();
