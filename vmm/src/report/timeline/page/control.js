// The window, the selection, the keyboard and the pointer.
function select(thing, kind) {
  state.selected = thing ? { thing, kind } : null;
  root.dataset.selected = thing ? kind : "";
  explain();
  draw();
  // Said once to those who listen; what the pointer passes over is not.
  id("said").textContent = thing ? detail.textContent : "";
}

function look(from, to) {
  const span = Math.min(Math.max(to - from, Math.min(12, LAST)), LAST);
  state.from = Math.min(Math.max(from, 0), LAST - span);
  state.to = state.from + span;
  draw();
}
const pan = (share) => {
  const step = (state.to - state.from) * share;
  look(state.from + step, state.to + step);
};
const zoom = (factor, around = (state.from + state.to) / 2) =>
  look(around - (around - state.from) * factor, around + (state.to - around) * factor);

// The row in which a thing is, or would be.
const rowOf = (thing) => state.rows.find((row) => row.things.some((one) => one.thing === thing));

// Brings a row into view.
function reveal(row) {
  if (!row) return;
  const top = row.y, bottom = row.y + row.height + axis.clientHeight;
  if (top < scroll.scrollTop) scroll.scrollTop = top;
  else if (bottom > scroll.scrollTop + scroll.clientHeight)
    scroll.scrollTop = bottom - scroll.clientHeight / 2;
}

function go(thing, kind, row = rowOf(thing)) {
  if (!visible(begin(thing), begin(thing))) {
    const span = Math.min(state.to - state.from, 90);
    look(begin(thing) - span * 0.7, begin(thing) + span * 0.3);
  }
  select(thing, kind);
  reveal(row);
}

// The next of a list after what is selected, which need not be of the list.
function next(list, direction, kind) {
  const selected = state.selected && state.selected.thing;
  const index = list.indexOf(selected);
  const at = selected ? begin(selected) : state.from - 1;
  const found = index >= 0 ? list[index + direction]
    : direction > 0 ? list.find((one) => begin(one) > at) : list.findLast((one) => begin(one) < at);
  if (found) go(found, kind);
}
const all = (kind, from) => state.rows.flatMap((row) => !from || row.kind === from ? row.things : [])
  .filter((one) => one.kind === kind).map((one) => one.thing);
const operation = (direction) =>
  next(all("moment", "moments").sort((a, b) => a.seq - b.seq), direction, "moment");
const entry = (direction) => {
  // From lane to lane: the next one need not be later.
  const list = all("bar");
  const index = state.selected ? list.indexOf(state.selected.thing) : -1;
  const found = index < 0 ? list.at(direction > 0 ? 0 : -1) : list[index + direction];
  if (found) go(found, "bar");
};

// The thing of the next row up or down that is nearest in time; or the next in the same row.
function neighbour(rows, things) {
  const selected = state.selected && state.selected.thing;
  const row = selected && rowOf(selected);
  const at = row ? state.rows.indexOf(row) : -1;
  if (row && things) {
    const index = row.things.findIndex((one) => one.thing === selected);
    const found = row.things[index + things];
    if (found) go(found.thing, found.kind, row);
    return;
  }
  const time = selected ? begin(selected) : state.from;
  for (let to = at < 0 ? (rows > 0 ? 0 : state.rows.length - 1) : at + rows; state.rows[to]; to += rows) {
    const far = (one) => Math.abs(begin(one.thing) - time);
    const found = state.rows[to].things.reduce(
      (best, one) => !best || far(one) < far(best) ? one : best, null);
    if (found) { go(found.thing, found.kind, state.rows[to]); return; }
  }
}

function violation() {
  if (!run.violations.length) return;
  const index = state.selected ? run.violations.indexOf(state.selected.thing) : -1;
  const one = run.violations[(index + 1) % run.violations.length];
  const owed = owedBy(one);
  const from = owed ? Math.min(owed.from, one.seq - 30) : one.seq - 40;
  look(from - 6, one.seq + Math.max((one.seq - from) * 0.25, 8));
  select(one, "violation");
  const lane = (row) => row.cpu.number === one.cpu && row.tag === one.tag && row.page === one.page;
  reveal(owed && rowOf(owed) || state.rows.find(lane)
    || state.rows.find((row) => row.cpu.number === one.cpu));
}

function narrow(text) {
  state.filter = text;
  filter.value = text;
  layout();
  draw();
}

function theme(name = root.dataset.theme === "dark" ? "light" : "dark") {
  root.dataset.theme = name;
  draw();
}

function help(open = id("help").hidden) {
  id("help").hidden = !open;
  id("keys").setAttribute("aria-expanded", String(open));
  draw();
}

const KEYS = [
  ["← →", "move", { "ArrowLeft": () => pan(-0.25), "ArrowRight": () => pan(0.25) }],
  ["+ −", "zoom", { "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6) }],
  ["0", "the whole run", { "0": () => look(0, LAST) }],
  ["v", "next violation", { "v": violation }],
  ["n p", "next, previous operation", { "n": () => operation(1), "p": () => operation(-1) }],
  ["e E", "next, previous entry, with its walk", { "e": () => entry(1), "E": () => entry(-1) }],
  ["↓ ↑", "what is in the next, previous lane",
    { "ArrowDown": () => neighbour(1, 0), "ArrowUp": () => neighbour(-1, 0) }],
  [". ,", "next, previous in the same lane",
    { ".": () => neighbour(0, 1), ",": () => neighbour(0, -1) }],
  ["/", "filter by page or PCID", { "/": () => filter.focus() }],
  ["t", "light or dark", { "t": () => theme() }],
  ["Esc", "clear filter and selection",
    { "Escape": () => { filter.blur(); help(false); narrow(""); select(null); } }],
  ["?", "this list", { "?": () => help() }],
];
const ACTIONS = Object.assign({}, ...KEYS.map((row) => row[2]));

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !ACTIONS[event.key]) return;
  if (event.target === filter && event.key !== "Escape") return;
  // What does not fit the panel is scrolled by its own keys.
  if (event.target === detail && event.key.startsWith("Arrow")) return;
  event.preventDefault();
  ACTIONS[event.key]();
});
filter.addEventListener("input", () => narrow(filter.value));
for (const [name, action] of Object.entries({ previous: () => operation(-1), next: () => operation(1),
  violation, out: () => zoom(1 / 0.6), in: () => zoom(0.6), fit: () => look(0, LAST),
  theme: () => theme(), keys: () => help() }))
  id(name).addEventListener("click", action);

scroll.addEventListener("wheel", (event) => {
  if (event.ctrlKey) {
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.25 : 0.8, seqAt(event.clientX - chart.getBoundingClientRect().left));
  } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
    event.preventDefault();
    pan(Math.sign(event.deltaX || event.deltaY) * 0.08);
  }
}, { passive: false });
let drag = null;
scroll.addEventListener("pointerdown", (event) => {
  drag = { x: event.clientX, from: state.from, to: state.to };
});
addEventListener("pointermove", (event) => {
  if (!drag || Math.abs(event.clientX - drag.x) < 5) return;
  scroll.classList.add("dragging");
  const moved = (event.clientX - drag.x) / width() * (drag.to - drag.from);
  look(drag.from - moved, drag.to - moved);
});
for (const over of ["pointerup", "pointercancel"])
  addEventListener(over, () => { drag = null; scroll.classList.remove("dragging"); });
id("overview").addEventListener("pointerdown", (event) => {
  const wide = id("overview").clientWidth - GUTTER - 14;
  const seq = (event.offsetX - GUTTER) / wide * LAST;
  const span = state.to - state.from;
  look(seq - span / 2, seq + span / 2);
});
addEventListener("resize", draw);

for (const [keys, what] of KEYS) {
  const line = html("div", id("help"));
  for (const key of keys.split(" ")) { html("kbd", line, key); line.append(" "); }
  line.append(what);
}
root.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
// `#filter=u0&from=10&to=90&theme=dark` opens the page so.
const asked = new URLSearchParams(location.hash.slice(1));
const [from, to] = ["from", "to"].map((name) => parseFloat(asked.get(name)));
state.filter = filter.value = asked.get("filter") || "";
if (["light", "dark"].includes(asked.get("theme"))) root.dataset.theme = asked.get("theme");
heading();
legend();
layout();
explain();
if (from < to) look(from, to);
else if (run.violations.length) violation();
// The events before the first step tell the state that it meets.
else {
  const steps = run.cpus.flatMap((cpu) => cpu.steps.map((one) => one.from));
  look(Math.max(Math.min(...steps, LAST) - 2, 0), Math.min(run.events, 400));
}
root.dataset.ready = "1";
