// What there is to draw: the run, the window on it, and the rows from top to bottom.
// The page draws what is in its window and no more: a run may have a hundred thousand events.
const root = document.documentElement;
root.dataset.errors = "0";
addEventListener("error", () => { root.dataset.errors = String(Number(root.dataset.errors) + 1); });

const run = JSON.parse(document.getElementById("data").textContent);
const id = (name) => document.getElementById(name);
const scroll = id("scroll"), axis = id("axis"), chart = id("chart"), detail = id("detail"),
  filter = id("filter");
const GUTTER = 172;
// Of a page's row: what is above its bars, and the height of each row of bars and of brackets.
const PAD = 5, BAR = 13, OWED = 8;
const LAST = Math.max(run.events, 1);
const state = { from: 0, to: LAST, filter: "", selected: null, rows: [], height: 0 };

const width = () => Math.max(chart.clientWidth - GUTTER - 14, 50);
const x = (seq) => GUTTER + (seq - state.from) / (state.to - state.from) * width();
const seqAt = (px) => state.from + (px - GUTTER) / width() * (state.to - state.from);
const visible = (from, to) => to >= state.from && from <= state.to;

// From where to where something lasts, whatever it is.
const begin = (thing) => thing.seq ?? thing.from;
const end = (thing) => thing.seq ?? thing.to ?? run.events;

const pcid = (tag) => Number((/0x[0-9a-f]+/.exec(tag) || ["0"])[0]);
const half = (tag) => tag === "global" ? "" : pcid(tag) & 0x800 ? " user" : " kernel";

// A word of the filter fits a name, or a number that is the same however it is written.
const words = () => state.filter.toLowerCase().split(/\s+/).filter(Boolean);
const isNumber = (text) => /^(0x[0-9a-f]+|[0-9]+)$/.test(text);
const same = (word, name) =>
  word === name || isNumber(word) && isNumber(name) && BigInt(word) === BigInt(name);
const fitsAny = (names) => {
  const all = names.flatMap((name) => [name, ...name.split(/[\s,:]+/)].map((one) => one.toLowerCase()));
  return words().every((word) => all.some((name) => same(word, name)));
};
const fits = (one) => fitsAny([one.page, one.address, one.tag]);

// Entries that overlap have rows of their own, and so have obligations.
const depth = (list) => list.reduce((most, one) => Math.max(most, one.row + 1), 0);

// A violation's obligation, if it is about one.
const owedBy = (violation) => run.obligations.find((owed) => owed.violated
  && owed.to === violation.seq && owed.cpu === violation.cpu
  && owed.tag === violation.tag && owed.page === violation.page);

// The rows; made anew when the filter changes. Each has its things in the order of time.
function layout() {
  const rows = [];
  let y = 0;
  const add = (row, height, ...lists) => {
    const things = lists.flatMap(([kind, list]) => list.map((thing) => ({ kind, thing })));
    things.sort((a, b) => begin(a.thing) - begin(b.thing));
    rows.push({ ...row, things, y, height });
    y += height;
  };
  const bars = run.bars.filter(fits), owed = run.obligations.filter(fits);
  // An operation is about what its text names, and about each bar and bracket that it begins or ends.
  const about = new Set([...bars, ...owed].flatMap((one) => [one.from, one.to, one.stale]));
  const shown = run.moments.filter((one) => !state.filter || about.has(one.seq)
    || fitsAny([one.text, one.tag || "", ...one.pages]));
  for (const cpu of run.cpus) {
    const here = (one) => one.cpu === cpu.number;
    const moments = shown.filter(here);
    add({ kind: "cpu", cpu, label: "cpu" + cpu.number }, 22);
    add({ kind: "step", cpu, label: "steps" }, 22, ["step", cpu.steps]);
    add({ kind: "phase", cpu, label: "phases" }, 17, ["phase", cpu.phases]);
    if (cpu.primitives.length)
      add({ kind: "primitive", cpu, label: "primitives" }, 18, ["primitive", cpu.primitives]);
    add({ kind: "moments", cpu, label: "operations" }, 24, ["moment", moments]);
    for (const tag of cpu.tags) {
      const of = (one) => here(one) && one.tag === tag;
      const held = bars.filter(of), due = owed.filter(of);
      if (!held.length && !due.length && !fitsAny([tag])) continue;
      add({ kind: "tag", cpu, tag, label: tag + half(tag) }, 22,
        ["mark", run.marks.filter(of)], ["moment", moments.filter(of)]);
      for (const page of new Set([...held, ...due].map((one) => one.page))) {
        const on = (one) => one.page === page;
        const deep = depth(held.filter(on));
        add({ kind: "page", cpu, tag, page, label: page, deep },
          PAD + BAR * deep + OWED * depth(due.filter(on)),
          ["bar", held.filter(on)], ["owed", due.filter(on)]);
      }
    }
    y += 12;
  }
  state.rows = rows;
  state.height = y + 8;
  root.dataset.bars = String(bars.length);
  id("shown").textContent = state.filter
    ? `${bars.length} of ${run.bars.length} entries` : `${run.bars.length} entries, ${run.events} events`;
}
