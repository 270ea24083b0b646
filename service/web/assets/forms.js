// Forms: labelled fields, one button, and what is wrong beside the field that it is about.

import { h, newId } from "./dom.js";
import { texts } from "./i18n.js";
import { announce, inDialog, once } from "./ui.js";

/** @typedef {import("./dom.js").Child} Child */

const say = texts({ en: { optional: "optional" }, de: { optional: "freiwillig" } });

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
 *   danger?: boolean,
 *   beside?: Child,
 * }} options beside: what stands beside the button
 */
export function actionForm({
  fields,
  label,
  run,
  said,
  className = "",
  extra,
  danger = false,
  beside,
}) {
  const button = h("button", { type: "submit", className: danger ? "danger" : "primary" }, label);
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
    beside
      ? h(
          "div",
          { className: "choices" },
          h("div", { className: "action" }, button, problem),
          beside,
        )
      : h("div", { className: "action" }, button, problem),
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
 *   applies?: () => boolean,
 * }} options name: as the API calls it; optional: and the label says so, unless it goes without
 *   saying; check: what is wrong with a value, or nothing; applies: false while the form does
 *   without it, whatever is in it
 * @returns {Field}
 */
export function field({
  name,
  label,
  control,
  hint,
  optional = false,
  check,
  applies = () => true,
}) {
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
      if (!applies()) return true;
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
    options.map(([value, label]) =>
      h("option", { value, defaultSelected: value === selected }, label),
    ),
  );
}

/**
 * The same with something to be filled in; what the API refuses is told beside its field.
 *
 * @param {{
 *   title: string,
 *   body?: Child,
 *   fields: Field[],
 *   label: string,
 *   run: () => Promise<unknown>,
 *   danger?: boolean,
 * }} options
 * @returns {Promise<boolean>} whether it was done
 */
export function askForm({ title, body, fields, label, run, danger = false }) {
  return inDialog(title, run, (act, cancel) => [
    body,
    actionForm({ fields, label, run: act, danger, beside: cancel }),
  ]);
}
