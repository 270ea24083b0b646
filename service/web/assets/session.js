// Who is signed in: the auth service's session, and the token it gives for it.
//
// The token is kept in memory alone. The session is a cookie of the auth service, which no script
// of ours can read.

/**
 * What a token says about its user.
 *
 * @typedef {{ userId: string, name: string | null, email: string | null, admin: boolean }} Person
 */

/** Nobody is signed in. */
export class SignedOutError extends Error {}

const MARGIN_MS = 30_000;
const RETURNED = "mana-sign-in";
const LOOP_MS = 15_000;

const authUrl = setting("mana-auth-url");
const loginUrl = setting("mana-login-url");

/** Where the service is, for addresses: empty, or the path it is mounted at. */
export const base = setting("mana-base");

/** Whether there is a page to sign in at. */
export const canSignIn = loginUrl !== "";

/** @type {{ token: string, expires: number } | null} */
let kept = null;
/** @type {Promise<string> | null} */
let asking = null;

/**
 * A token for the API. SignedOutError where there is no session.
 *
 * @param {{ fresh?: boolean }} [options] fresh: the last one was refused
 * @returns {Promise<string>}
 */
export async function getToken({ fresh = false } = {}) {
  if (!fresh && kept !== null && kept.expires - MARGIN_MS > Date.now()) return kept.token;
  asking ??= ask().finally(() => {
    asking = null;
  });
  return asking;
}

/**
 * Who is signed in, or null. Throws when the auth service cannot be asked.
 *
 * @returns {Promise<Person | null>}
 */
export async function whoAmI() {
  try {
    const claims = read(await getToken());
    return {
      userId: String(claims.sub),
      name: typeof claims.name === "string" ? claims.name : null,
      email: typeof claims.email === "string" ? claims.email : null,
      admin: claims.role === "admin",
    };
  } catch (error) {
    if (error instanceof SignedOutError) return null;
    throw error;
  }
}

/**
 * Go and sign in, and come back to where we are.
 *
 * @param {{ unasked?: boolean }} [options] unasked: nobody has pressed a button
 * @returns {boolean} false where that leads nowhere: no address is set, or we have just been there
 */
export function signIn({ unasked = false } = {}) {
  if (!canSignIn) return false;
  const last = Number(sessionStorage.getItem(RETURNED) ?? 0);
  // Else a session that the browser does not send would have us go round and round.
  if (unasked && Date.now() - last < LOOP_MS) return false;
  sessionStorage.setItem(RETURNED, String(Date.now()));
  location.assign(`${loginUrl}?redirectTo=${encodeURIComponent(location.href)}`);
  return true;
}

/** End the session, and begin again at the account's page. */
export async function signOut() {
  kept = null;
  const answer = await fetch(`${authUrl}/api/auth/sign-out`, {
    method: "POST",
    credentials: "include",
    headers: { "Content-Type": "application/json" },
    body: "{}",
  });
  if (!answer.ok) throw new Error(`the auth service answered ${answer.status}`);
  sessionStorage.removeItem(RETURNED);
}

async function ask() {
  const answer = await fetch(`${authUrl}/api/auth/token`, {
    credentials: "include",
    cache: "no-store",
  });
  if (answer.status === 401) {
    kept = null;
    throw new SignedOutError("nobody is signed in");
  }
  if (!answer.ok) throw new Error(`the auth service answered ${answer.status}`);
  /** @type {{ token: string }} */
  const { token } = await answer.json();
  const { exp } = read(token);
  kept = { token, expires: typeof exp === "number" ? exp * 1000 : 0 };
  return token;
}

/**
 * A token's claims. They are for showing alone: the API checks the signature, we cannot.
 *
 * @param {string} token
 * @returns {Record<string, unknown>}
 */
function read(token) {
  const part = (token.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/");
  const bytes = Uint8Array.from(atob(part), (character) => character.charCodeAt(0));
  return JSON.parse(new TextDecoder().decode(bytes));
}

/** @param {string} name */
function setting(name) {
  return document.querySelector(`meta[name="${name}"]`)?.getAttribute("content") ?? "";
}
