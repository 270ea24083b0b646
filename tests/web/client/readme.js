// Runs the examples of the client's README, as they stand there, against a service that runs.

import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

import "./support.js";

const { MANA_URL = "", ANN = "" } = process.env;
const CLIENT = new URL("../../../service/web/client/", import.meta.url);
const SERVICE = "https://credits.example.org";

const readme = await readFile(new URL("README.md", CLIENT), "utf8");
const examples = [...readme.matchAll(/^```js\n(.*?)^```$/gms)].map(([, code]) => code);
// Node imports nothing from other hosts.
const script = examples.join("\n").replaceAll(`"${SERVICE}/client/`, `"${CLIENT}`);

// What a page has, and the other hosts of the examples.
const realFetch = globalThis.fetch;
globalThis.fetch = async (url, options) => {
  if (url.startsWith(SERVICE)) return realFetch(url.replace(SERVICE, MANA_URL), options);
  if (url === "https://auth.example.org/api/auth/token") return Response.json({ token: ANN });
  if (url === "https://sync.example.org/pull") return Response.json({});
  throw new TypeError(`Nobody is at ${url}`);
};
const stored = new Map();
globalThis.localStorage = {
  getItem: (name) => stored.get(name) ?? null,
  setItem: (name, value) => stored.set(name, value),
  removeItem: (name) => stored.delete(name),
};

const folder = await mkdtemp(join(tmpdir(), "readme-"));
try {
  const file = join(folder, "examples.mjs");
  await writeFile(file, script);
  await import(pathToFileURL(file).href);
} finally {
  await rm(folder, { recursive: true });
}
