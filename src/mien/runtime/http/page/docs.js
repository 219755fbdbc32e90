"use strict";
// The API's pages, made from /openapi.json alone: nothing is loaded from another host.
(async () => {
  const spec = await (await fetch("/openapi.json")).json();
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) name === "text" ? (node.textContent = value) : node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  /* Text with `code` in backticks, as nodes. */
  const prose = (text) => (text || "").split("`").map((part, at) => (at % 2 ? make("code", { text: part }) : part));
  const follow = (schema) => (schema && schema.$ref ? schema.$ref.slice(2).split("/").reduce((at, part) => at[part], spec) : schema || {});
  const kind = (schema) => {
    if (!schema) return "";
    if (schema.$ref) return schema.$ref.split("/").pop();
    if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
    const any = schema.anyOf || schema.oneOf;
    if (any) return any.map(kind).join(" | ");
    if (schema.type === "array") return kind(schema.items) + "[]";
    return schema.format ? `${schema.type} (${schema.format})` : String(schema.type || "any");
  };
  const example = (schema, depth = 0) => {
    const at = follow(schema);
    if (at.example !== undefined) return at.example;
    if (at.examples && at.examples.length) return at.examples[0];
    if (at.default !== undefined) return at.default;
    const any = at.anyOf || at.oneOf || at.allOf;
    if (any) return example(any[0], depth);
    if (at.enum) return at.enum[0];
    if (depth > 4) return null;
    if (at.type === "object" && at.properties) return Object.fromEntries(Object.entries(at.properties).map(([name, inner]) => [name, example(inner, depth + 1)]));
    if (at.type === "array") return [example(at.items, depth + 1)];
    return { string: "text", integer: 1, number: 0.5, boolean: true, object: {} }[at.type] ?? null;
  };
  const fields = (schema) => {
    const at = follow(schema);
    if (!at.properties) return make("pre", { text: kind(schema) });
    const table = make("table", {}, make("tr", {}, make("th", { text: "field" }), make("th", { text: "type" }), make("th", { text: "" })));
    for (const [name, inner] of Object.entries(at.properties)) {
      const must = (at.required || []).includes(name) ? " *" : "";
      table.append(make("tr", {}, make("td", {}, make("code", { text: name + must })), make("td", { text: kind(inner) }), make("td", { class: "soft" }, ...prose(follow(inner).description || inner.description))));
    }
    return table;
  };
  const attempt = (path, verb, op, parameters) => {
    const form = make("div");
    const inputs = parameters.map((parameter) => {
      const input = make("input", { placeholder: kind(parameter.schema) });
      form.append(make("p", {}, make("label", {}, make("code", { text: `${parameter.name} (${parameter.in})${parameter.required ? " *" : ""} ` }), input, make("span", { class: "soft" }, " ", ...prose(parameter.description)))));
      return [parameter, input];
    });
    const content = (op.requestBody || {}).content || {};
    const json = content["application/json"];
    const multipart = content["multipart/form-data"];
    let body, file;
    if (multipart) form.append(make("p", {}, make("label", { text: "file " }, (file = make("input", { type: "file" })))));
    if (json) form.append(make("p", {}, (body = make("textarea", { "aria-label": "JSON body" }))));
    if (json) body.value = multipart ? "" : JSON.stringify(example(json.schema), null, 2);
    const out = make("pre", { hidden: "" });
    const button = make("button", { type: "button", text: "Send" });
    button.addEventListener("click", async () => {
      let url = path;
      const query = new URLSearchParams();
      const headers = {};
      for (const [parameter, input] of inputs) {
        if (parameter.in === "path") url = url.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
        else if (input.value && parameter.in === "query") query.append(parameter.name, input.value);
        else if (input.value && parameter.in === "header") headers[parameter.name] = input.value;
      }
      if ([...query].length) url += "?" + query;
      const key = document.getElementById("key").value.trim();
      if (key) headers.Authorization = "Bearer " + key;
      let data;
      if (file && file.files.length) { data = new FormData(); data.append("file", file.files[0]); }
      else if (body && body.value) { data = body.value; headers["Content-Type"] = "application/json"; }
      out.hidden = false;
      out.textContent = "…";
      const started = performance.now();
      try {
        const answer = await fetch(url, { method: verb.toUpperCase(), headers, body: data });
        const text = await answer.text();
        let shown = text;
        try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON */ }
        out.textContent = `${answer.status} ${answer.statusText} · ${Math.round(performance.now() - started)} ms · ${answer.headers.get("x-request-id")}\n\n${shown}`;
      } catch (error) { out.textContent = "No answer: " + error.message; }
    });
    form.append(button, out);
    return form;
  };
  document.getElementById("version").textContent = spec.info.version;
  const nav = document.getElementById("nav"), list = document.getElementById("list");
  list.replaceChildren(make("p", {}, ...prose(spec.info.description)));
  const groups = new Map();
  for (const [path, verbs] of Object.entries(spec.paths)) for (const [verb, op] of Object.entries(verbs)) {
    const tag = (op.tags || ["other"])[0];
    if (!groups.has(tag)) groups.set(tag, []);
    groups.get(tag).push([path, verb, op]);
  }
  const shown = [];
  for (const [tag, ops] of groups) {
    nav.append(make("h2", { text: tag }));
    list.append(make("h2", { text: tag }));
    for (const [path, verb, op] of ops) {
      const id = op.operationId || verb + path;
      const link = make("a", { href: "#" + id, text: op.summary || path });
      const inside = make("div");
      const node = make("details", { class: "op", id }, make("summary", {}, make("span", { class: "verb " + verb, text: verb.toUpperCase() }), make("code", { text: path }), make("span", { class: "soft", text: op.summary || "" })), inside);
      node.addEventListener("toggle", () => {
        if (!node.open || inside.childNodes.length) return;
        if (op.description) inside.append(make("p", {}, ...prose(op.description)));
        for (const [type, media] of Object.entries((op.requestBody || {}).content || {})) inside.append(make("h3", { text: "Body · " + type }), fields(media.schema));
        inside.append(make("h3", { text: "Answers" }));
        const table = make("table");
        for (const [status, answer] of Object.entries(op.responses || {})) {
          const media = Object.values(answer.content || {})[0];
          table.append(make("tr", {}, make("td", { text: status }), make("td", { text: answer.description || "" }), make("td", {}, make("code", { text: media ? kind(media.schema) : "" }))));
          if (status.startsWith("2") && media) table.append(make("tr", {}, make("td"), make("td", { colspan: "2" }, fields(media.schema))));
        }
        inside.append(table, make("h3", { text: "Try it" }), attempt(path, verb, op, op.parameters || []));
      });
      link.addEventListener("click", () => { node.open = true; });
      nav.append(link);
      list.append(node);
      shown.push([`${verb} ${path} ${op.summary || ""} ${tag}`.toLowerCase(), node, link]);
    }
  }
  document.getElementById("find").addEventListener("input", (event) => {
    const text = event.target.value.toLowerCase();
    for (const [words, node, link] of shown) node.hidden = link.hidden = !words.includes(text);
  });
  const wanted = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (wanted) { wanted.open = true; wanted.scrollIntoView(); }
})();
