// Giving credits, the gifts that were made and received, and redeeming a code.

import { api } from "./api.js";
import { fill, h, newId } from "./dom.js";
import { SaidError } from "./explain.js";
import { credits, date, number } from "./format.js";
import { handOn, redeem, thanks } from "./giving.js";
import { texts } from "./i18n.js";
import { base } from "./session.js";
import { start } from "./shell.js";
import { actionForm, field, select } from "./forms.js";
import { badge, card, endless, fact, pagesByOffset, row, table } from "./parts.js";
import { ask, announce, copyButton, region } from "./ui.js";
import { giftWord } from "./words.js";
import { GiftRefusedError, NotFoundError, OutcomeUnknownError } from "../client/credits-client.js";
import { drawKey } from "../client/transport.js";

/** @typedef {import("../client/types.js").Gift} Gift */
/** @typedef {import("../client/types.js").NewGift} NewGift */

const say = texts({
  en: {
    title: "Gifts",
    give: "Give credits",
    amount: "Credits",
    amountWrong: "A whole number from 1 to 10,000.",
    forWhom: "For whom",
    simple: "Whoever has the link",
    simpleAbout: "The first to open it gets the credits.",
    personal: "One person",
    personalAbout: "Only the e-mail address that you name can redeem it.",
    email: "The recipient's e-mail address",
    emailWrong: "An e-mail address, such as ann@example.org.",
    message: "Message",
    messageWrong: (/** @type {number} */ over) =>
      `${over} ${over === 1 ? "character" : "characters"} too many.`,
    counter: (/** @type {number} */ used) => `${number(used)} of ${number(MESSAGE_MAX)} characters`,
    expiry: "Can be redeemed for",
    days: (/** @type {number} */ days) => (days === 365 ? "1 year" : `${days} days`),
    onDate: "Until a date",
    date: "Last day",
    dateWrong: "A day from today on, at most ten years ahead.",
    have: (/** @type {string} */ balance) => `You have ${balance}.`,
    takes: (
      /** @type {string} */ amount,
      /** @type {string} */ balance,
      /** @type {string} */ left,
    ) =>
      `This takes ${amount} of your ${balance}; ${left} will be left. If the gift is not redeemed, they come back.`,
    short: (/** @type {string} */ balance, /** @type {string} */ missing) =>
      `You have ${balance}; for this gift, ${missing} are missing.`,
    topUp: "Top up",
    create: "Create gift",
    lost: "No answer came, so it is not known whether the gift was made. Press again without changing anything: it is made only once.",
    ready: "Your gift is ready",
    readyFor: (
      /** @type {string} */ amount,
      /** @type {string} */ whom,
      /** @type {string} */ until,
    ) => `${amount} for ${whom}, to be redeemed until ${until}. Now send the link.`,
    anybody: "whoever has the link",
    link: "Link",
    code: "Code",
    copyCode: "Copy code",
    another: "Create another gift",
    redeemTitle: "Redeem a code",
    codeHint: "In capitals or not, with or without hyphens and spaces. A gift link works as well.",
    codeMissing: "The code of the gift.",
    noSuchCode: "There is no gift with this code. Check it letter by letter.",
    redeem: "Redeem",
    created: "Gifts that you made",
    received: "Gifts that you received",
    when: "Date",
    whom: "For whom",
    state: "State",
    actions: "Actions",
    until: (/** @type {string} */ when) => `until ${when}`,
    copyOf: (/** @type {string} */ amount, /** @type {string} */ when) =>
      `Copy link: the gift of ${amount} made on ${when}`,
    takeBack: "Take back",
    takeBackOf: (/** @type {string} */ amount, /** @type {string} */ when) =>
      `Take back the gift of ${amount} made on ${when}`,
    askBack: "Take this gift back?",
    askBackAbout: (/** @type {string} */ amount) =>
      `${amount} come back to your account, and the link can no longer be redeemed.`,
    back: (/** @type {string} */ amount) => `${amount} are back in your account.`,
    tooLate: "It has just been redeemed, so it cannot be taken back.",
    returned: "It has expired, and its credits are back in your account.",
    noneCreated: "You have not given anything yet.",
    from: "From",
    somebody: "Somebody",
    noneReceived: "You have not received anything yet.",
  },
  de: {
    title: "Geschenke",
    give: "Credits verschenken",
    amount: "Credits",
    amountWrong: "Eine ganze Zahl von 1 bis 10.000.",
    forWhom: "Für wen",
    simple: "Alle, die den Link haben",
    simpleAbout: "Wer ihn zuerst öffnet und einlöst, bekommt die Credits.",
    personal: "Eine Person",
    personalAbout: "Nur mit der E-Mail-Adresse einzulösen, die du nennst.",
    email: "E-Mail-Adresse der Person",
    emailWrong: "Eine E-Mail-Adresse wie ann@example.org.",
    message: "Nachricht",
    messageWrong: (over) => `${over} Zeichen zu viel.`,
    counter: (used) => `${number(used)} von ${number(MESSAGE_MAX)} Zeichen`,
    expiry: "Einlösbar",
    days: (days) => (days === 365 ? "1 Jahr lang" : `${days} Tage lang`),
    onDate: "Bis zu einem Datum",
    date: "Letzter Tag",
    dateWrong: "Ein Tag ab heute, höchstens zehn Jahre voraus.",
    have: (balance) => `Du hast ${balance}.`,
    takes: (amount, balance, left) =>
      `Das nimmt ${amount} von deinen ${balance}; ${left} bleiben. Wird das Geschenk nicht eingelöst, kommen sie zurück.`,
    short: (balance, missing) => `Du hast ${balance}; für dieses Geschenk fehlen ${missing}.`,
    topUp: "Aufladen",
    create: "Geschenk erstellen",
    lost: "Es kam keine Antwort. Ob das Geschenk erstellt ist, ist darum nicht sicher. Drück noch einmal, ohne etwas zu ändern: Es wird nur einmal erstellt.",
    ready: "Dein Geschenk ist fertig",
    readyFor: (amount, whom, until) =>
      `${amount} für ${whom}, einlösbar bis ${until}. Schick jetzt den Link ab.`,
    anybody: "alle, die den Link haben",
    link: "Link",
    code: "Code",
    copyCode: "Code kopieren",
    another: "Noch ein Geschenk erstellen",
    redeemTitle: "Code einlösen",
    codeHint:
      "Groß oder klein, mit oder ohne Bindestriche und Leerzeichen. Ein Geschenk-Link geht auch.",
    codeMissing: "Der Code des Geschenks.",
    noSuchCode: "Zu diesem Code gibt es kein Geschenk. Prüfe ihn Zeichen für Zeichen.",
    redeem: "Einlösen",
    created: "Geschenke von dir",
    received: "Geschenke an dich",
    when: "Datum",
    whom: "Für wen",
    state: "Stand",
    actions: "Aktionen",
    until: (when) => `bis ${when}`,
    copyOf: (amount, when) => `Link kopieren: Geschenk über ${amount} vom ${when}`,
    takeBack: "Zurücknehmen",
    takeBackOf: (amount, when) => `Zurücknehmen: Geschenk über ${amount} vom ${when}`,
    askBack: "Dieses Geschenk zurücknehmen?",
    askBackAbout: (amount) =>
      `${amount} kommen auf dein Konto zurück, und der Link lässt sich nicht mehr einlösen.`,
    back: (amount) => `${amount} sind wieder auf deinem Konto.`,
    tooLate: "Es wurde gerade eingelöst und lässt sich nicht mehr zurücknehmen.",
    returned: "Es ist abgelaufen, und die Credits sind wieder auf deinem Konto.",
    noneCreated: "Du hast noch nichts verschenkt.",
    from: "Von",
    somebody: "Jemand",
    noneReceived: "Du hast noch nichts bekommen.",
  },
});

const PAGE = 25;
const AMOUNT_MAX = 10_000;
const MESSAGE_MAX = 500;
const DAYS = [7, 30, 90, 365];
const USUAL_DAYS = "90";
const ON_DATE = "date";
/** The service's 3650 days, less what the end of a day and a change of the clocks may add. */
const DAYS_MAX = 3648;

start({
  title: say.title,
  here: "gifts",
  render: () => {
    const refresh = () => {
      for (const part of [giving, created, received]) void part.reload();
    };
    const giving = givingPart(refresh);
    const created = createdList(refresh);
    const received = receivedList();
    refresh();
    // Gifts are redeemed, and credits spent, while this page is in the background.
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") void giving.reload();
    });
    const whole = [card(say.created, created.element), card(say.received, received.element)];
    for (const part of whole) part.classList.add("whole");
    return h(
      "div",
      { className: "grid sided" },
      card(say.give, giving.element),
      card(say.redeemTitle, redeemPart(refresh)),
      whole,
    );
  },
});

/**
 * The form to make a gift, which makes room for the gift that it made.
 *
 * @param {() => void} refresh
 */
function givingPart(refresh) {
  /** @type {number | null} */
  let balance = null;
  const line = h("p", { className: "hint" });
  const account = region({
    lines: 1,
    className: "account-line",
    load: (signal) => api.balance({ signal }),
    render: (now) => {
      balance = now.balance;
      tell();
      return line;
    },
  });

  const amount = field({
    name: "totalCredits",
    label: say.amount,
    control: h("input", {
      type: "number",
      min: "1",
      max: String(AMOUNT_MAX),
      step: "1",
      inputMode: "numeric",
      autocomplete: "off",
    }),
    check: (value) => (isAmount(Number(value)) ? "" : say.amountWrong),
  });
  amount.element.classList.add("narrow");
  amount.control.addEventListener("input", tell);
  const kind = kindChoice();
  const email = field({
    name: "targetEmail",
    label: say.email,
    control: h("input", { type: "email", maxLength: 254, autocomplete: "off", spellcheck: false }),
    check: (value) => (/^[^@\s]+@[^@\s]+$/.test(value) ? "" : say.emailWrong),
    applies: () => kind.value() === "personalized",
  });
  const message = messageField();
  const expiry = field({
    name: "expirationDays",
    label: say.expiry,
    control: select(
      [
        ...DAYS.map((days) => /** @type {[string, string]} */ ([String(days), say.days(days)])),
        [ON_DATE, say.onDate],
      ],
      USUAL_DAYS,
    ),
  });
  const last = field({
    name: "expiresAt",
    label: say.date,
    control: h("input", { type: "date", min: localDay(0), max: localDay(DAYS_MAX) }),
    check: (value) => (value >= localDay(0) && value <= localDay(DAYS_MAX) ? "" : say.dateWrong),
    applies: () => expiry.value === ON_DATE,
  });
  const follow = () => {
    email.element.hidden = kind.value() !== "personalized";
    last.element.hidden = expiry.value !== ON_DATE;
  };
  kind.element.addEventListener("change", follow);
  expiry.control.addEventListener("change", follow);
  follow();

  /** @returns {NewGift} */
  const wanted = () => ({
    totalCredits: Number(amount.value),
    ...(kind.value() === "personalized"
      ? { type: "personalized", targetEmail: email.value }
      : { type: "simple" }),
    ...(message.field.value ? { message: message.field.value } : {}),
    ...(expiry.value === ON_DATE
      ? { expiresAt: endOf(last.value) }
      : { expirationDays: Number(expiry.value) }),
  });

  const create = makeOnce(refresh);
  const form = actionForm({
    fields: [amount, email, message.field, expiry, last],
    label: say.create,
    extra: account.element,
    run: async () => {
      const gift = await create(wanted());
      form.reset();
      amount.complain("");
      follow();
      message.count();
      tell();
      const { element, heading } = made(gift, () => {
        fill(whole, form);
        amount.control.focus();
      });
      fill(whole, element);
      heading.focus();
      refresh();
    },
  });
  amount.element.after(kind.element);
  const whole = h("div", {}, form);
  return { element: whole, reload: account.reload };

  function tell() {
    if (balance === null) return;
    const value = Number(amount.value);
    const short = isAmount(value) && value > balance;
    line.className = short ? "warning" : "hint";
    if (!isAmount(value)) fill(line, say.have(credits(balance)));
    else if (short) {
      const missing = say.short(credits(balance), credits(value - balance));
      fill(line, missing, " ", h("a", { href: `${base}/#top-up` }, say.topUp));
    } else fill(line, say.takes(credits(value), credits(balance), number(balance - value)));
  }
}

/** @param {number} value */
const isAmount = (value) => Number.isInteger(value) && value >= 1 && value <= AMOUNT_MAX;

/**
 * What makes a gift, and the same gift only once, however often an answer is lost: until it has
 * come, the same content is sent with the same key.
 *
 * @param {() => void} refresh
 */
function makeOnce(refresh) {
  /** @type {Map<string, string>} */
  const keys = new Map();
  return async (/** @type {NewGift} */ wanted) => {
    const content = JSON.stringify(wanted);
    const key = keys.get(content) ?? drawKey();
    keys.set(content, key);
    try {
      const gift = await api.gifts.create(wanted, { idempotencyKey: key });
      keys.delete(content);
      return gift;
    } catch (error) {
      if (!(error instanceof OutcomeUnknownError)) throw error;
      // If it was made, it stands in the list as soon as that can be asked for.
      if (navigator.onLine) refresh();
      else addEventListener("online", refresh, { once: true });
      throw new SaidError(say.lost);
    }
  };
}

function kindChoice() {
  const group = newId();
  const option = (
    /** @type {string} */ value,
    /** @type {string} */ label,
    /** @type {string} */ about,
  ) =>
    h(
      "label",
      { className: "option" },
      h("input", { type: "radio", name: group, value, defaultChecked: value === "simple" }),
      h("strong", {}, label),
      h("span", { className: "hint" }, about),
    );
  const element = h(
    "fieldset",
    {},
    h("legend", {}, say.forWhom),
    h(
      "div",
      { className: "options" },
      option("simple", say.simple, say.simpleAbout),
      option("personalized", say.personal, say.personalAbout),
    ),
  );
  return {
    element,
    value: () => element.querySelector("input:checked")?.getAttribute("value") ?? "simple",
  };
}

function messageField() {
  const control = h("textarea", { rows: 3 });
  const counter = h("p", { className: "hint counter", id: newId() });
  // As the service counts: characters, of which a browser's own limit takes many for two.
  const length = () => [...control.value.trim()].length;
  const over = () => (length() > MESSAGE_MAX ? say.messageWrong(length() - MESSAGE_MAX) : "");
  const made = field({ name: "message", label: say.message, control, optional: true, check: over });
  const count = () => {
    counter.textContent = say.counter(length());
    made.complain(over());
  };
  control.setAttribute(
    "aria-describedby",
    `${counter.id} ${control.getAttribute("aria-describedby")}`,
  );
  control.addEventListener("input", count);
  control.after(counter);
  count();
  return { field: made, count };
}

/**
 * A gift that has just been made.
 *
 * @param {Gift} gift
 * @param {() => void} again
 */
function made(gift, again) {
  const heading = h("h3", { className: "got", tabIndex: -1 }, say.ready);
  const whom = gift.targetEmail ?? say.anybody;
  const element = h(
    "div",
    {},
    heading,
    h(
      "p",
      { className: "user-text" },
      say.readyFor(credits(gift.totalCredits), whom, date(gift.expiresAt)),
    ),
    h(
      "dl",
      { className: "facts stacked" },
      fact(say.link, h("a", { className: "code", href: gift.url }, gift.url)),
      fact(say.code, h("span", { className: "code" }, gift.code)),
    ),
    h("div", { className: "choices" }, handOn(gift.url), copyButton(say.copyCode, gift.code)),
    h(
      "div",
      { className: "choices" },
      h("button", { type: "button", on: { click: again } }, say.another),
    ),
  );
  return { element, heading };
}

/** @param {() => void} refresh */
function redeemPart(refresh) {
  const code = field({
    name: "code",
    label: say.code,
    hint: say.codeHint,
    control: h("input", {
      type: "text",
      className: "code",
      autocapitalize: "characters",
      autocomplete: "off",
      spellcheck: false,
      maxLength: 300,
    }),
    check: (value) => (codeIn(value) ? "" : say.codeMissing),
  });
  const result = h("div", { className: "result" });
  const form = actionForm({
    fields: [code],
    label: say.redeem,
    run: async () => {
      fill(result);
      try {
        const { element, heading } = thanks(await redeem(codeIn(code.value)));
        fill(result, element);
        form.reset();
        heading.focus();
        refresh();
      } catch (error) {
        if (error instanceof NotFoundError) code.complain(say.noSuchCode);
        else throw error;
      }
    },
  });
  return h("div", { className: "grid" }, form, result);
}

/** The code in what somebody has typed or pasted. @param {string} typed */
function codeIn(typed) {
  const code = /\/g\/([^/?#]+)/.exec(typed)?.[1] ?? typed;
  return code.replace(/[\s-]/g, "").toUpperCase();
}

/** @param {() => void} refresh */
function createdList(refresh) {
  const again = () => {
    refresh();
    // The button that was pressed goes away with its row.
    list.element.focus({ preventScroll: true });
  };
  const list = endless({
    lines: 4,
    first: (signal) => pagesByOffset(PAGE, (page) => api.gifts.created(page, { signal })),
    rows: h("tbody"),
    frame: (rows) =>
      table(
        say.created,
        [
          say.when,
          { text: say.amount, className: "number" },
          say.whom,
          say.state,
          say.code,
          say.actions,
        ],
        /** @type {HTMLTableSectionElement} */ (rows),
      ),
    row: (gift) => {
      const status = statusOf(gift);
      return row(
        { cell: date(gift.createdAt), className: "when" },
        { cell: number(gift.totalCredits), className: "number", label: say.amount },
        [
          h("div", { className: "user-text" }, gift.targetEmail ?? say.simple),
          gift.message && h("div", { className: "soft user-text" }, gift.message),
        ],
        [
          badge(...giftWord(status)),
          status === "active" && h("div", { className: "soft" }, say.until(date(gift.expiresAt))),
        ],
        {
          cell: h("span", { className: "code" }, gift.code),
          className: "gift-code",
          label: say.code,
        },
        {
          className: "actions",
          cell:
            status === "active" &&
            h(
              "div",
              { className: "choices close" },
              handOn(gift.url, say.copyOf(credits(gift.totalCredits), date(gift.createdAt))),
              takeBack(gift, again),
            ),
        },
      );
    },
    empty: say.noneCreated,
  });
  list.element.tabIndex = -1;
  return list;
}

/** Past its time a gift is over, whether the service has returned it yet or not. @param {Gift} gift */
const statusOf = (gift) =>
  gift.status === "active" && Date.parse(gift.expiresAt) <= Date.now() ? "expired" : gift.status;

/**
 * @param {Gift} gift
 * @param {() => void} refresh
 */
function takeBack(gift, refresh) {
  const amount = credits(gift.totalCredits);
  const open = async () => {
    const done = await ask({
      title: say.askBack,
      body: h("p", {}, say.askBackAbout(amount)),
      label: say.takeBack,
      danger: true,
      run: async () => {
        try {
          await api.gifts.cancel(gift.id);
        } catch (error) {
          if (!(error instanceof GiftRefusedError)) throw error;
          refresh();
          throw new SaidError(error.code === "gift_expired" ? say.returned : say.tooLate);
        }
      },
    });
    if (!done) return;
    announce(say.back(amount));
    refresh();
  };
  return h(
    "button",
    {
      type: "button",
      className: "small danger",
      aria: { label: say.takeBackOf(amount, date(gift.createdAt)) },
      on: { click: () => void open() },
    },
    say.takeBack,
  );
}

function receivedList() {
  return endless({
    lines: 3,
    first: (signal) => pagesByOffset(PAGE, (page) => api.gifts.received(page, { signal })),
    rows: h("tbody"),
    frame: (rows) =>
      table(
        say.received,
        [say.when, { text: say.amount, className: "number" }, say.from],
        /** @type {HTMLTableSectionElement} */ (rows),
      ),
    row: (gift) =>
      row(
        { cell: date(gift.redeemedAt), className: "when" },
        { cell: number(gift.credits), className: "number", label: say.amount },
        [
          h("div", { className: "user-text" }, gift.creatorName ?? say.somebody),
          gift.message && h("div", { className: "soft user-text" }, gift.message),
        ],
      ),
    empty: say.noneReceived,
  });
}

/**
 * A day where the reader is, as a date field writes it.
 *
 * @param {number} ahead days from today
 */
function localDay(ahead) {
  const now = new Date();
  const then = new Date(now.getFullYear(), now.getMonth(), now.getDate() + ahead);
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  return `${then.getFullYear()}-${two(then.getMonth() + 1)}-${two(then.getDate())}`;
}

/** The end of a day where the reader is, as a time of the API. @param {string} day */
function endOf(day) {
  const [year = 0, month = 1, date = 1] = day.split("-").map(Number);
  return new Date(year, month - 1, date, 23, 59, 59, 999).toISOString();
}
