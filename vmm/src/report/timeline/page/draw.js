// The chart, its axis, and the strip that shows the whole run.
const SVG = "http://www.w3.org/2000/svg";
// So many things are drawn of one row at most; of more is shown where they are.
const CROWD = 400;

const make = (name, attributes, parent, text) => {
  const element = document.createElementNS(SVG, name);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  if (text !== undefined) element.textContent = text;
  if (parent) parent.append(element);
  return element;
};
const html = (name, parent, text, className) => {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  if (parent) parent.append(element);
  return element;
};

const shapes = {
  "cr3": (at, y) => ["circle", { cx: at, cy: y, r: 5 }],
  "cr3-kept": (at, y) => ["circle", { cx: at, cy: y, r: 4.5 }],
  "invalidation": (at, y) => ["path", { d: `M${at - 5} ${y - 5}l10 10M${at + 5} ${y - 5}l-10 10`,
    "stroke": "var(--invalidation)", "stroke-width": 3 }],
  "evict": (at, y) => ["path", { d: `M${at - 5} ${y - 5}l10 10M${at + 5} ${y - 5}l-10 10`,
    "stroke": "var(--other)", "stroke-width": 1.5 }],
  "store": (at, y) => ["path", { d: `M${at} ${y - 6}l6 6l-6 6l-6 -6z` }],
  "mark": (at, y) => ["path", { d: `M${at - 4} ${y + 6}v-12h9l-3 3.5l3 3.5h-7v5z` }],
  "consume": (at, y) => ["path", { d: `M${at - 4} ${y + 6}v-12h9l-3 3.5l3 3.5h-7v5z` }],
  "interrupt": (at, y) => ["path", { d: `M${at - 5} ${y - 6}h10l-5 12z` }],
  "ipi": (at, y) => ["path", { d: `M${at - 5} ${y + 6}h10l-5 -12z` }],
  "acknowledge": (at, y) => ["rect", { x: at - 5, y: y - 5, width: 10, height: 10 }],
  "fault": (at, y) => ["path", { d: `M${at - 2.5} ${y - 7}h5v8h-5zM${at - 2.5} ${y + 3}h5v4h-5z` }],
  "other": (at, y) => ["rect", { x: at - 3, y: y - 3, width: 6, height: 6 }],
};
const NAMES = { "cr3": "CR3 load that flushes", "cr3-kept": "CR3 load with NOFLUSH",
  "invalidation": "INVLPG, INVPCID, CR0, CR4, EFER", "evict": "goes on its own",
  "store": "page-table store", "mark": "mark made", "consume": "mark cleared",
  "interrupt": "interrupt, exception", "ipi": "IPI sent", "acknowledge": "acknowledgement",
  "fault": "injected", "other": "frame freed, flush deferred" };

// `area` answers to the pointer: it may be larger than what is seen, and what is seen is `mark`.
function hit(area, thing, kind, mark = area) {
  area.classList.add("hit");
  area.dataset.kind = kind;
  area.addEventListener("click", (event) => { event.stopPropagation(); select(thing, kind); });
  area.addEventListener("pointerenter", () => explain(thing, kind));
  area.addEventListener("pointerleave", () => explain());
  if (state.selected && state.selected.thing === thing) mark.classList.add("selected");
}

// Where something that lasts is drawn; nothing where it is not in the window.
function place(from, to) {
  if (!visible(from, to)) return null;
  const left = Math.max(x(from), GUTTER), right = Math.min(x(to), GUTTER + width());
  return { left, width: Math.max(right - left, 1.5), right };
}

// A path of the columns in which there is something, each as high as `high` says.
function columns(counts, high, bottom) {
  let path = "";
  counts.forEach((count, column) => {
    if (count) path += `M${GUTTER + column} ${bottom}v${-high(count)}h1v${high(count)}z`;
  });
  return path;
}

// Things of a row that are in the window; where they are a crowd, none, and where they are instead.
function few(row, kind) {
  const all = row.things.filter((one) => one.kind === kind).map((one) => one.thing);
  const seen = all.filter((one) => visible(begin(one), end(one)));
  if (seen.length <= CROWD) return seen;
  const covered = (from, to) => {
    const counts = new Uint32Array(Math.ceil(width()) + 1);
    for (const one of seen) {
      if (from(one) === null) continue;
      const first = Math.max(Math.round(x(from(one)) - GUTTER), 0);
      const last = Math.min(Math.round(x(to(one)) - GUTTER), counts.length - 1);
      for (let column = first; column <= last; column++) counts[column]++;
    }
    return counts;
  };
  const crowd = (counts, high, name) => {
    const d = columns(counts, high, row.y + row.height - 2);
    const path = make("path", { d, class: "many " + name }, chart);
    make("title", {}, path, `${seen.length} here; zoom in, or click, to see each`);
    path.addEventListener("click", (event) => {
      event.stopPropagation();
      zoom(0.1, seqAt(event.clientX - chart.getBoundingClientRect().left));
    });
  };
  if (kind === "bar") {
    // What is stale must be seen from any distance.
    crowd(covered(begin, end), () => BAR - 2, "fresh");
    crowd(covered((bar) => bar.stale, end), () => BAR - 2, "stale");
  } else {
    const counts = covered(begin, begin);
    const most = Math.max(...counts, 1);
    crowd(counts, (count) => 3 + (row.height - 7) * count / most, "things");
  }
  return [];
}

function spans(row) {
  for (const span of few(row, row.kind)) {
    const at = place(span.from, span.to);
    const phase = row.kind === "phase" ? " " + span.text.split(" ")[0] : "";
    const box = make("rect", { x: at.left, y: row.y + 1, width: at.width, height: row.height - 3,
      rx: 2, class: row.kind + phase }, chart);
    hit(box, span, row.kind);
    const room = Math.floor((at.right - at.left - 8) / 6.1);
    if (room < 3) continue;
    const text = span.text.length > room ? span.text.slice(0, room - 1) + "…" : span.text;
    make("text", { x: at.left + 4, y: row.y + row.height / 2 + 3.5, class: "in" }, chart, text);
  }
}

// The areas first: the shape of one lies over the area of its neighbour.
function moments(row) {
  const list = few(row, "moment");
  const areas = list.map((one) => make("rect", { x: x(one.seq) - 9, y: row.y, width: 18,
    height: row.height, class: "area" }, chart));
  list.forEach((one, index) => {
    const [name, attributes] = shapes[one.kind](x(one.seq), row.y + row.height / 2);
    const shape = make(name, { ...attributes, class: "m-" + one.kind }, chart);
    hit(areas[index], one, "moment", shape);
    hit(shape, one, "moment");
  });
}

// A line from the mark that was made to the one that was cleared: this PCID is to be flushed.
function tagged(row) {
  make("rect", { x: 0, y: row.y, width: GUTTER + width() + 14, height: row.height, class: "lane" },
    chart);
  for (const mark of few(row, "mark")) {
    const at = place(mark.from, end(mark));
    const middle = row.y + row.height / 2;
    const area = make("rect", { x: at.left, y: row.y, width: at.width, height: row.height,
      class: "area" }, chart);
    const line = make("rect", { x: at.left, y: middle - 1.5, width: at.width, height: 3,
      class: "marked" }, chart);
    hit(area, mark, "mark", line);
    hit(line, mark, "mark");
  }
  moments(row);
}

function entries(row) {
  for (const bar of few(row, "bar")) {
    const part = (from, to, name) => {
      const at = to < from ? null : place(from, to);
      if (!at) return;
      const box = make("rect", { x: at.left, y: row.y + 2 + BAR * bar.row, width: at.width,
        height: BAR - 2, rx: 2, class: name, "data-page": bar.page, "data-tag": bar.tag }, chart);
      hit(box, bar, "bar");
    };
    part(bar.from, bar.stale ?? end(bar), "fresh");
    if (bar.stale !== null) part(bar.stale, end(bar), "stale");
  }
  for (const owed of few(row, "owed")) {
    const at = place(owed.from, owed.to);
    const y = row.y + 4 + BAR * row.deep + OWED * owed.row;
    const d = `M${at.left} ${y - 3}v5H${Math.max(at.right, at.left + 2)}v-5`;
    const area = make("path", { d, class: "area", "stroke-width": 9 }, chart);
    const line = make("path", { d, class: "owed" + (owed.violated ? " violated" : "") }, chart);
    hit(area, owed, "owed", line);
    hit(line, owed, "owed");
  }
}

// It stays where it is when the lanes are scrolled.
function drawAxis() {
  axis.replaceChildren();
  const span = state.to - state.from;
  const raw = span / Math.max(width() / 90, 1);
  const power = 10 ** Math.floor(Math.log10(Math.max(raw, 1)));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw) || power * 10;
  for (let at = Math.ceil(state.from / step) * step; at <= state.to; at += step) {
    make("line", { x1: x(at), x2: x(at), y1: 0, y2: state.height, class: "rule" }, chart);
    make("text", { x: x(at), y: 13, class: "quiet", "text-anchor": "middle" }, axis, String(at));
  }
  make("text", { x: 12, y: 13, class: "quiet" }, axis, "event");
  for (const violation of run.violations) {
    if (!visible(violation.seq, violation.seq)) continue;
    const at = x(violation.seq);
    const area = make("rect", { x: at - 12, y: 0, width: 24, height: 22, class: "area" }, axis);
    const flag = make("path", { d: `M${at - 6} 13h12l-6 9z`, class: "stale" }, axis);
    hit(area, violation, "violation", flag);
    hit(flag, violation, "violation");
  }
}

function draw() {
  chart.replaceChildren();
  chart.setAttribute("height", state.height);
  drawAxis();
  const kinds = { step: spans, phase: spans, primitive: spans, moments, tag: tagged, page: entries };
  for (const row of state.rows) if (kinds[row.kind]) kinds[row.kind](row);
  for (const violation of run.violations) {
    if (!visible(violation.seq, violation.seq)) continue;
    const at = x(violation.seq);
    make("line", { x1: at, x2: at, y1: 0, y2: state.height, class: "here" }, chart);
  }
  // The names come last, over what reaches to the left of the window.
  make("rect", { x: 0, y: 0, width: GUTTER - 6, height: state.height, class: "gutter" }, chart);
  for (const row of state.rows) {
    if (row.kind === "tag")
      make("rect", { x: 0, y: row.y, width: GUTTER - 6, height: row.height, class: "lane" }, chart);
    const [left, name] = { cpu: [12, "cpu"], tag: [22, "tag"], page: [34, "page"] }[row.kind]
      || [22, "quiet"];
    const y = row.kind === "page" ? row.y + 12 : row.y + row.height / 2 + 4;
    make("text", { x: left, y, class: name, "data-lane": row.kind }, chart, row.label);
  }
  overview();
  root.dataset.from = state.from.toFixed(2);
  root.dataset.to = state.to.toFixed(2);
}

// The whole run in a strip: what was stale in red, violations, and the window.
function overview() {
  const canvas = id("overview");
  const wide = canvas.clientWidth, high = 34, scale = devicePixelRatio || 1;
  canvas.width = wide * scale;
  canvas.height = high * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const style = getComputedStyle(root);
  const colour = (name) => style.getPropertyValue("--" + name);
  const at = (seq) => GUTTER + seq / LAST * (wide - GUTTER - 14);
  const counts = new Uint32Array(Math.max(Math.ceil(wide), 1));
  for (const one of run.moments) counts[Math.floor(at(one.seq))]++;
  const most = Math.max(...counts, 1);
  pen.fillStyle = colour("fresh");
  counts.forEach((count, column) => {
    if (count) pen.fillRect(column, high - 6 - 20 * count / most, 1, 20 * count / most);
  });
  pen.fillStyle = colour("stale");
  for (const bar of run.bars) {
    if (bar.stale === null) continue;
    const left = at(bar.stale), right = at(end(bar));
    pen.fillRect(left, high - 5, Math.max(right - left, 1), 4);
  }
  for (const one of run.violations) pen.fillRect(at(one.seq) - 1, 0, 2, high);
  pen.strokeStyle = colour("select");
  pen.lineWidth = 2;
  pen.strokeRect(at(state.from), 1, Math.max(at(state.to) - at(state.from), 3), high - 2);
  pen.fillStyle = colour("quiet");
  pen.font = "11px system-ui, sans-serif";
  pen.fillText("the whole run", 22, 21);
}
