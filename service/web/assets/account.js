// Balance, top-up, usage, history, purchases.

import { api } from "./api.js";
import { usageChart } from "./chart.js";
import { buy } from "./checkout.js";
import { h, newId } from "./dom.js";
import { credits, date, dateTime, euros, number, signedNumber } from "./format.js";
import { texts } from "./i18n.js";
import { base } from "./session.js";
import { start } from "./shell.js";
import { actionForm, field, select } from "./forms.js";
import { badge, card, endless, fact, pagesByOffset, row, table } from "./parts.js";
import { region } from "./ui.js";
import { purchaseWord, typeWord, types } from "./words.js";

const say = texts({
  en: {
    title: "Your credits",
    balance: "Balance",
    held: "Held",
    heldHint: "What is held belongs to operations that are under way.",
    earned: "Received in all",
    spent: "Spent in all",
    topUp: "Top up",
    choose: "Choose a package",
    buy: "Buy",
    buyHint: "You pay on Stripe's page, by card or by SEPA debit, and come back here.",
    nothingSold: "There is nothing for sale at the moment.",
    usage: "Usage",
    period: "Period",
    days: (/** @type {number} */ days) => `${days} days`,
    history: "History",
    kind: "Kind",
    all: "All",
    app: "App",
    filter: "Filter",
    when: "Date",
    what: "What",
    amount: "Credits",
    after: "Balance",
    noHistory: "There is nothing here yet.",
    purchases: "Purchases",
    state: "State",
    noPurchases: "You have not bought anything yet.",
    purchaseOf: (/** @type {string} */ when) => `The purchase of ${when}`,
  },
  de: {
    title: "Deine Credits",
    balance: "Guthaben",
    held: "Vorgemerkt",
    heldHint: "Vorgemerkt ist, was zu laufenden Vorgängen gehört.",
    earned: "Insgesamt erhalten",
    spent: "Insgesamt ausgegeben",
    topUp: "Aufladen",
    choose: "Paket wählen",
    buy: "Kaufen",
    buyHint:
      "Du bezahlst auf der Seite von Stripe, mit Karte oder SEPA-Lastschrift, und kommst hierher zurück.",
    nothingSold: "Im Moment gibt es nichts zu kaufen.",
    usage: "Verbrauch",
    period: "Zeitraum",
    days: (days) => `${days} Tage`,
    history: "Verlauf",
    kind: "Art",
    all: "Alle",
    app: "App",
    filter: "Filtern",
    when: "Datum",
    what: "Was",
    amount: "Credits",
    after: "Guthaben",
    noHistory: "Hier ist noch nichts.",
    purchases: "Käufe",
    state: "Stand",
    noPurchases: "Du hast noch nichts gekauft.",
    purchaseOf: (when) => `Der Kauf vom ${when}`,
  },
});

const PAGE = 25;
const PURCHASES = 8;

start({
  title: say.title,
  here: "account",
  render: () => {
    const balance = balanceRegion();
    const shop = shopRegion();
    const usage = usagePart();
    const history = historyPart();
    const purchases = purchasesRegion();
    const topUp = card(say.topUp, shop.element);
    topUp.id = "top-up";
    for (const part of [balance, usage, history, purchases]) void part.reload();
    void shop.reload().then(() => location.hash === "#top-up" && topUp.scrollIntoView());
    // Credits move in other tabs and apps as well.
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") void balance.reload();
    });
    return [
      h("div", { className: "grid two" }, card(say.balance, balance.element), topUp),
      card(say.usage, usage.element),
      h(
        "div",
        { className: "grid sided" },
        card(say.history, history.element),
        card(say.purchases, purchases.element),
      ),
    ];
  },
});

function balanceRegion() {
  return region({
    lines: 4,
    className: "balance",
    load: (signal) => api.balance({ signal }),
    render: ({ balance, reserved, totalEarned, totalSpent }) => [
      h("p", { className: "big" }, credits(balance)),
      h(
        "dl",
        { className: "facts" },
        fact(say.held, number(reserved)),
        fact(say.earned, number(totalEarned)),
        fact(say.spent, number(totalSpent)),
      ),
      reserved > 0 && h("p", { className: "hint" }, say.heldHint),
    ],
  });
}

function shopRegion() {
  return region({
    lines: 5,
    className: "shop",
    load: (signal) => api.packages({ signal }),
    render: (packages) => {
      if (packages.length === 0) return h("p", { className: "empty" }, say.nothingSold);
      const group = newId();
      const options = packages.map((it, index) =>
        h(
          "label",
          { className: "option" },
          h("input", { type: "radio", name: group, value: it.id, checked: index === 0 }),
          h("strong", {}, it.name),
          h("span", {}, credits(it.credits)),
          h("span", {}, euros(it.priceEuroCents)),
          it.description && h("span", { className: "hint" }, it.description),
        ),
      );
      const form = actionForm({
        fields: [],
        label: say.buy,
        extra: h(
          "fieldset",
          {},
          h("legend", { className: "unseen" }, say.choose),
          h("div", { className: "options" }, options),
          h("p", { className: "hint" }, say.buyHint),
        ),
        run: () => buy(String(new FormData(form).get(group))),
      });
      return form;
    },
  });
}

function usagePart() {
  const period = select(
    [7, 30, 90].map((days) => [String(days), say.days(days)]),
    "30",
  );
  period.setAttribute("aria-label", say.period);
  const chart = region({
    lines: 6,
    className: "usage",
    load: async (signal) => {
      const days = Number(period.value);
      return { days, usage: await api.usage({ days }, { signal }) };
    },
    render: ({ days, usage }) => usageChart(usage, days),
  });
  period.addEventListener("change", () => void chart.reload());
  return {
    element: h(
      "div",
      { className: "grid" },
      h("div", { className: "narrow" }, period),
      chart.element,
    ),
    reload: chart.reload,
  };
}

function historyPart() {
  const type = field({
    name: "type",
    label: say.kind,
    optional: "unsaid",
    control: select([["", say.all], ...Object.entries(types)]),
  });
  const app = field({
    name: "appId",
    label: say.app,
    optional: "unsaid",
    control: h("input", { type: "search", maxLength: 64, autocomplete: "off", spellcheck: false }),
  });
  const chosenType = () =>
    /** @type {import("../client/types.js").TransactionType | undefined} */ (
      type.value || undefined
    );
  const list = endless({
    first: (signal) =>
      api.transactions(
        { limit: PAGE, type: chosenType(), appId: app.value || undefined },
        { signal },
      ),
    rows: h("tbody"),
    frame: (rows) =>
      table(
        say.history,
        [
          say.when,
          say.what,
          { text: say.amount, className: "number" },
          { text: say.after, className: "number" },
        ],
        /** @type {HTMLTableSectionElement} */ (rows),
        "moves",
      ),
    row: (it) =>
      row(
        { cell: dateTime(it.createdAt), className: "when" },
        [
          h("div", { className: "user-text" }, it.description || typeWord(it.type)),
          h(
            "div",
            { className: "soft" },
            [typeWord(it.type), it.appId].filter(Boolean).join(" · "),
          ),
        ],
        {
          cell: signedNumber(it.amount),
          className: it.amount > 0 ? "number plus" : "number",
          label: say.amount,
        },
        { cell: number(it.balanceAfter), className: "number", label: say.after },
      ),
    empty: say.noHistory,
  });
  type.control.addEventListener("change", () => void list.reload());
  const form = actionForm({
    className: "row",
    fields: [type, app],
    label: say.filter,
    run: list.reload,
  });
  return { element: h("div", { className: "grid" }, form, list.element), reload: list.reload };
}

function purchasesRegion() {
  return endless({
    lines: 3,
    first: (signal) => pagesByOffset(PURCHASES, (page) => api.purchases(page, { signal })),
    rows: h("tbody"),
    frame: (rows) =>
      table(say.purchases, [say.what, say.state], /** @type {HTMLTableSectionElement} */ (rows)),
    row: (it) =>
      row(
        [
          h(
            "a",
            {
              href: `${base}/purchases/${it.id}`,
              aria: { label: say.purchaseOf(dateTime(it.createdAt)) },
            },
            date(it.createdAt),
          ),
          h("div", { className: "soft" }, `${credits(it.credits)}, ${euros(it.priceEuroCents)}`),
        ],
        badge(...purchaseWord(it)),
      ),
    empty: say.noPurchases,
  });
}
