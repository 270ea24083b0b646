// Usage by day and app, as a drawing and as a table.

import { fill, h, svg } from "./dom.js";
import { credits, day, fullDay, number } from "./format.js";
import { texts } from "./i18n.js";
import { row, table } from "./ui.js";

/** @typedef {{ date: string, appId: string, creditsUsed: number, operations: number }} Usage */

const say = texts({
  en: {
    chart: (/** @type {number} */ days, /** @type {string} */ total) =>
      `Used in the last ${days} days: ${total}`,
    none: "Nothing was used in this time.",
    asTable: "As a table",
    day: "Day",
    app: "App",
    used: "Credits",
    operations: "Operations",
    others: "Other apps",
  },
  de: {
    chart: (days, total) => `Verbrauch der letzten ${days} Tage: ${total}`,
    none: "In dieser Zeit wurde nichts verbraucht.",
    asTable: "Als Tabelle",
    day: "Tag",
    app: "App",
    used: "Credits",
    operations: "Vorgänge",
    others: "Andere Apps",
  },
});

const COLOURS = 5;
const HEIGHT = 190;
const WIDTH = 960;
const LEFT = 44;
const BOTTOM = 22;
const TOP = 8;

/**
 * @param {Usage[]} usage newest day first, as the API has it
 * @param {number} days how many, today (UTC) included
 */
export function usageChart(usage, days) {
  if (usage.length === 0) return h("p", { className: "empty" }, say.none);
  const apps = byWeight(usage);
  const colourOf = (/** @type {string} */ app) => Math.min(apps.indexOf(app), COLOURS - 1);
  const total = usage.reduce((sum, { creditsUsed }) => sum + creditsUsed, 0);
  const rows = h("tbody");
  fill(
    rows,
    usage.map((it) =>
      row(
        fullDay(it.date),
        it.appId,
        { cell: number(it.creditsUsed), className: "number", label: say.used },
        {
          cell: number(it.operations),
          className: "number",
          label: say.operations,
        },
      ),
    ),
  );
  const named = apps.slice(0, apps.length > COLOURS ? COLOURS - 1 : COLOURS);
  return [
    h(
      "figure",
      { className: "chart" },
      drawing(usage, days, colourOf, say.chart(days, credits(total))),
      h(
        "figcaption",
        {},
        h("span", {}, say.chart(days, credits(total))),
        h(
          "ul",
          { className: "legend" },
          named.map((app, index) => h("li", { className: `app-${index}` }, app)),
          apps.length > named.length && h("li", { className: `app-${COLOURS - 1}` }, say.others),
        ),
      ),
    ),
    h(
      "details",
      {},
      h("summary", {}, say.asTable),
      table(
        say.chart(days, credits(total)),
        [
          say.day,
          say.app,
          { text: say.used, className: "number" },
          { text: say.operations, className: "number" },
        ],
        rows,
      ),
    ),
  ];
}

/**
 * @param {Usage[]} usage
 * @param {number} days
 * @param {(app: string) => number} colourOf
 * @param {string} label
 */
function drawing(usage, days, colourOf, label) {
  /** @type {Map<string, Usage[]>} */
  const byDay = new Map();
  for (const it of usage) byDay.set(it.date, [...(byDay.get(it.date) ?? []), it]);
  const most = Math.max(
    ...[...byDay.values()].map((its) => its.reduce((sum, it) => sum + it.creditsUsed, 0)),
  );
  const top = niceTop(most);
  const dates = lastDays(days);
  const step = (WIDTH - LEFT) / dates.length;
  const y = (/** @type {number} */ value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
  const bars = dates.flatMap((date, index) => {
    let below = 0;
    const its = [...(byDay.get(date) ?? [])].sort((a, b) => colourOf(a.appId) - colourOf(b.appId));
    return its.map((it) => {
      const from = below;
      below += it.creditsUsed;
      return svg(
        "rect",
        {
          class: `app-${colourOf(it.appId)}`,
          x: LEFT + index * step + step * 0.12,
          width: step * 0.76,
          y: y(below),
          height: Math.max(1, y(from) - y(below)),
        },
        svg("title", {}, `${fullDay(date)}, ${it.appId}: ${credits(it.creditsUsed)}`),
      );
    });
  });
  const lines = [0, top / 2, top].map((value) => [
    svg("line", { class: "rule", x1: LEFT, x2: WIDTH, y1: y(value), y2: y(value) }),
    svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, number(value)),
  ]);
  const every = Math.ceil(dates.length / 8);
  const labels = dates.map(
    (date, index) =>
      index % every === 0 &&
      svg(
        "text",
        { x: LEFT + (index + 0.5) * step, y: HEIGHT - 5, "text-anchor": "middle" },
        day(date),
      ),
  );
  return svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label },
    lines,
    bars,
    labels,
  );
}

/**
 * The apps, who used most first.
 *
 * @param {Usage[]} usage
 */
function byWeight(usage) {
  /** @type {Map<string, number>} */
  const sums = new Map();
  for (const it of usage) sums.set(it.appId, (sums.get(it.appId) ?? 0) + it.creditsUsed);
  return [...sums].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0])).map(([app]) => app);
}

/** An even number of the form 2, 4, 10 × 10ⁿ that nothing goes beyond. @param {number} most */
function niceTop(most) {
  for (let unit = 1; ; unit *= 10) {
    for (const factor of [2, 4, 10]) if (factor * unit >= most) return factor * unit;
  }
}

/** @param {number} days */
function lastDays(days) {
  const today = Date.now();
  return Array.from({ length: days }, (_, index) =>
    new Date(today - (days - 1 - index) * 86_400_000).toISOString().slice(0, 10),
  );
}
