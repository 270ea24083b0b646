// Shows openapi.json. Every text of it is put in as text, never as HTML.

const JSON_TYPE = "application/json";
const METHODS = ["get", "post", "delete", "put", "patch"];

/** An element; `properties` are set as they are, strings among `children` become text. */
function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Text in which `words` between backticks are code. */
function prose(text) {
  return text.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part));
}

class Reader {
  constructor(api) {
    this.api = api;
  }

  resolve(value) {
    if (!value?.$ref) return value;
    const { $ref, ...beside } = value;
    const found = $ref.slice(2).split("/").reduce((at, key) => at[key], this.api);
    return { ...found, ...beside, properties: merge(found.properties, beside.properties) };
  }

  /** Every operation, in the order of the tags. */
  operations() {
    const all = Object.entries(this.api.paths).flatMap(([path, item]) =>
      METHODS.filter((method) => item[method]).map((method) => ({ path, method, ...item[method] })),
    );
    return this.api.tags.map((tag) => ({
      tag,
      operations: all.filter((operation) => operation.tags.includes(tag.name)),
    }));
  }

  auth(operation) {
    const [needed] = operation.security ?? [];
    return needed ? Object.keys(needed)[0] : "public";
  }

  /** What a value is, in a few words. */
  type(schema) {
    const it = this.resolve(schema);
    if (it.const !== undefined) return JSON.stringify(it.const);
    if (it.enum) return it.enum.map((value) => JSON.stringify(value)).join(" | ");
    const choices = it.type ? undefined : (it.anyOf ?? it.oneOf);
    if (choices) return [...new Set(choices.map((choice) => this.type(choice)))].join(" | ");
    if (it.type === "array") return `list of ${this.type(it.items)}`;
    if (it.type === "object" && it.additionalProperties?.type) {
      return `object of ${this.type(it.additionalProperties)}`;
    }
    return it.format ? `${it.type} (${it.format})` : (it.type ?? "any");
  }

  /** The rules that hold for a value, as words. */
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

  /** The fields of an object and of the objects in it, by their path. */
  fields(schema, before = "", depth = 0) {
    const it = this.resolve(schema);
    if (it.type === "array") return this.fields(it.items, `${before}[].`.replace(".[]", "[]"), depth);
    if (it.type !== "object" || depth > 4) return [];
    return Object.entries(it.properties ?? {}).flatMap(([name, inner]) => {
      const path = before + name;
      const required = (it.required ?? []).includes(name);
      return [{ path, inner, required }, ...this.fields(inner, `${path}.`, depth + 1)];
    });
  }

  curl(operation) {
    const base = this.api.servers?.[0]?.url ?? "";
    const path = operation.path.replace(/\{(\w+)\}/g, (_all, name) => name.toUpperCase());
    const lines = [`curl ${quoted(base + path)}`];
    if (operation.method !== "get") lines[0] = `curl -X ${operation.method.toUpperCase()} ${quoted(base + path)}`;
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

function merge(one, other) {
  if (!one || !other) return one ?? other;
  const both = { ...one };
  for (const [name, schema] of Object.entries(other)) both[name] = { ...both[name], ...schema };
  return both;
}

function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function table(heads, rows, caption) {
  if (heads.length > 2 && rows.every((cells) => !cells.at(-1).length)) {
    return table(heads.slice(0, -1), rows.map((cells) => cells.slice(0, -1)), caption);
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

/** `word` is said beside the name: what must be sent, or what may be missing. */
function fieldRow(reader, name, schema, word, extra) {
  const said = [extra, ...reader.rules(schema)].filter(Boolean);
  const mark = word ? [" ", make("span", { className: "mark" }, word)] : [];
  return [
    [make("code", {}, name), ...mark],
    [make("code", {}, reader.type(schema))],
    said.length ? prose(said.map((text) => text.replace(/\.$/, "")).join("; ")) : [],
  ];
}

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

function bodyParts(reader, schema, example, label, mark) {
  const it = reader.resolve(schema);
  const choices = it.type ? [schema] : (it.oneOf ?? [schema]);
  const parts = choices.flatMap((choice) => {
    const told = reader.resolve(choice);
    const rows = reader
      .fields(choice)
      .map(({ path, inner, required }) => fieldRow(reader, path, inner, mark(required)));
    const caption = told.type === "array" ? reader.resolve(told.items).description : told.description;
    if (!rows.length) return [make("p", {}, ...prose(caption ?? reader.type(choice)))];
    return [table(["Field", "Type", "What it is"], rows, caption)];
  });
  if (example !== undefined) parts.push(...code(JSON.stringify(example, null, 2), label));
  return parts;
}

function showOperation(reader, operation) {
  const auth = reader.auth(operation);
  const inside = make("div", { className: "inside" });
  const add = (title, ...parts) => inside.append(make("h3", {}, title), ...parts);

  if (operation.description) {
    inside.append(make("p", { className: "said" }, ...prose(operation.description)));
  }
  if (operation.parameters?.length) {
    add(
      "Parameters",
      table(
        ["Name", "Type", "What it is"],
        operation.parameters.map((parameter) =>
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
    add(title, ...bodyParts(reader, body.schema, body.example, "Example of a body", (must) => (must ? "required" : "")));
  }
  const refusals = [];
  for (const [status, response] of Object.entries(operation.responses)) {
    const content = response.content?.[JSON_TYPE];
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
      ? bodyParts(reader, content.schema, content.example, `Example of an answer ${status}`, (must) => (must ? "" : "not always"))
      : [make("p", {}, Object.keys(response.content ?? {})[0] ?? "No body.")];
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
  if (named?.tagName !== "DETAILS") return;
  named.open = true;
  named.scrollIntoView();
}

function show(api) {
  const reader = new Reader(api);
  const query = document.getElementById("query");
  const auth = document.getElementById("auth");
  const count = document.getElementById("count");
  const toggle = document.getElementById("toggle");
  document.getElementById("version").textContent = api.info.version;
  const about = api.info.description.trim().split("\n\n");
  document
    .getElementById("about")
    .append(...about.map((text) => make("p", {}, ...prose(text.replaceAll("\n", " ")))));

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
    document.getElementById("groups").append(entry);
    document.getElementById("operations").append(section);
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
          (!auth.value || one.auth === auth.value) && wanted.every((word) => one.words.includes(word));
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
  document.getElementById("find").addEventListener("submit", (event) => event.preventDefault());
  toggle.addEventListener("click", () => {
    const open = toggle.getAttribute("aria-pressed") !== "true";
    toggle.setAttribute("aria-pressed", String(open));
    toggle.textContent = open ? "Close all" : "Open all";
    for (const { details } of all) details.open = open;
  });
  for (const { details } of all) {
    details.addEventListener("toggle", () => {
      if (details.open && location.hash !== `#${details.id}` && details.contains(document.activeElement)) {
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
  document.getElementById("count").textContent = `The document cannot be shown: ${error.message}`;
}
