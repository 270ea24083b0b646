// Support: how billing is doing, finding a user, and one user.

import { h } from "./dom.js";
import { texts } from "./i18n.js";
import { base } from "./session.js";
import { start } from "./shell.js";
import { overviewPage } from "./support-overview.js";
import { userPage } from "./support-user.js";

const say = texts({
  en: {
    title: "Support",
    refused: "This page is for the people at support.",
    refusedHint:
      "Your account is not one of theirs. If it should be, ask whoever runs this service, and sign in again.",
    account: "To your account",
  },
  de: {
    title: "Support",
    refused: "Diese Seite ist für die Leute vom Support.",
    refusedHint:
      "Dein Konto gehört nicht dazu. Wenn es das sollte, frag die Betreiber dieses Dienstes und melde dich danach neu an.",
    account: "Zu deinem Konto",
  },
});

const userId = userIn(location.pathname.slice(base.length));

start({
  title: userId ?? say.title,
  here: "support",
  render: (person) => {
    if (!person?.admin) return refusal();
    return userId === null ? overviewPage() : userPage(userId);
  },
});

/**
 * The user that an address is about, if any.
 *
 * @param {string} path
 */
function userIn(path) {
  const part = /^\/admin\/users\/([^/]+)$/.exec(path)?.[1];
  if (part === undefined) return null;
  try {
    return decodeURIComponent(part);
  } catch {
    // A stray percent sign: the API says what it thinks of such an id.
    return part;
  }
}

/** What who is no administrator sees; the API would refuse all the rest. */
function refusal() {
  return h(
    "div",
    { className: "card narrow-page" },
    h("p", { className: "lead" }, say.refused),
    h("p", {}, say.refusedHint),
    h(
      "div",
      { className: "choices" },
      h("a", { className: "button", href: `${base}/` }, say.account),
    ),
  );
}
