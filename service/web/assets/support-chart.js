// What was sold, used and outstanding per day, over all users: drawings and a table.

import { h, svg } from "./dom.js";
import { credits, fullDay, number } from "./format.js";
import { texts } from "./i18n.js";
import { plot } from "./chart.js";
import { fact, row, table } from "./parts.js";

/** @typedef {import("../client/types.js").LedgerDay} Day */

const say = texts({
  en: {
    moved: (/** @type {number} */ days, /** @type {string} */ sold, /** @type {string} */ used) =>
      `Sold and used in the last ${days} days: ${sold} and ${used}`,
    held: (/** @type {string} */ now) => `Outstanding: ${now} today`,
    day: "Day",
    sold: "Sold",
    used: "Used",
    granted: "Granted",
    refunded: "Refunded",
    reversed: "Taken back",
    outstanding: "Outstanding",
    now: "Outstanding today",
    asTable: "As a table",
    caption: "Credits per day",
    onDay: (/** @type {string} */ day, /** @type {string} */ what, /** @type {string} */ amount) =>
      `${day}, ${what}: ${amount}`,
  },
  de: {
    moved: (days, sold, used) =>
      `Verkauft und verbraucht in den letzten ${days} Tagen: ${sold} und ${used}`,
    held: (now) => `Im Umlauf: heute ${now}`,
    day: "Tag",
    sold: "Verkauft",
    used: "Verbraucht",
    granted: "Gutgeschrieben",
    refunded: "Erstattet",
    reversed: "Zurückgenommen",
    outstanding: "Im Umlauf",
    now: "Heute im Umlauf",
    asTable: "Als Tabelle",
    caption: "Credits pro Tag",
    onDay: (day, what, amount) => `${day}, ${what}: ${amount}`,
  },
});

/** @typedef {"sold" | "used" | "granted" | "refunded" | "reversed"} Flow */
/** @type {readonly Flow[]} */
const FLOWS = ["sold", "used", "granted", "refunded", "reversed"];
/** @type {readonly Flow[]} */
const DRAWN = ["sold", "used"];

/**
 * @param {Day[]} days newest first, today (UTC) included
 * @param {{ open: boolean }} table whether the table is read; kept for the next days that are drawn
 */
export function creditsChart(days, table) {
  const sum = (/** @type {Flow} */ flow) => days.reduce((all, day) => all + day[flow], 0);
  const now = days[0]?.outstanding ?? 0;
  return [
    h(
      "dl",
      { className: "facts" },
      FLOWS.map((flow) => fact(say[flow], number(sum(flow)))),
      fact(say.now, number(now)),
    ),
    h(
      "div",
      { className: "charts" },
      movedChart(days, say.moved(days.length, credits(sum("sold")), credits(sum("used")))),
      outstandingChart(days, say.held(credits(now))),
    ),
    h(
      "details",
      {
        open: table.open,
        on: {
          toggle: (/** @type {Event} */ event) => {
            table.open = /** @type {HTMLDetailsElement} */ (event.target).open;
          },
        },
      },
      h("summary", {}, say.asTable),
      asTable(days),
    ),
  ];
}

/**
 * @param {Day[]} days
 * @param {string} label
 */
function movedChart(days, label) {
  const shown = [...days].reverse();
  const most = Math.max(...shown.flatMap((day) => DRAWN.map((flow) => day[flow])));
  return h(
    "figure",
    { className: "chart" },
    plot({ label, dates: shown.map(({ date }) => date), most }, ({ x, y, step }) =>
      shown.map((day, index) =>
        DRAWN.map(
          (flow, place) =>
            day[flow] > 0 &&
            svg(
              "rect",
              {
                class: `app-${place}`,
                x: x(index) + step * (0.1 + place * 0.4),
                width: step * 0.4,
                y: y(day[flow]),
                height: Math.max(1, y(0) - y(day[flow])),
              },
              svg("title", {}, say.onDay(fullDay(day.date), say[flow], credits(day[flow]))),
            ),
        ),
      ),
    ),
    h(
      "figcaption",
      {},
      h(
        "ul",
        { className: "legend" },
        DRAWN.map((flow, place) => h("li", { className: `app-${place}` }, say[flow])),
      ),
    ),
  );
}

/**
 * @param {Day[]} days
 * @param {string} label
 */
function outstandingChart(days, label) {
  const shown = [...days].reverse();
  const most = Math.max(...shown.map(({ outstanding }) => outstanding));
  return h(
    "figure",
    { className: "chart" },
    plot({ label, dates: shown.map(({ date }) => date), most }, ({ x, y }) =>
      svg(
        "path",
        {
          class: "app-2",
          d: shown
            .map(
              (day, index) => `${index === 0 ? "M" : "L"}${x(index + 0.5)} ${y(day.outstanding)}`,
            )
            .join(""),
        },
        svg("title", {}, label),
      ),
    ),
    h(
      "figcaption",
      {},
      h("ul", { className: "legend" }, h("li", { className: "app-2" }, say.outstanding)),
    ),
  );
}

/** @param {Day[]} days */
function asTable(days) {
  const body = h("tbody");
  body.append(
    ...days.map((day) =>
      row(
        fullDay(day.date),
        ...FLOWS.map((flow) => ({
          cell: number(day[flow]),
          className: "number",
          label: say[flow],
        })),
        { cell: number(day.outstanding), className: "number", label: say.outstanding },
      ),
    ),
  );
  return table(
    say.caption,
    [
      say.day,
      ...FLOWS.map((flow) => ({ text: say[flow], className: "number" })),
      { text: say.outstanding, className: "number" },
    ],
    body,
  );
}
