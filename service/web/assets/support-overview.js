// How billing is doing, and the search for a user.

import { fill, h } from "./dom.js";
import { credits, dateTime, number } from "./format.js";
import { texts } from "./i18n.js";
import { admin, userPath } from "./support-api.js";
import { creditsChart } from "./support-chart.js";
import { actionForm, field, select } from "./forms.js";
import { badge, card, endless, fact, row, table } from "./parts.js";
import { actionButton, announce, region } from "./ui.js";

/** @typedef {import("../client/types.js").Job} Job */
/** @typedef {import("../client/types.js").Overview} Overview */
/** @typedef {import("../client/types.js").UserFound} UserFound */
/** @typedef {import("../client/types.js").StripeEvent} StripeEvent */
/** @typedef {import("../client/types.js").Notice} Notice */
/** @typedef {import("../client/types.js").EventQuery} EventQuery */
/** @typedef {import("../client/types.js").NoticeQuery} NoticeQuery */
/** @typedef {import("./words.js").Tone} Tone */

const say = texts({
  en: {
    find: "Find a user",
    search: "User, e-mail, purchase, transaction or gift code",
    searchHint:
      "Ids and addresses may be cut short; ids of Stripe's payments and customers are found as well.",
    searchButton: "Search",
    found: (/** @type {number} */ count) =>
      count === 1 ? "1 user found" : `${number(count)} users found`,
    many: (/** @type {number} */ count) =>
      `The ${number(count)} that fit best. Search for more of it to see others.`,
    nobody: "Nobody fits.",
    open: (/** @type {string} */ id) => `If it is the id of a user not seen yet: open ${id}`,
    user: "User",
    balance: "Balance",
    held: "Held",
    sync: "Cloud Sync",
    on: "On",
    off: "Off",
    lastMove: "Last move",
    never: "Never",
    perDay: "Credits per day",
    period: "Period",
    days: (/** @type {number} */ days) => `${days} days`,
    subscriptions: "Cloud Sync",
    active: "Paying",
    paused: "Paused",
    gifted: "Gifts",
    nextRun: "The next charge run, within the hour",
    due: "Due",
    charges: "Will be charged",
    pauses: "Will be paused",
    income: "Credits charged",
    noneDue: "It has nothing to do.",
    health: "What needs a look",
    ledger: "Ledger check",
    sound: "Sound",
    violations: (/** @type {number} */ count) =>
      `${number(count)} ${count === 1 ? "violation" : "violations"}`,
    unchecked: "Never checked",
    events: "Stripe events",
    notices: "Notices",
    allDone: "All done",
    failed: (/** @type {number} */ count) => `${number(count)} failed`,
    waiting: (/** @type {number} */ count) => `${number(count)} waiting`,
    unaddressed: (/** @type {number} */ count) => `${number(count)} without an address`,
    jobs: "Jobs",
    job: "Job",
    state: "State",
    lastSuccess: "Last success",
    lastRun: "Last run",
    did: "Done",
    late: "Late",
    running: "Running",
    failedJob: "Failed",
    fine: "Fine",
    notRun: "Not run yet",
    nothing: "nothing to do",
    names: /** @type {Record<string, string>} */ ({
      "recurring-charge": "Charges",
      "gift-expiry": "Expired gifts",
      "reservation-expiry": "Expired holds",
      "charge-notices": "Charges announced",
      "ledger-check": "Ledger check",
      pruning: "Clearing up",
    }),
    counts: /** @type {Record<string, string>} */ ({
      announced: "announced",
      charged: "charged",
      errors: "errors",
      expired: "expired",
      jobRuns: "old runs",
      paused: "paused",
      payloads: "payloads",
      rateLimits: "rate limits",
      violations: "violations",
    }),
    show: "Show",
    eventStates: /** @type {[string, string][]} */ ([
      ["failed", "Failed"],
      ["received", "Waiting"],
    ]),
    noEvents: "There are none.",
    event: "Event",
    error: "Error",
    received: "Received",
    attempts: (/** @type {number} */ count) =>
      `${number(count)} ${count === 1 ? "attempt" : "attempts"}`,
    next: (/** @type {string} */ when) => `next at ${when}`,
    purchase: "Find its user",
    action: "Action",
    replay: "Replay",
    replayOf: (/** @type {string} */ id) => `Replay ${id}`,
    replayed: "The event was applied.",
    replayedWaiting: "The event waits for an answer of Stripe.",
    replayedIgnored: "The event is not about anything of ours.",
    failedAgain: (/** @type {string} */ error) => `It failed again: ${error}`,
    noticeStates: /** @type {[string, string][]} */ ([
      ["failed", "Failed"],
      ["undeliverable", "Without an address"],
      ["pending", "Waiting"],
    ]),
    kinds: /** @type {Record<string, string>} */ ({
      sync_paused: "Cloud Sync paused",
      gift_expired: "Gift expired",
      charge_coming: "Charge is coming",
    }),
    notice: "Notice",
    written: "Written",
    retry: "Send again",
    retryOf: (/** @type {string} */ kind, /** @type {string} */ user) =>
      `Send again: ${kind}, to ${user}`,
    retryAll: "Send all again",
    retryAllHint: "All that failed, and all without an address.",
    retried: (/** @type {number} */ count) =>
      count === 1 ? "1 notice is sent again." : `${number(count)} notices are sent again.`,
  },
  de: {
    find: "Benutzer finden",
    search: "Benutzer, E-Mail, Kauf, Buchung oder Geschenkcode",
    searchHint:
      "IDs und Adressen dürfen abgekürzt sein; auch IDs von Stripes Zahlungen und Kunden werden gefunden.",
    searchButton: "Suchen",
    found: (count) => `${number(count)} Benutzer gefunden`,
    many: (count) =>
      `Die ${number(count)}, die am besten passen. Such genauer, um andere zu sehen.`,
    nobody: "Niemand passt.",
    open: (id) => `Wenn es die ID eines neuen Benutzers ist: ${id} öffnen`,
    user: "Benutzer",
    balance: "Guthaben",
    held: "Vorgemerkt",
    sync: "Cloud Sync",
    on: "An",
    off: "Aus",
    lastMove: "Letzte Buchung",
    never: "Nie",
    perDay: "Credits pro Tag",
    period: "Zeitraum",
    days: (days) => `${days} Tage`,
    subscriptions: "Cloud Sync",
    active: "Zahlend",
    paused: "Pausiert",
    gifted: "Geschenkt",
    nextRun: "Die nächste Abbuchung, innerhalb einer Stunde",
    due: "Fällig",
    charges: "Wird abgebucht",
    pauses: "Wird pausiert",
    income: "Credits insgesamt",
    noneDue: "Sie hat nichts zu tun.",
    health: "Was einen Blick braucht",
    ledger: "Prüfung der Buchungen",
    sound: "In Ordnung",
    violations: (count) => `${number(count)} ${count === 1 ? "Verstoß" : "Verstöße"}`,
    unchecked: "Nie geprüft",
    events: "Stripe-Ereignisse",
    notices: "Nachrichten",
    allDone: "Alles erledigt",
    failed: (count) => `${number(count)} fehlgeschlagen`,
    waiting: (count) => `${number(count)} wartend`,
    unaddressed: (count) => `${number(count)} ohne Adresse`,
    jobs: "Aufgaben",
    job: "Aufgabe",
    state: "Stand",
    lastSuccess: "Letzter Erfolg",
    lastRun: "Letzter Lauf",
    did: "Getan",
    late: "Überfällig",
    running: "Läuft",
    failedJob: "Fehlgeschlagen",
    fine: "Gut",
    notRun: "Noch nie gelaufen",
    nothing: "nichts zu tun",
    names: {
      "recurring-charge": "Abbuchungen",
      "gift-expiry": "Abgelaufene Geschenke",
      "reservation-expiry": "Abgelaufene Vormerkungen",
      "charge-notices": "Angekündigte Abbuchungen",
      "ledger-check": "Prüfung der Buchungen",
      pruning: "Aufräumen",
    },
    counts: {
      announced: "angekündigt",
      charged: "abgebucht",
      errors: "Fehler",
      expired: "abgelaufen",
      jobRuns: "alte Läufe",
      paused: "pausiert",
      payloads: "Inhalte",
      rateLimits: "Zugriffszähler",
      violations: "Verstöße",
    },
    show: "Zeigen",
    eventStates: [
      ["failed", "Fehlgeschlagen"],
      ["received", "Wartend"],
    ],
    noEvents: "Es gibt keine.",
    event: "Ereignis",
    error: "Fehler",
    received: "Empfangen",
    attempts: (count) => `${number(count)} ${count === 1 ? "Versuch" : "Versuche"}`,
    next: (when) => `nächster ${when}`,
    purchase: "Benutzer dazu finden",
    action: "Aktion",
    replay: "Wiederholen",
    replayOf: (id) => `${id} wiederholen`,
    replayed: "Das Ereignis wurde angewendet.",
    replayedWaiting: "Das Ereignis wartet auf eine Antwort von Stripe.",
    replayedIgnored: "Das Ereignis betrifft nichts von uns.",
    failedAgain: (error) => `Es ist wieder fehlgeschlagen: ${error}`,
    noticeStates: [
      ["failed", "Fehlgeschlagen"],
      ["undeliverable", "Ohne Adresse"],
      ["pending", "Wartend"],
    ],
    kinds: {
      sync_paused: "Cloud Sync pausiert",
      gift_expired: "Geschenk abgelaufen",
      charge_coming: "Abbuchung kommt",
    },
    notice: "Nachricht",
    written: "Geschrieben",
    retry: "Erneut senden",
    retryOf: (kind, user) => `Erneut senden: ${kind}, an ${user}`,
    retryAll: "Alle erneut senden",
    retryAllHint: "Alle fehlgeschlagenen und alle ohne Adresse.",
    retried: (count) =>
      count === 1
        ? "1 Nachricht wird erneut gesendet."
        : `${number(count)} Nachrichten werden erneut gesendet.`,
  },
});

const PAGE = 25;
/** What can be a user id, as the API has it; one with an at sign is more likely an address. */
const USER_ID = /^(?!\.{1,2}$)[^\s/?#%{}@]{1,128}$/u;

export function overviewPage() {
  const search = searchPart();
  const overview = overviewPart();
  const events = eventsPart(() => overview.reload(), search.find);
  const notices = noticesPart(() => overview.reload());
  const lists = h(
    "div",
    { className: "grid", hidden: true },
    card(say.events, events.element),
    card(say.notices, notices.element),
  );
  void events.reload();
  void notices.reload();
  // What stands below is not pushed down by what comes later above it.
  void overview.reload().then(() => (lists.hidden = false));
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") void overview.reload();
  });
  return h("div", { className: "grid" }, card(say.find, search.element), overview.element, lists);
}

function searchPart() {
  let query = "";
  const asked = field({
    name: "query",
    label: say.search,
    hint: say.searchHint,
    control: h("input", { type: "search", maxLength: 254, autocomplete: "off", spellcheck: false }),
  });
  const count = h("p", { className: "soft", role: "status" });
  const results = region({
    lines: 3,
    load: (signal) => admin.users.find(query, { limit: PAGE }, { signal }),
    render: (users) => {
      count.textContent =
        users.length === 0
          ? say.nobody
          : users.length < PAGE
            ? say.found(users.length)
            : say.many(PAGE);
      return users.length === 0
        ? USER_ID.test(query) && h("a", { href: userPath(query) }, say.open(query))
        : foundUsers(users);
    },
  });
  const place = h("div", { hidden: true });
  const run = async () => {
    query = asked.value;
    count.textContent = "";
    // For the way back from a user; in the address it would be in everybody's logs.
    history.replaceState({ query }, "");
    fill(place, count, results.element);
    place.hidden = false;
    await results.reload();
  };
  const kept = /** @type {{ query?: unknown } | null} */ (history.state)?.query;
  if (typeof kept === "string" && kept !== "") {
    asked.control.value = kept;
    void run();
  }
  const form = actionForm({ className: "search", fields: [asked], label: say.searchButton, run });
  return {
    element: h("div", { className: "grid" }, form, place),
    find: async (/** @type {string} */ text) => {
      asked.control.value = text;
      asked.control.focus();
      await run();
    },
  };
}

/** @param {UserFound[]} users */
function foundUsers(users) {
  const body = h("tbody");
  body.append(
    ...users.map((it) =>
      row(
        [
          h("a", { href: userPath(it.userId) }, it.userId),
          it.email && h("div", { className: "soft" }, it.email),
        ],
        { cell: number(it.balance), className: "number", label: say.balance },
        { cell: number(it.reserved), className: "number", label: say.held },
        {
          cell: badge(it.syncActive ? "good" : "quiet", it.syncActive ? say.on : say.off),
          label: say.sync,
        },
        { cell: it.lastMoveAt === null ? say.never : dateTime(it.lastMoveAt), label: say.lastMove },
      ),
    ),
  );
  return table(
    say.find,
    [
      say.user,
      { text: say.balance, className: "number" },
      { text: say.held, className: "number" },
      say.sync,
      say.lastMove,
    ],
    body,
  );
}

function overviewPart() {
  const period = select(
    [7, 30, 90].map((days) => [String(days), say.days(days)]),
    "30",
  );
  period.setAttribute("aria-label", say.period);
  const daysTable = { open: false };
  const part = region({
    lines: 16,
    load: (signal) => admin.overview({ days: Number(period.value) }, { signal }),
    render: (overview) =>
      h(
        "div",
        { className: "grid two" },
        wide(
          card(
            say.perDay,
            h("div", { className: "narrow" }, period),
            creditsChart(overview.days, daysTable),
          ),
        ),
        subscriptionsCard(overview),
        healthCard(overview),
        wide(card(say.jobs, jobsTable(overview.jobs))),
      ),
  });
  period.addEventListener("change", () => void part.reload());
  return part;
}

/** @param {HTMLElement} element */
function wide(element) {
  element.classList.add("whole");
  return element;
}

/** @param {Overview} overview */
function subscriptionsCard({ subscriptions, nextRun }) {
  return card(
    say.subscriptions,
    h(
      "dl",
      { className: "facts" },
      fact(say.active, number(subscriptions.active)),
      fact(say.paused, number(subscriptions.paused)),
      fact(say.gifted, number(subscriptions.gifted)),
    ),
    h("h3", { className: "apart" }, say.nextRun),
    nextRun.due === 0
      ? h("p", { className: "empty" }, say.noneDue)
      : h(
          "dl",
          { className: "facts" },
          fact(say.due, number(nextRun.due)),
          fact(say.charges, number(nextRun.charges)),
          fact(say.pauses, number(nextRun.pauses)),
          fact(say.income, credits(nextRun.credits)),
        ),
  );
}

/** @param {Overview} overview */
function healthCard({ ledgerCheck, stripeEvents, notices }) {
  const { checkedAt, violations } = ledgerCheck;
  const open = (/** @type {(Node | false)[]} */ ...badges) =>
    h("div", { className: "badges" }, badges.some(Boolean) ? badges : badge("good", say.allDone));
  return card(
    say.health,
    h(
      "dl",
      { className: "facts roomy" },
      fact(
        say.ledger,
        checkedAt === null
          ? badge("wait", say.unchecked)
          : [
              h(
                "div",
                {},
                violations ? badge("bad", say.violations(violations)) : badge("good", say.sound),
              ),
              h("div", { className: "soft plain-text" }, dateTime(checkedAt)),
            ],
      ),
      fact(
        say.events,
        open(
          stripeEvents.failed > 0 && badge("bad", say.failed(stripeEvents.failed)),
          stripeEvents.received > 0 && badge("wait", say.waiting(stripeEvents.received)),
        ),
      ),
      fact(
        say.notices,
        open(
          notices.failed > 0 && badge("bad", say.failed(notices.failed)),
          notices.undeliverable > 0 && badge("wait", say.unaddressed(notices.undeliverable)),
          notices.waiting > 0 && badge("quiet", say.waiting(notices.waiting)),
        ),
      ),
    ),
  );
}

/** @param {Job[]} jobs */
function jobsTable(jobs) {
  const body = h("tbody");
  const troubled = (/** @type {Job} */ job) => Number(job.late || job.error !== null);
  body.append(
    ...[...jobs]
      .sort((a, b) => troubled(b) - troubled(a))
      .map((job) =>
        row(
          [
            h("strong", {}, say.names[job.job] ?? job.job),
            h("div", { className: "soft code" }, job.job),
          ],
          h("div", { className: "badges" }, jobBadges(job)),
          {
            cell: job.lastSucceededAt === null ? say.never : dateTime(job.lastSucceededAt),
            label: say.lastSuccess,
          },
          {
            cell: [
              job.lastStartedAt === null ? say.never : dateTime(job.lastStartedAt),
              // It is of the last run that ended, which a run under way is not.
              job.did !== null && h("div", { className: "soft" }, whatItDid(job.did)),
              job.error !== null && h("div", { className: "wrong user-text" }, job.error),
            ],
            label: say.lastRun,
          },
        ),
      ),
  );
  return table(say.jobs, [say.job, say.state, say.lastSuccess, say.lastRun], body);
}

/** @param {Job} job */
function jobBadges({ late, error, lastStartedAt, lastEndedAt }) {
  /** @type {[Tone, string][]} */
  const found = [];
  if (error !== null) found.push(["bad", say.failedJob]);
  if (late) found.push(["bad", say.late]);
  const running = lastStartedAt !== null && (lastEndedAt === null || lastEndedAt < lastStartedAt);
  if (running) found.push(["wait", say.running]);
  if (found.length === 0)
    found.push(lastStartedAt === null ? ["quiet", say.notRun] : ["good", say.fine]);
  return found.map(([tone, word]) => badge(tone, word));
}

/** @param {Record<string, unknown>} did */
function whatItDid(did) {
  const counted = Object.entries(did).filter(
    ([, count]) => typeof count === "number" && count !== 0,
  );
  return counted.length === 0
    ? say.nothing
    : counted
        .map(([name, count]) => `${number(Number(count))} ${say.counts[name] ?? name}`)
        .join(", ");
}

/**
 * @param {() => unknown} changed
 * @param {(text: string) => Promise<void>} find
 */
function eventsPart(changed, find) {
  const state = stateSelect(say.eventStates);
  const list = endless({
    lines: 3,
    first: (signal) =>
      admin.stripeEvents.list(
        { state: /** @type {EventQuery["state"]} */ (state.value), limit: PAGE },
        { signal },
      ),
    rows: h("tbody"),
    frame: (rows) =>
      table(
        say.events,
        [say.event, say.error, say.received, say.action],
        /** @type {HTMLTableSectionElement} */ (rows),
      ),
    row: (/** @type {StripeEvent} */ it) =>
      row(
        [h("strong", {}, it.type), h("div", { className: "soft code" }, it.id)],
        { cell: h("span", { className: "user-text" }, it.error ?? "–"), label: say.error },
        { cell: [dateTime(it.receivedAt), attempts(it)], label: say.received },
        h(
          "div",
          { className: "row-actions" },
          actionButton({
            label: say.replay,
            description: say.replayOf(it.id),
            className: "small",
            run: () => replay(it.id),
          }),
          it.purchaseId !== null &&
            actionButton({
              label: say.purchase,
              className: "small plain",
              run: () => find(/** @type {string} */ (it.purchaseId)),
            }),
        ),
      ),
    empty: say.noEvents,
  });
  state.addEventListener("change", () => void list.reload());
  return {
    element: h(
      "div",
      { className: "grid" },
      h("div", { className: "narrow" }, state),
      list.element,
    ),
    reload: list.reload,
  };

  /** @param {string} id */
  async function replay(id) {
    const told = await admin.stripeEvents.replay(id);
    if (told.state === "failed") announce(say.failedAgain(told.error ?? ""));
    else if (told.state === "received") announce(say.replayedWaiting);
    else announce(told.state === "ignored" ? say.replayedIgnored : say.replayed);
    await Promise.all([list.reload(), changed()]);
  }
}

/** @param {() => unknown} changed */
function noticesPart(changed) {
  const state = stateSelect(say.noticeStates);
  const all = h(
    "div",
    { hidden: true },
    actionButton({ label: say.retryAll, className: "small", run: () => retry() }),
    h("p", { className: "hint" }, say.retryAllHint),
  );
  const list = endless({
    lines: 3,
    first: async (signal) => {
      const shown = /** @type {NoticeQuery["state"]} */ (state.value);
      const page = await admin.notices.list({ state: shown, limit: PAGE }, { signal });
      all.hidden = shown === "pending" || page.items.length === 0;
      return page;
    },
    rows: h("tbody"),
    frame: (rows) =>
      table(
        say.notices,
        [say.notice, say.error, say.written, say.action],
        /** @type {HTMLTableSectionElement} */ (rows),
      ),
    row: (/** @type {Notice} */ it) => {
      const kind = say.kinds[it.kind] ?? it.kind;
      return row(
        [h("strong", {}, kind), h("div", {}, h("a", { href: userPath(it.userId) }, it.userId))],
        { cell: h("span", { className: "user-text" }, it.lastError ?? "–"), label: say.error },
        { cell: [dateTime(it.createdAt), attempts(it)], label: say.written },
        it.state !== "pending" &&
          actionButton({
            label: say.retry,
            description: say.retryOf(kind, it.userId),
            className: "small",
            run: () => retry([it.id]),
          }),
      );
    },
    empty: say.noEvents,
  });
  state.addEventListener("change", () => void list.reload());
  return {
    element: h(
      "div",
      { className: "grid" },
      h("div", { className: "choices flush" }, h("div", { className: "narrow" }, state), all),
      list.element,
    ),
    reload: list.reload,
  };

  /** @param {string[]} [ids] left out: all that were given up */
  async function retry(ids) {
    const { retried } = await admin.notices.retry(ids);
    announce(say.retried(retried));
    await Promise.all([list.reload(), changed()]);
  }
}

/** @param {[string, string][]} options */
function stateSelect(options) {
  const state = select(options);
  state.setAttribute("aria-label", say.show);
  return state;
}

/** @param {{ attempts: number, nextAttemptAt: string | null }} it */
function attempts(it) {
  const next = it.nextAttemptAt === null ? "" : `, ${say.next(dateTime(it.nextAttemptAt))}`;
  return h("div", { className: "soft" }, say.attempts(it.attempts) + next);
}
