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
    copied: "Copied",
    loading: "Loading…",
    signIn: "Sign in",
    signedOut: "You are signed out.",
    signInInApp: "Sign in to your app, and come back.",
  },
  de: {
    again: "Noch einmal versuchen",
    cancel: "Abbrechen",
    copied: "Kopiert",
    loading: "Wird geladen …",
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

  /**
   * Whoever was in it by keyboard stays in it, even where what had the focus is gone.
   *
   * @param {() => Child} draw may move into the new what has the focus, which loses it
   */
  function put(draw) {
    const focused = document.activeElement;
    const inside = element.contains(focused);
    fill(element, draw());
    if (!inside) return;
    element.tabIndex = -1;
    const still = focused instanceof HTMLElement && element.contains(focused);
    (still ? focused : element).focus({ preventScroll: true });
  }

  /** @returns {Promise<boolean>} whether it shows what was loaded */
  async function reload() {
    current?.abort();
    const mine = (current = new AbortController());
    if (!shown) put(() => skeleton(lines));
    element.setAttribute("aria-busy", "true");
    try {
      const value = await load(mine.signal);
      if (current !== mine) return false;
      put(() => render(value));
      shown = true;
      return true;
    } catch (error) {
      if (current !== mine) return false;
      shown = false;
      put(() => failure(error, reload));
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
 * Ask before something is done that cannot be undone. The dialog stays while it runs.
 *
 * @param {{ title: string, body: Child, label: string, run: () => Promise<unknown>, danger?: boolean }} options
 * @returns {Promise<boolean>} whether it was done
 */
export function ask({ title, body, label, run, danger = false }) {
  return inDialog(title, run, (act, cancel) => [
    body,
    h(
      "div",
      { className: "choices" },
      actionButton({ label, className: danger ? "danger" : "primary", run: act }),
      cancel,
    ),
  ]);
}

/**
 * A dialog until it is done or left. Who closes it while it runs is told of the end all the same.
 *
 * @param {string} title
 * @param {() => Promise<unknown>} run
 * @param {(act: () => Promise<void>, cancel: HTMLElement) => Child} draw
 * @returns {Promise<boolean>} whether it was done
 */
export function inDialog(title, run, draw) {
  return new Promise((resolve) => {
    let done = false;
    let running = false;
    const heading = h("h2", { id: newId() }, title);
    const dialog = h("dialog", { aria: { labelledby: heading.id } });
    const leave = () => {
      if (!running) dialog.close();
    };
    const end = () => {
      dialog.remove();
      resolve(done);
    };
    const act = async () => {
      running = true;
      try {
        await run();
        done = true;
      } catch (error) {
        if (!dialog.open) announce(explain(error));
        throw error;
      } finally {
        running = false;
        if (!dialog.open) end();
        else if (done) dialog.close();
      }
    };
    fill(
      dialog,
      heading,
      draw(act, h("button", { type: "button", on: { click: leave } }, say.cancel)),
    );
    dialog.addEventListener("cancel", (event) => running && event.preventDefault());
    dialog.addEventListener("close", () => !running && end());
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
