// Numbers, dates and euros, as the language writes them.

import { language, texts } from "./i18n.js";

const LOCALE =
  language === "de" ? "de-DE" : (navigator.languages.find((tag) => /^en\b/i.test(tag)) ?? "en-GB");

const whole = new Intl.NumberFormat(LOCALE);
const signed = new Intl.NumberFormat(LOCALE, { signDisplay: "exceptZero" });
const money = new Intl.NumberFormat(LOCALE, { style: "currency", currency: "EUR" });
const plural = new Intl.PluralRules(LOCALE);
const dates = new Intl.DateTimeFormat(LOCALE, { dateStyle: "medium" });
const moments = new Intl.DateTimeFormat(LOCALE, { dateStyle: "medium", timeStyle: "short" });
// Days of the API are days in UTC, wherever the reader is.
const days = new Intl.DateTimeFormat(LOCALE, { day: "numeric", month: "short", timeZone: "UTC" });
const fullDays = new Intl.DateTimeFormat(LOCALE, { dateStyle: "medium", timeZone: "UTC" });

const say = texts({
  en: { credit: "credit", credits: "credits" },
  de: { credit: "Credit", credits: "Credits" },
});

/** A whole number. @param {number} value */
export const number = (value) => whole.format(value);

/** A number with its sign. @param {number} value */
export const signedNumber = (value) => signed.format(value);

/** An amount of credits with its unit. @param {number} value */
export const credits = (value) =>
  `${whole.format(value)}\u00a0${plural.select(value) === "one" ? say.credit : say.credits}`;

/** Euro cents as euros. @param {number} cents */
export const euros = (cents) => money.format(cents / 100);

/** The date of a time of the API, where the reader is. @param {string} iso */
export const date = (iso) => dates.format(new Date(iso));

/** The date and the time of day. @param {string} iso */
export const dateTime = (iso) => moments.format(new Date(iso));

/** A day of the API (`YYYY-MM-DD`), in short. @param {string} iso */
export const day = (iso) => days.format(new Date(`${iso}T00:00:00Z`));

/** A day of the API with its year. @param {string} iso */
export const fullDay = (iso) => fullDays.format(new Date(`${iso}T00:00:00Z`));
