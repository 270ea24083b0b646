// Cards, tables and lists that go on.

import { fill, h, newId } from "./dom.js";
import { texts } from "./i18n.js";
import { actionButton, region } from "./ui.js";

/** @typedef {import("./dom.js").Child} Child */

const say = texts({ en: { more: "Show more" }, de: { more: "Mehr anzeigen" } });

/**
 * A page of a list, and how to get the one after it; `cursor` is null for the last.
 *
 * @template T
 * @typedef {{ items: T[], cursor: unknown, next: () => Promise<Page<T> | null> }} Page
 */

/**
 * The pages of a list that the API gives by `limit` and `offset`.
 *
 * @template T
 * @param {number} limit
 * @param {(page: { limit: number, offset: number }) => Promise<T[]>} load
 * @param {number} [offset]
 * @returns {Promise<Page<T>>}
 */
export async function pagesByOffset(limit, load, offset = 0) {
  const found = await load({ limit: limit + 1, offset });
  const more = found.length > limit;
  return {
    items: found.slice(0, limit),
    cursor: more ? offset + limit : null,
    next: async () => (more ? pagesByOffset(limit, load, offset + limit) : null),
  };
}

/**
 * A list that goes on, page by page.
 *
 * @template T
 * @param {{
 *   first: (signal: AbortSignal) => Promise<Page<T>>,
 *   frame: (rows: HTMLElement) => HTMLElement,
 *   rows: HTMLElement,
 *   row: (item: T) => HTMLElement,
 *   empty: Child,
 *   lines?: number,
 * }} options rows: what holds them; frame: what is drawn around that
 */
export function endless({ first, frame, rows, row: draw, empty, lines = 6 }) {
  const more = h("div", { className: "more" });
  const put = (/** @type {Page<T>} */ page) => {
    rows.append(...page.items.map(draw));
    if (page.cursor === null) {
      fill(more);
      return;
    }
    const goOn = async () => {
      const following = await page.next();
      const count = rows.children.length;
      if (following) put(following);
      // Who came by keyboard goes on at the first row that is new.
      const fresh = /** @type {HTMLElement | undefined} */ (rows.children[count]);
      if (fresh) {
        fresh.tabIndex = -1;
        fresh.focus({ preventScroll: true });
      }
    };
    fill(more, actionButton({ label: say.more, run: goOn }));
  };
  return region({
    lines,
    load: first,
    render: (page) => {
      fill(rows);
      put(page);
      return page.items.length === 0 ? h("p", { className: "empty" }, empty) : [frame(rows), more];
    },
  });
}

/**
 * A table with a caption for those who hear it, whose rows become blocks on a phone.
 *
 * The roles say what a table says by itself, which a style that makes blocks of it takes away.
 *
 * @param {string} caption
 * @param {(string | { text: string, className: string })[]} heads
 * @param {HTMLTableSectionElement} body of rows by `row`
 * @param {string} [className] "moves": when, what, amount and balance, close together on a phone
 */
export function table(caption, heads, body, className = "") {
  body.setAttribute("role", "rowgroup");
  return h(
    "div",
    { className: "wide" },
    h(
      "table",
      { role: "table", className },
      h("caption", { className: "unseen" }, caption),
      h(
        "thead",
        { role: "rowgroup" },
        h(
          "tr",
          { role: "row" },
          heads.map((head) => {
            const { text, className } =
              typeof head === "string" ? { text: head, className: "" } : head;
            return h("th", { scope: "col", role: "columnheader", className }, text);
          }),
        ),
      ),
      body,
    ),
  );
}

/**
 * A row of a table; a cell may say which class it is of, and what it is where heads are not seen.
 *
 * @param {...(Child | { cell: Child, className?: string, label?: string })} cells
 */
export function row(...cells) {
  return h(
    "tr",
    { role: "row" },
    cells.map((given) => {
      if (
        given === null ||
        typeof given !== "object" ||
        given instanceof Node ||
        Array.isArray(given)
      ) {
        return h("td", { role: "cell" }, given);
      }
      return h(
        "td",
        {
          role: "cell",
          className: given.className,
          data: given.label ? { label: given.label } : {},
        },
        given.cell,
      );
    }),
  );
}

/**
 * A state in a word.
 *
 * @param {"good" | "bad" | "wait" | "quiet"} tone
 * @param {string} word
 */
export function badge(tone, word) {
  return h("span", { className: `badge ${tone}` }, word);
}

/**
 * A card with a heading.
 *
 * @param {string} title
 * @param {...Child} children
 */
export function card(title, ...children) {
  const heading = h("h2", { id: newId() }, title);
  return h(
    "section",
    { className: "card", aria: { labelledby: heading.id } },
    heading,
    ...children,
  );
}

/**
 * A name and a value of a list of facts.
 *
 * @param {string} name
 * @param {Child} value
 */
export function fact(name, value) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value));
}
