// What every page is made of: loading, acting, saying what went wrong.

import { fill, h, newId } from "./dom.js";
import { explain } from "./explain.js";
import { texts } from "./i18n.js";
import { SignedOutError, canSignIn, signIn } from "./session.js";

/** @typedef {import("./dom.js").Child} Child */

const say = texts({
  en: {
    again: "Try again",
    cancel: "Cancel",
    close: "Close",
    copied: "Copied",
    loading: "Loading…",
    more: "Show more",
    optional: "optional",
    signIn: "Sign in",
    signedOut: "You are signed out.",
    signInInApp: "Sign in to your app, and come back.",
  },
  de: {
    again: "Noch einmal versuchen",
    cancel: "Abbrechen",
    close: "Schließen",
    copied: "Kopiert",
    loading: "Wird geladen …",
    more: "Mehr anzeigen",
    optional: "freiwillig",
    signIn: "Anmelden",
    signedOut: "Du bist nicht angemeldet.",
    signInInApp: "Melde dich in deiner App an und komm zurück.",
  },
});

/**
 * A part of a page that is loaded: room while it loads, what it shows, or why not and another try.
 *
 * A later `load` leaves what is there until the new answer has come; the answer to an older one is
 * dropped.
 *
 * @template T
 * @param {{
 *   load: (signal: AbortSignal) => Promise<T>,
 *   render: (value: T) => Child,
 *   lines?: number,
 *   className?: string,
 *   label?: string,
 * }} options lines: how many lines of room to keep until the first answer
 */
export function region({ load, render, lines = 3, className = "", label }) {
  const element = h("div", { className: `region ${className}`.trim(), aria: { live: "off" } });
  if (label) element.setAttribute("aria-label", label);
  if (label) element.setAttribute("role", "group");
  /** @type {AbortController | null} */
  let current = null;
  let shown = false;

  /** @returns {Promise<boolean>} whether it shows what was loaded */
  async function reload() {
    current?.abort();
    const mine = (current = new AbortController());
    if (!shown) fill(element, skeleton(lines));
    element.setAttribute("aria-busy", "true");
    try {
      const value = await load(mine.signal);
      if (current !== mine) return false;
      fill(element, render(value));
      shown = true;
      return true;
    } catch (error) {
      if (current !== mine) return false;
      shown = false;
      fill(element, failure(error, reload));
      return false;
    } finally {
      if (current === mine) element.removeAttribute("aria-busy");
    }
  }

  return { element, reload };
}

/** @param {number} lines */
function skeleton(lines) {
  return h(
    "div",
    { className: "skeleton", role: "status" },
    h("span", { className: "unseen" }, say.loading),
    Array.from({ length: lines }, () => h("span", { className: "bone", ariaHidden: "true" })),
  );
}

/**
 * Why something is not there, with the way on.
 *
 * @param {unknown} error
 * @param {() => unknown} retry
 */
export function failure(error, retry) {
  if (error instanceof SignedOutError) return signedOut();
  return h(
    "div",
    { className: "failure", role: "alert" },
    h("p", {}, explain(error)),
    h("button", { type: "button", on: { click: () => void retry() } }, say.again),
  );
}

/** What a page shows to nobody in particular. */
export function signedOut() {
  return h(
    "div",
    { className: "failure" },
    h("p", {}, say.signedOut),
    canSignIn
      ? h(
          "button",
          { type: "button", className: "primary", on: { click: () => signIn() } },
          say.signIn,
        )
      : h("p", {}, say.signInInApp),
  );
}

/**
 * A button that does something, once at a time: while it runs it says so, and after a failure why.
 *
 * @param {{
 *   label: string,
 *   run: () => Promise<unknown>,
 *   className?: string,
 *   said?: string,
 *   description?: string,
 * }} options said: what is announced after success; description: a longer name, for those who
 *   hear the button without what stands around it
 */
export function actionButton({ label, run, className = "", said, description }) {
  const button = h("button", { type: "button", className, aria: { label: description } }, label);
  const problem = h("p", { className: "problem", role: "alert" });
  const act = once(button, problem, run, said);
  button.addEventListener("click", () => void act());
  return h("div", { className: "action" }, button, problem);
}

/**
 * Make of `run` something that cannot run twice at a time, with the button that shows it.
 *
 * The button stays focusable while it runs, so that a keyboard does not lose its place.
 *
 * @param {HTMLButtonElement} button
 * @param {HTMLElement} problem where a failure is told
 * @param {() => Promise<unknown>} run
 * @param {string} [said]
 * @returns {() => Promise<void>}
 */
export function once(button, problem, run, said) {
  let running = false;
  return async () => {
    if (running) return;
    running = true;
    button.setAttribute("aria-disabled", "true");
    button.classList.add("busy");
    problem.textContent = "";
    try {
      await run();
      if (said) announce(said);
    } catch (error) {
      problem.textContent = explain(error);
      if (error instanceof SignedOutError) signIn();
    } finally {
      running = false;
      button.removeAttribute("aria-disabled");
      button.classList.remove("busy");
    }
  };
}

/**
 * A form: fields, one button, and what is wrong beside the fields that the API names.
 *
 * @param {{
 *   fields: Field[],
 *   label: string,
 *   run: () => Promise<unknown>,
 *   said?: string,
 *   className?: string,
 *   extra?: Child,
 * }} options
 */
export function actionForm({ fields, label, run, said, className = "", extra }) {
  const button = h("button", { type: "submit", className: "primary" }, label);
  const problem = h("p", { className: "problem", role: "alert" });
  const act = once(
    button,
    problem,
    async () => {
      for (const field of fields) field.complain("");
      try {
        await run();
      } catch (error) {
        if (!complainAt(fields, error)) throw error;
      }
    },
    undefined,
  );
  return h(
    "form",
    {
      className: `form ${className}`.trim(),
      noValidate: true,
      on: {
        submit: (/** @type {Event} */ event) => {
          event.preventDefault();
          const wrong = fields.find((field) => !field.check());
          if (wrong) wrong.control.focus();
          else void act().then(() => said && !problem.textContent && announceUnless(fields, said));
        },
      },
    },
    fields.map((field) => field.element),
    extra,
    h("div", { className: "action" }, button, problem),
  );
}

/**
 * @param {Field[]} fields
 * @param {string} said
 */
function announceUnless(fields, said) {
  if (!fields.some((field) => field.wrong)) announce(said);
}

/**
 * Tell what the API refuses beside its field. False where none of ours is meant.
 *
 * @param {Field[]} fields
 * @param {unknown} error
 */
function complainAt(fields, error) {
  /** @type {unknown} */
  const details = /** @type {{ details?: unknown }} */ (error)?.details;
  if (!Array.isArray(details)) return false;
  let told = false;
  for (const { field: name, message } of details) {
    const meant = fields.find((field) => field.name === name);
    if (meant) {
      meant.complain(String(message));
      if (!told) meant.control.focus();
      told = true;
    }
  }
  return told;
}

/**
 * @typedef {HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement} Control
 * @typedef {{
 *   name: string,
 *   element: HTMLElement,
 *   control: Control,
 *   readonly value: string,
 *   readonly wrong: boolean,
 *   check: () => boolean,
 *   complain: (message: string) => void,
 * }} Field
 */

/**
 * A labelled control.
 *
 * @param {{
 *   name: string,
 *   label: string,
 *   control: Control,
 *   hint?: string,
 *   optional?: boolean | "unsaid",
 *   check?: (value: string) => string,
 * }} options name: as the API calls it; optional: and the label says so, unless it goes without
 *   saying; check: what is wrong with a value, or nothing
 * @returns {Field}
 */
export function field({ name, label, control, hint, optional = false, check }) {
  control.id ||= newId();
  control.name = name;
  const problem = h("p", { className: "problem", id: newId(), role: "alert" });
  const help = hint ? h("p", { className: "hint", id: newId() }, hint) : null;
  control.setAttribute("aria-describedby", [help?.id, problem.id].filter(Boolean).join(" "));
  if (!optional) control.required = true;
  const complain = (/** @type {string} */ message) => {
    problem.textContent = message;
    if (message) control.setAttribute("aria-invalid", "true");
    else control.removeAttribute("aria-invalid");
  };
  control.addEventListener("input", () => complain(""));
  return {
    name,
    control,
    element: h(
      "div",
      { className: "field" },
      h(
        "label",
        { htmlFor: control.id },
        label,
        optional === true && h("span", { className: "soft" }, ` (${say.optional})`),
      ),
      control,
      help,
      problem,
    ),
    get value() {
      return control.value.trim();
    },
    get wrong() {
      return control.hasAttribute("aria-invalid");
    },
    check() {
      const value = control.value.trim();
      const wrong = check?.(value) ?? "";
      complain(wrong || (value || optional ? "" : control.validationMessage || label));
      return !problem.textContent;
    },
    complain,
  };
}

/**
 * A choice of one, as options.
 *
 * @param {[value: string, label: string][]} options
 * @param {string} [selected]
 */
export function select(options, selected) {
  return h(
    "select",
    {},
    options.map(([value, label]) => h("option", { value, selected: value === selected }, label)),
  );
}

/**
 * Ask before something is done that cannot be undone. The dialog stays while it runs.
 *
 * @param {{ title: string, body: Child, label: string, run: () => Promise<unknown>, danger?: boolean }} options
 * @returns {Promise<boolean>} whether it was done
 */
export function ask({ title, body, label, run, danger = false }) {
  return new Promise((resolve) => {
    let done = false;
    const heading = h("h2", { id: newId() }, title);
    const dialog = h("dialog", { aria: { labelledby: heading.id } });
    const close = () => dialog.close();
    fill(
      dialog,
      heading,
      body,
      h(
        "div",
        { className: "choices" },
        actionButton({
          label,
          className: danger ? "danger" : "primary",
          run: async () => {
            await run();
            done = true;
            close();
          },
        }),
        h("button", { type: "button", on: { click: close } }, say.cancel),
      ),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(done);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** @type {HTMLElement | null} */
let announcer = null;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let fading;

/**
 * Say that something has happened, to eyes and screen readers.
 *
 * @param {string} message
 */
export function announce(message) {
  if (announcer === null) {
    announcer = h("div", { className: "announcer", role: "status" });
    document.body.append(announcer);
  }
  announcer.textContent = message;
  clearTimeout(fading);
  fading = setTimeout(() => announcer && (announcer.textContent = ""), 6000);
}

/**
 * A button that copies a text.
 *
 * @param {string} label
 * @param {string} text
 * @param {string} [description]
 */
export function copyButton(label, text, description) {
  return actionButton({
    label,
    description,
    className: "small",
    run: () => navigator.clipboard.writeText(text),
    said: say.copied,
  });
}

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
