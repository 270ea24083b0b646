// What stands around every page: its way in, its navigation, and the banner while sync is paused.

import { sync } from "./api.js";
import { byId, fill, h } from "./dom.js";
import { choose, language, texts } from "./i18n.js";
import { base, signIn, signOut, whoAmI } from "./session.js";
import { once, failure, signedOut } from "./ui.js";

/** @typedef {import("./dom.js").Child} Child */
/** @typedef {import("./session.js").Person} Person */

const say = texts({
  en: {
    account: "Account",
    sync: "Cloud Sync",
    gifts: "Gifts",
    support: "Support",
    skip: "To the content",
    pages: "Pages",
    theme: "Theme",
    themes: { system: "System", light: "Light", dark: "Dark" },
    other: "Deutsch",
    signIn: "Sign in",
    signOut: "Sign out",
    you: "Signed in as",
    paused: "Your credits ran out, so Cloud Sync is paused. Your data stays on your devices.",
    topUp: "Top up",
    settings: "Sync settings",
    close: "Close for a day",
    banner: "Cloud Sync is paused",
    docs: "API",
    prices: "1 credit = 1 euro cent",
  },
  de: {
    account: "Konto",
    sync: "Cloud Sync",
    gifts: "Geschenke",
    support: "Support",
    skip: "Zum Inhalt",
    pages: "Seiten",
    theme: "Darstellung",
    themes: { system: "System", light: "Hell", dark: "Dunkel" },
    other: "English",
    signIn: "Anmelden",
    signOut: "Abmelden",
    you: "Angemeldet als",
    paused:
      "Deine Credits sind aufgebraucht, darum pausiert Cloud Sync. Deine Daten bleiben auf deinen Geräten.",
    topUp: "Aufladen",
    settings: "Sync-Einstellungen",
    close: "Für einen Tag schließen",
    banner: "Cloud Sync pausiert",
    docs: "API",
    prices: "1 Credit = 1 Eurocent",
  },
});

const CLOSED = "mana-banner-closed";
const DAY_MS = 86_400_000;

/**
 * Draw a page: `render` fills the content once it is known who is there.
 *
 * @param {{
 *   title: string,
 *   here: "account" | "sync" | "gifts" | "support" | "",
 *   anybody?: boolean,
 *   render: (person: Person | null) => Child,
 * }} page anybody: the page is of use to those who are not signed in; otherwise they go and sign in
 */
export async function start({ title, here, anybody = false, render }) {
  document.documentElement.lang = language;
  document.title = `${title} · Mana Credits`;
  byId("skip").textContent = say.skip;
  const content = byId("content");
  const heading = h("h1", {}, title);
  drawTop(here, null);
  fill(content, heading);

  /** @type {Person | null} */
  let person;
  try {
    person = await whoAmI();
  } catch (error) {
    if (!anybody) {
      fill(
        content,
        heading,
        failure(error, () => location.reload()),
      );
      return;
    }
    person = null;
  }
  if (person === null && !anybody) {
    if (signIn({ unasked: true })) return;
    fill(content, heading, signedOut());
    drawBottom();
    return;
  }
  drawTop(here, person);
  fill(content, heading, render(person));
  // Behind the rest, which would push it down.
  drawBottom();
  if (person !== null) watchSync(person.userId);
  // From the cache of the back button, a page would show what was; and its tokens may be gone.
  addEventListener("pageshow", (event) => event.persisted && location.reload());
}

/**
 * @param {string} here
 * @param {Person | null} person
 */
function drawTop(here, person) {
  /** @type {[string, string, string][]} */
  const links = [
    ["account", "/", say.account],
    ["sync", "/settings/sync", say.sync],
    ["gifts", "/gifts", say.gifts],
  ];
  if (person?.admin) links.push(["support", "/admin", say.support]);
  fill(
    byId("top"),
    h(
      "div",
      { className: "bar" },
      h("a", { className: "brand", href: `${base}/` }, "Mana Credits"),
      h(
        "nav",
        { aria: { label: say.pages } },
        h(
          "ul",
          {},
          links.map(([name, path, label]) =>
            h(
              "li",
              {},
              h(
                "a",
                { href: base + path, aria: { current: name === here ? "page" : null } },
                label,
              ),
            ),
          ),
        ),
      ),
      h("div", { className: "who" }, who(person)),
    ),
  );
}

/** @param {Person | null} person */
function who(person) {
  if (person === null) {
    return h(
      "button",
      { type: "button", className: "plain", on: { click: () => signIn() } },
      say.signIn,
    );
  }
  const button = h("button", { type: "button", className: "plain" }, say.signOut);
  const problem = h("p", { className: "problem", role: "alert" });
  const act = once(button, problem, async () => {
    await signOut();
    location.assign(`${base}/`);
  });
  button.addEventListener("click", () => void act());
  return [
    h(
      "span",
      { className: "name" },
      h("span", { className: "unseen" }, `${say.you} `),
      person.name ?? person.email ?? person.userId,
    ),
    button,
    problem,
  ];
}

function drawBottom() {
  const theme = h(
    "select",
    {
      aria: { label: say.theme },
      on: {
        change: () => {
          const wanted = theme.value;
          try {
            if (wanted === "system") localStorage.removeItem("mana-theme");
            else localStorage.setItem("mana-theme", wanted);
          } catch {
            // It holds for this page then.
          }
          if (wanted === "system") delete document.documentElement.dataset.theme;
          else document.documentElement.dataset.theme = wanted;
        },
      },
    },
    Object.entries(say.themes).map(([value, label]) =>
      h(
        "option",
        { value, selected: value === (document.documentElement.dataset.theme ?? "system") },
        label,
      ),
    ),
  );
  const other = language === "en" ? "de" : "en";
  fill(
    byId("bottom"),
    h("span", { className: "soft" }, say.prices),
    h("a", { href: `${base}/docs` }, say.docs),
    h(
      "button",
      { type: "button", className: "plain", lang: other, on: { click: () => choose(other) } },
      say.other,
    ),
    theme,
  );
}

/**
 * Show the banner while sync is paused; closed, it comes back after a day.
 *
 * @param {string} userId
 */
function watchSync(userId) {
  const key = `${CLOSED}:${userId}`;
  const banner = byId("banner");
  const close = () => {
    try {
      localStorage.setItem(key, String(Date.now()));
    } catch {
      // It is gone from this page at least.
    }
    fill(banner);
    byId("content").focus();
  };
  sync.subscribe(({ paused }) => {
    let closedAt = 0;
    try {
      closedAt = Number(localStorage.getItem(key) ?? 0);
    } catch {
      // As if it was never closed.
    }
    if (!paused || Date.now() - closedAt < DAY_MS) {
      fill(banner);
    } else if (!banner.hasChildNodes()) {
      fill(
        banner,
        h(
          "section",
          { className: "banner", aria: { label: say.banner } },
          h("p", {}, say.paused),
          h(
            "div",
            { className: "choices" },
            h("a", { className: "button primary", href: `${base}/#top-up` }, say.topUp),
            h("a", { className: "button", href: `${base}/settings/sync` }, say.settings),
            h("button", { type: "button", on: { click: close } }, say.close),
          ),
        ),
      );
    }
  });
  // A page that fails to learn this is none the worse: it has a retry of its own where it matters.
  sync.load().catch(() => {});
}
