"use strict";
// Sorting tables, and the browser of examples. All text goes in as text nodes, never as markup.

const el = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

// ------------------------------------------------------------------ tables that sort
const shownValue = (row, place) => {
  const cell = row.cells[place];
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
};

function sortBy(table, header) {
  const place = header.cellIndex, body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [shownValue(row, place), row]);
  const numbers = rows.some(([value]) => typeof value === "number");
  const before = header.getAttribute("aria-sort");
  const down = before ? before === "ascending" : numbers; // of numbers, the highest first
  const missing = (value) => (numbers ? typeof value !== "number" : value === "–");
  rows.sort(([a], [b]) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    const order = numbers ? a - b : a.localeCompare(b);
    return down ? -order : order;
  });
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const header of table.tHead.rows[0].cells) {
    const button = el("button", { type: "button", title: "Sort by this column" });
    button.append(...header.childNodes);
    button.addEventListener("click", () => sortBy(table, header));
    header.append(button);
  }
}

// ------------------------------------------------------------------ differences between texts
const segmenter = Intl.Segmenter && new Intl.Segmenter(undefined, { granularity: "word" });
const pieces = (text) => (segmenter ? [...segmenter.segment(text)].map((each) => each.segment) : text.split(/(?<=\s)/));

// Words, each with the space after it: matched by themselves, spaces would tear differences apart.
function words(text) {
  const found = [];
  for (const piece of pieces(text)) {
    if (found.length && !piece.trim()) found[found.length - 1] += piece;
    else found.push(piece);
  }
  return found;
}

const MOST = 1_000_000; // cells of the table below; longer texts are shown unmarked

// The parts of `text` by a longest common subsequence with `reference`, as [kind, words].
function differences(text, reference) {
  const a = words(text), b = words(reference), wide = b.length + 1;
  if (a.length * b.length > MOST) return null;
  const [as, bs] = [a, b].map((each) => each.map((word) => word.trim()));
  const equal = (i, j) => as[i] === bs[j];
  const length = new Uint16Array((a.length + 1) * wide);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      length[i * wide + j] = equal(i, j) ? length[(i + 1) * wide + j + 1] + 1
        : Math.max(length[(i + 1) * wide + j], length[i * wide + j + 1]);
  const parts = [];
  const add = (kind, word) => {
    if (parts.length && parts.at(-1)[0] === kind) parts.at(-1)[1] += word;
    else parts.push([kind, word]);
  };
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && equal(i, j)) add("same", a[i]), i++, j++;
    else if (j >= b.length || (i < a.length && length[(i + 1) * wide + j] >= length[i * wide + j + 1]))
      add("more", a[i++]);
    else add("less", b[j++]);
  }
  return parts;
}

// Control characters would be invisible: their pictures are shown.
const visible = (text) =>
  text.replace(/[\0-\x08\x0b-\x1f\x7f]/g, (c) => (c === "\x7f" ? "␡" : String.fromCharCode(0x2400 + c.charCodeAt(0))));

// A text with what differs from the nearest of some others marked; unmarked if there are none.
function marked(text, others = []) {
  const shown = el("p", { className: "text", dir: "auto" });
  const same = (parts) => parts.reduce((sum, [kind, part]) => sum + (kind === "same" ? part.length : -part.length), 0);
  const compared = others.map((other) => differences(visible(text), visible(other))).filter(Boolean);
  if (!compared.length) shown.append(visible(text), others.length ? el("small", {}, " (too long to mark differences)") : "");
  else
    for (const [kind, part] of compared.reduce((a, b) => (same(b) > same(a) ? b : a)))
      shown.append(kind === "same" ? part : el(kind === "more" ? "ins" : "del", {}, part));
  return shown;
}

// ------------------------------------------------------------------ the browser of examples
const browser = document.getElementById("browser");
const data = browser && JSON.parse(document.getElementById("data").textContent);
if (data && data.examples.length) {
  const pick = (name) => browser.querySelector(`[name=${name}]`);
  const number = (score) => (score === null || score === undefined ? "–"
    : data.binary.includes(pick("metric").value) ? (score ? "right" : "wrong") : (100 * score).toFixed(1));
  const scoreOf = (output, metric = pick("metric").value) => output?.scores[metric] ?? null;
  let found = [], at = 0;

  function matches() {
    const [task, order] = [pick("task").value, pick("order").value];
    const [one, other] = [pick("one").value, pick("other").value];
    const wanted = pick("search").value.toLowerCase();
    const gap = (each) => {
      const [a, b] = [one, other].map((name) => scoreOf(each.outputs[name]));
      return a === null || b === null ? null : a - b;
    };
    const text = (each) =>
      [each.id, each.input, ...each.targets, ...Object.values(each.outputs).map((o) => o.text)].join("\n").toLowerCase();
    found = data.examples.filter((each) =>
      (!task || each.task === task) && (!wanted || text(each).includes(wanted)) &&
      (order === "all" || (order === "better" && gap(each) > 0) ||
        (order === "differ" && gap(each)) || // neither 0 nor unknown
        (order === "failed" && Object.values(each.outputs).every((o) => scoreOf(o) === 0))));
    if (order === "better") found.sort((a, b) => gap(b) - gap(a));
    if (order === "differ") found.sort((a, b) => Math.abs(gap(b)) - Math.abs(gap(a)));
    at = 0;
    show();
  }

  function card(name, output, example) {
    const against = pick("against").value;
    const other = example.outputs[against];
    const references = against === "" || against === name ? []
      : against === "target" ? example.targets : other ? [other.text] : [];
    const score = scoreOf(output), metric = pick("metric").value;
    const state = data.binary.includes(metric) && score !== null ? (score ? "right" : "wrong") : "";
    const made = el("article", { className: `card ${state}` });
    made.append(el("h4", {}, name, " ", el("span", { className: "score" }, number(score))));
    made.append(marked(output.text, references));
    const others = Object.entries(output.scores).filter(([key, value]) => key !== metric && value !== null);
    const facts = [output.why, ...others.map(([key, value]) => `${key} ${(100 * value).toFixed(1)}`)];
    made.append(el("p", { className: "why" }, visible(facts.filter(Boolean).join("; "))));
    return made;
  }

  function show() {
    const example = found[at];
    browser.querySelector("output").textContent = example ? `${at + 1} of ${found.length}` : "no example matches";
    pick("previous").disabled = !example || at === 0;
    pick("next").disabled = !example || at === found.length - 1;
    const shown = browser.querySelector(".example");
    shown.replaceChildren();
    if (!example) return;
    const source = el("article", { className: "card" }, el("h4", {}, "Input"), marked(example.input));
    const target = el("article", { className: "card" }, el("h4", {}, example.targets.length > 1 ? "Targets" : "Target"));
    target.append(...example.targets.map((text) => marked(text)));
    shown.append(
      el("h3", {}, visible(`${example.task}, ${example.id}`)),
      el("div", { className: "cards" }, source, target),
      el("div", { className: "cards" }, ...data.methods.filter((name) => example.outputs[name])
        .map((name) => card(name, example.outputs[name], example))));
  }

  const step = (by) => {
    at = Math.min(Math.max(at + by, 0), Math.max(found.length - 1, 0));
    show();
  };
  pick("previous").addEventListener("click", () => step(-1));
  pick("next").addEventListener("click", () => step(1));
  browser.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select") || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  for (const field of browser.querySelectorAll("select, input"))
    field.addEventListener("input", field.name === "against" ? show : matches);
  browser.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  matches();
}
