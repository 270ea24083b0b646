// Shows openapi.json. Every text of it is put in as text, never as HTML.

const JSON_TYPE = "application/json";
const METHODS = ["get", "post", "delete", "put", "patch"];

/**
 * Parts of the document. Its own schema is OpenAPI's, which is too wide to be of use here.
 *
 * @typedef {any} Schema
 * @typedef {any} Operation
 * @typedef {Node | string} Child
 * @typedef {Child[]} Cell
 */

/**
 * An element; `properties` are set as they are, strings among `children` become text.
 *
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} name
 * @param {Record<string, any>} [properties]
 * @param {...(Child | null | undefined)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in element) Reflect.set(element, key, value);
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/**
 * An element of the page.
 *
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} type
 * @returns {T}
 */
function find(id, type) {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`The page has no ${id}`);
  return found;
}

/**
 * Text in which `words` between backticks are code.
 *
 * @param {string} text
 * @returns {Cell}
 */
function prose(text) {
  return text.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part));
}

class Reader {
  /** @param {any} api the document */
  constructor(api) {
    this.api = api;
  }

  /**
   * What a schema or a header is, in which a reference may stand.
   *
   * @param {Schema} value
   * @returns {Schema}
   */
  resolve(value) {
    if (!value?.$ref) return value;
    const { $ref, ...beside } = value;
    let found = this.api;
    for (const key of $ref.slice(2).split("/")) found = found[key];
    return { ...found, ...beside, properties: merge(found.properties, beside.properties) };
  }

  /**
   * Every operation, in the order of the tags.
   *
   * @returns {{ tag: { name: string, description: string }, operations: Operation[] }[]}
   */
  operations() {
    /** @type {[string, any][]} */
    const paths = Object.entries(this.api.paths);
    const all = paths.flatMap(([path, item]) =>
      METHODS.filter((method) => item[method]).map((method) => ({ path, method, ...item[method] })),
    );
    return this.api.tags.map((/** @type {any} */ tag) => ({
      tag,
      operations: all.filter((operation) => operation.tags.includes(tag.name)),
    }));
  }

  /**
   * Who may call.
   *
   * @param {Operation} operation
   */
  auth(operation) {
    const [needed] = operation.security ?? [];
    return Object.keys(needed ?? {})[0] ?? "public";
  }

  /**
   * What a value is, in a few words.
   *
   * @param {Schema} schema
   * @returns {string}
   */
  type(schema) {
    const it = this.resolve(schema);
    if (it.const !== undefined) return JSON.stringify(it.const);
    if (it.enum) return it.enum.map((/** @type {any} */ one) => JSON.stringify(one)).join(" | ");
    /** @type {Schema[] | undefined} */
    const choices = it.type ? undefined : (it.anyOf ?? it.oneOf);
    if (choices) return [...new Set(choices.map((choice) => this.type(choice)))].join(" | ");
    if (it.type === "array") return `list of ${this.type(it.items)}`;
    if (it.type === "object" && it.additionalProperties?.type) {
      return `object of ${this.type(it.additionalProperties)}`;
    }
    return it.format ? `${it.type} (${it.format})` : (it.type ?? "any");
  }

  /**
   * The rules that hold for a value, as words.
   *
   * @param {Schema} schema
   * @returns {string[]}
   */
  rules(schema) {
    const it = this.resolve(schema);
    const said = [];
    if (it.description) said.push(it.description.split("\n")[0]);
    if (it.minimum !== undefined || it.maximum !== undefined) {
      said.push(`${it.minimum ?? "…"} to ${it.maximum ?? "…"}`);
    }
    if (it.minLength || it.maxLength !== undefined) {
      said.push(`${it.minLength ?? 0} to ${it.maxLength ?? "…"} characters`);
    }
    const choices = it.type ? [] : (it.anyOf ?? it.oneOf ?? []);
    for (const choice of choices) said.push(...this.rules(choice));
    if (it.default !== undefined && it.default !== null) {
      said.push(`default ${JSON.stringify(it.default)}`);
    }
    return said;
  }

  /**
   * The fields of an object and of the objects in it, by their path.
   *
   * @param {Schema} schema
   * @param {string} [before]
   * @param {number} [depth]
   * @returns {{ path: string, inner: Schema, required: boolean }[]}
   */
  fields(schema, before = "", depth = 0) {
    const it = this.resolve(schema);
    if (it.type === "array")
      return this.fields(it.items, `${before}[].`.replace(".[]", "[]"), depth);
    if (it.type !== "object" || depth > 4) return [];
    return Object.entries(it.properties ?? {}).flatMap(([name, inner]) => {
      const path = before + name;
      const required = (it.required ?? []).includes(name);
      return [{ path, inner, required }, ...this.fields(inner, `${path}.`, depth + 1)];
    });
  }

  /** @param {Operation} operation */
  curl(operation) {
    const base = this.api.servers?.[0]?.url ?? "";
    const path = String(operation.path).replace(/\{(\w+)\}/g, (_all, name) => name.toUpperCase());
    const lines = [`curl ${quoted(base + path)}`];
    if (operation.method !== "get")
      lines[0] = `curl -X ${operation.method.toUpperCase()} ${quoted(base + path)}`;
    const scheme = this.api.components.securitySchemes[this.auth(operation)];
    if (scheme?.type === "http") lines.push('-H "Authorization: Bearer $TOKEN"');
    if (scheme?.type === "apiKey") lines.push(`-H "${scheme.name}: $KEY"`);
    const content = operation.requestBody?.content[JSON_TYPE];
    if (content) {
      lines.push(`-H 'Content-Type: ${JSON_TYPE}'`);
      lines.push(`-d ${quoted(JSON.stringify(content.example ?? {}))}`);
    }
    return lines.join(" \\\n  ");
  }
}

/**
 * @param {Record<string, Schema> | undefined} one
 * @param {Record<string, Schema> | undefined} other
 */
function merge(one, other) {
  if (!one || !other) return one ?? other;
  const both = { ...one };
  for (const [name, schema] of Object.entries(other)) both[name] = { ...both[name], ...schema };
  return both;
}

/** @param {string} text */
function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/**
 * A table; a last column that is empty is left out.
 *
 * @param {string[]} heads
 * @param {Cell[][]} rows
 * @param {string} [caption]
 * @returns {HTMLElement}
 */
function table(heads, rows, caption) {
  if (heads.length > 2 && rows.every((cells) => !cells.at(-1)?.length)) {
    return table(
      heads.slice(0, -1),
      rows.map((cells) => cells.slice(0, -1)),
      caption,
    );
  }
  return make(
    "div",
    { className: "wide" },
    make(
      "table",
      {},
      caption ? make("caption", {}, ...prose(caption)) : null,
      make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
      make(
        "tbody",
        {},
        ...rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, ...cell)))),
      ),
    ),
  );
}

/**
 * @param {Reader} reader
 * @param {string} name
 * @param {Schema} schema
 * @param {string} word said beside the name: what must be sent, or what may be missing
 * @param {string} [extra]
 * @returns {Cell[]}
 */
function fieldRow(reader, name, schema, word, extra) {
  const said = [extra ?? "", ...reader.rules(schema)].filter(Boolean);
  const mark = word ? [" ", make("span", { className: "mark" }, word)] : [];
  return [
    [make("code", {}, name), ...mark],
    [make("code", {}, reader.type(schema))],
    said.length ? prose(said.map((text) => text.replace(/\.$/, "")).join("; ")) : [],
  ];
}

/**
 * @param {string} text
 * @param {string} label
 * @returns {HTMLElement[]}
 */
function code(text, label) {
  const block = make("pre", { tabIndex: 0, role: "region", "aria-label": label }, text);
  if (!navigator.clipboard) return [block];
  const button = make("button", { type: "button", className: "copy" }, "Copy");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  });
  return [block, button];
}

/**
 * @param {Reader} reader
 * @param {Schema} schema
 * @param {unknown} example
 * @param {string} label
 * @param {(required: boolean) => string} mark
 * @returns {HTMLElement[]}
 */
function bodyParts(reader, schema, example, label, mark) {
  const it = reader.resolve(schema);
  /** @type {Schema[]} */
  const choices = it.type ? [schema] : (it.oneOf ?? [schema]);
  const parts = choices.flatMap((choice) => {
    const told = reader.resolve(choice);
    const rows = reader
      .fields(choice)
      .map(({ path, inner, required }) => fieldRow(reader, path, inner, mark(required)));
    const caption =
      told.type === "array" ? reader.resolve(told.items).description : told.description;
    if (!rows.length) return [make("p", {}, ...prose(caption ?? reader.type(choice)))];
    return [table(["Field", "Type", "What it is"], rows, caption)];
  });
  if (example !== undefined) parts.push(...code(JSON.stringify(example, null, 2), label));
  return parts;
}

/**
 * @param {Reader} reader
 * @param {Operation} operation
 */
function showOperation(reader, operation) {
  const auth = reader.auth(operation);
  const inside = make("div", { className: "inside" });
  /**
   * @param {string} title
   * @param {...Child} parts
   */
  const add = (title, ...parts) => inside.append(make("h3", {}, title), ...parts);

  if (operation.description) {
    inside.append(make("p", { className: "said" }, ...prose(operation.description)));
  }
  if (operation.parameters?.length) {
    add(
      "Parameters",
      table(
        ["Name", "Type", "What it is"],
        operation.parameters.map((/** @type {any} */ parameter) =>
          fieldRow(
            reader,
            parameter.name,
            parameter.schema,
            parameter.required ? "required" : "",
            `in the ${parameter.in}${parameter.description ? `: ${parameter.description}` : ""}`,
          ),
        ),
      ),
    );
  }
  const body = operation.requestBody?.content[JSON_TYPE];
  if (body) {
    const title = operation.requestBody.required ? "Body" : "Body (may be left out)";
    add(
      title,
      ...bodyParts(reader, body.schema, body.example, "Example of a body", (must) =>
        must ? "required" : "",
      ),
    );
  }
  /** @type {Cell[][]} */
  const refusals = [];
  /** @type {[string, any][]} */
  const responses = Object.entries(operation.responses);
  for (const [status, response] of responses) {
    const content = response.content?.[JSON_TYPE];
    /** @type {string[] | undefined} */
    const codes = content?.schema.properties?.error?.enum;
    if (codes) {
      const lines = response.description.split("\n");
      codes.forEach((name, at) => {
        const meaning = lines[at].replace(`\`${name}\`: `, "");
        refusals.push([[status], [make("code", {}, name)], prose(meaning)]);
      });
      continue;
    }
    const parts = content
      ? bodyParts(
          reader,
          content.schema,
          content.example,
          `Example of an answer ${status}`,
          (must) => (must ? "" : "not always"),
        )
      : [make("p", {}, Object.keys(response.content ?? {})[0] ?? "No body.")];
    /** @type {Cell[][]} */
    const heads = Object.entries(response.headers ?? {}).map(([name, header]) => [
      [make("code", {}, name)],
      [make("code", {}, reader.type(reader.resolve(header).schema))],
      prose(reader.resolve(header).description),
    ]);
    if (heads.length) parts.push(table(["Header", "Type", "What it is"], heads));
    add(`Answer ${status}`, ...parts);
  }
  if (refusals.length) add("Errors", table(["Status", "Code", "What it means"], refusals));
  add("With curl", ...code(reader.curl(operation), "The call with curl"));

  const details = make(
    "details",
    { id: operation.operationId },
    make(
      "summary",
      {},
      make("span", { className: `method ${operation.method}` }, operation.method.toUpperCase()),
      make("span", { className: "path" }, operation.path),
      make("span", { className: "badge" }, auth),
      make("span", { className: "what" }, ...prose(operation.summary)),
    ),
    inside,
  );
  const words = `${operation.method} ${operation.operationId} ${details.textContent}`.toLowerCase();
  return { details, words, auth };
}

function openNamed() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!(named instanceof HTMLDetailsElement)) return;
  named.open = true;
  named.scrollIntoView();
}

/** @param {any} api the document */
function show(api) {
  const reader = new Reader(api);
  const query = find("query", HTMLInputElement);
  const auth = find("auth", HTMLSelectElement);
  const count = find("count", HTMLElement);
  const toggle = find("toggle", HTMLElement);
  find("version", HTMLElement).textContent = api.info.version;
  /** @type {string[]} */
  const about = api.info.description.trim().split("\n\n");
  find("about", HTMLElement).append(
    ...about.map((text) => make("p", {}, ...prose(text.replaceAll("\n", " ")))),
  );

  const sections = reader.operations().map(({ tag, operations }) => {
    const shown = operations.map((operation) => showOperation(reader, operation));
    const section = make(
      "section",
      { id: `group-${tag.name}` },
      make("h2", {}, tag.name),
      make("p", {}, ...prose(tag.description)),
      ...shown.map(({ details }) => details),
    );
    const link = make("a", { href: `#group-${tag.name}` }, tag.name);
    const entry = make("li", {}, link);
    find("groups", HTMLElement).append(entry);
    find("operations", HTMLElement).append(section);
    return { section, entry, shown };
  });
  const all = sections.flatMap(({ shown }) => shown);
  for (const name of new Set(all.map((one) => one.auth))) {
    auth.append(make("option", { value: name }, name));
  }

  function filter() {
    const wanted = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    let seen = 0;
    for (const { section, entry, shown } of sections) {
      let here = 0;
      for (const one of shown) {
        const fits =
          (!auth.value || one.auth === auth.value) &&
          wanted.every((word) => one.words.includes(word));
        one.details.hidden = !fits;
        here += fits ? 1 : 0;
      }
      section.hidden = entry.hidden = here === 0;
      seen += here;
    }
    count.textContent = `${seen} of ${all.length} calls`;
  }

  query.addEventListener("input", filter);
  auth.addEventListener("change", filter);
  find("find", HTMLElement).addEventListener("submit", (event) => event.preventDefault());
  toggle.addEventListener("click", () => {
    const open = toggle.getAttribute("aria-pressed") !== "true";
    toggle.setAttribute("aria-pressed", String(open));
    toggle.textContent = open ? "Close all" : "Open all";
    for (const { details } of all) details.open = open;
  });
  for (const { details } of all) {
    details.addEventListener("toggle", () => {
      if (
        details.open &&
        location.hash !== `#${details.id}` &&
        details.contains(document.activeElement)
      ) {
        history.replaceState(null, "", `#${details.id}`);
      }
    });
  }
  addEventListener("hashchange", openNamed);
  filter();
  openNamed();
}

try {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error(`openapi.json: ${answer.status}`);
  show(await answer.json());
} catch (error) {
  const message = error instanceof Error ? error.message : String(error);
  find("count", HTMLElement).textContent = `The document cannot be shown: ${message}`;
}
