// Elements are built, never parsed: text from anybody stays text.

/** @typedef {Node | string | number | null | undefined | false | Child[]} Child */
/** @typedef {Record<string, unknown>} Properties */

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. Properties are set as such where the element has them, and as attributes otherwise;
 * `on` holds listeners, `data` and `aria` what their names say; what is null or undefined is left
 * out.
 *
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} name
 * @param {Properties} [properties]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(name, properties = {}, ...children) {
  const element = document.createElement(name);
  dress(element, properties);
  element.append(...nodes(children));
  return element;
}

/**
 * An element of a drawing; every property is an attribute.
 *
 * @param {string} name
 * @param {Properties} [properties]
 * @param {...Child} children
 * @returns {SVGElement}
 */
export function svg(name, properties = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(properties)) {
    if (value !== null && value !== undefined) element.setAttribute(key, String(value));
  }
  element.append(...nodes(children));
  return element;
}

/**
 * Put children into an element in place of what it holds.
 *
 * @template {Element} T
 * @param {T} element
 * @param {...Child} children
 * @returns {T}
 */
export function fill(element, ...children) {
  element.replaceChildren(...nodes(children));
  return element;
}

/**
 * The element that a page is sure to have.
 *
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no #${id}`);
  return found;
}

let numbered = 0;

/** An id for a label to name. @returns {string} */
export function newId() {
  numbered += 1;
  return `e${numbered}`;
}

/**
 * @param {HTMLElement} element
 * @param {Properties} properties
 */
function dress(element, properties) {
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (key === "on") {
      for (const [type, listener] of Object.entries(
        /** @type {Record<string, EventListener>} */ (value),
      )) {
        element.addEventListener(type, listener);
      }
    } else if (key === "data") {
      Object.assign(element.dataset, value);
    } else if (key === "aria") {
      for (const [aria, said] of Object.entries(/** @type {Record<string, unknown>} */ (value))) {
        if (said !== null && said !== undefined) element.setAttribute(`aria-${aria}`, String(said));
      }
    } else if (key in element) {
      /** @type {Record<string, unknown>} */ (/** @type {unknown} */ (element))[key] = value;
    } else {
      element.setAttribute(key, String(value));
    }
  }
}

/**
 * @param {Child[]} children
 * @returns {(Node | string)[]}
 */
function nodes(children) {
  /** @type {(Node | string)[]} */
  const found = [];
  for (const child of children) {
    if (Array.isArray(child)) found.push(...nodes(child));
    else if (child instanceof Node) found.push(child);
    else if (child !== null && child !== undefined && child !== false) found.push(String(child));
  }
  return found;
}
