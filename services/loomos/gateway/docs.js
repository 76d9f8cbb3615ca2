// Shows openapi.json: operations by service, each with its parameters, body and answers.
"use strict";

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function shape(schema, book, depth = 0) {
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return depth > 3 ? name : shape(book[name], book, depth + 1);
  }
  if (schema.type === "array") return [shape(schema.items, book, depth + 1)];
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.properties) {
    return Object.fromEntries(
      Object.entries(schema.properties).map(([name, one]) => [name, shape(one, book, depth + 1)]));
  }
  if (schema.additionalProperties) return { "…": shape(schema.additionalProperties, book, depth + 1) };
  return [schema.type, schema.format, schema.pattern].flat().filter(Boolean).join(" ");
}

function operation(verb, path, told, book) {
  const head = element("summary", "", Object.assign(element("span", verb.toUpperCase()), { className: "verb" }),
    element("code", path), document.createTextNode(" — " + told.summary));
  const rows = (told.parameters || []).map((one) => element("tr", "",
    element("td", "", element("code", one.name)), element("td", one.in), element("td", one.description)));
  const parts = [element("table", "", ...rows)];
  const body = told.requestBody?.content["application/json"].schema;
  if (body) parts.push(element("p", "Body"), element("pre", JSON.stringify(shape(body, book), null, 2)));
  for (const [status, answer] of Object.entries(told.responses)) {
    if (status === "default") continue;
    const schema = Object.values(answer.content || {})[0]?.schema;
    parts.push(element("p", status + " " + answer.description));
    if (schema) parts.push(element("pre", JSON.stringify(shape(schema, book), null, 2)));
  }
  return element("details", "", head, ...parts);
}

async function show() {
  const api = await (await fetch("openapi.json")).json();
  const services = new Map();
  for (const [path, verbs] of Object.entries(api.paths)) {
    for (const [verb, told] of Object.entries(verbs)) {
      const name = told.tags[0];
      if (!services.has(name)) services.set(name, []);
      services.get(name).push(operation(verb, path, told, api.components.schemas));
    }
  }
  const main = document.getElementById("operations");
  main.textContent = "";
  for (const name of [...services.keys()].sort()) main.append(element("h2", name), ...services.get(name));
}

show().catch((error) => { document.getElementById("operations").textContent = String(error); });
