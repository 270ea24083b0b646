// English and German: from the browser, unless somebody has chosen.

/** @typedef {"en" | "de"} Language */

const CHOICE = "mana-language";

/** @type {Language} */
export const language = chosen() ?? preferred();

/**
 * The texts of a module in the page's language. Each is a string, or a function that puts values in.
 *
 * @template T
 * @param {{ en: T, de: NoInfer<T> }} both
 * @returns {T}
 */
export function texts(both) {
  return both[language];
}

/**
 * Keep another language, and show the page in it.
 *
 * @param {Language} other
 */
export function choose(other) {
  try {
    localStorage.setItem(CHOICE, other);
  } catch {
    // Without storage the browser's language is all there is.
    return;
  }
  location.reload();
}

/** @returns {Language | null} */
function chosen() {
  try {
    const kept = localStorage.getItem(CHOICE);
    return kept === "en" || kept === "de" ? kept : null;
  } catch {
    return null;
  }
}

/** @returns {Language} */
function preferred() {
  for (const tag of navigator.languages) {
    const main = tag.slice(0, 2).toLowerCase();
    if (main === "en" || main === "de") return main;
  }
  return "en";
}
