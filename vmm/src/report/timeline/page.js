"use strict";
// The page draws what is in its window and no more: a run may have a hundred thousand events.
(() => {
  const root = document.documentElement;
  root.dataset.errors = "0";
  addEventListener("error", () => { root.dataset.errors = String(Number(root.dataset.errors) + 1); });

  const run = JSON.parse(document.getElementById("data").textContent);
  const id = (name) => document.getElementById(name);
  const scroll = id("scroll"), chart = id("chart"), detail = id("detail"), filter = id("filter");
  const SVG = "http://www.w3.org/2000/svg";
  const GUTTER = 172, AXIS = 22;
  // Of a page's row: what is above its bars, and the height of each row of bars and of brackets.
  const PAD = 5, BAR = 13, OWED = 8;
  // So many things are drawn of one row at most; more are shown as a density.
  const CROWD = 400;
  const state = { from: 0, to: Math.max(run.events, 1), filter: "", selected: null, rows: [] };

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
  const width = () => Math.max(chart.clientWidth - GUTTER - 14, 50);
  const x = (seq) => GUTTER + (seq - state.from) / (state.to - state.from) * width();
  const seqAt = (px) => state.from + (px - GUTTER) / width() * (state.to - state.from);
  const visible = (from, to) => to >= state.from && from <= state.to;
  const half = (tag) => {
    const pcid = Number((/0x[0-9a-f]+/.exec(tag) || ["0"])[0]);
    return tag === "global" ? "" : pcid & 0x800 ? " user" : " kernel";
  };

  // A word of the filter fits a page's name or address, or the tag of its lane.
  const words = () => state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (bar) => {
    const names = [bar.page, bar.address || ""].map((name) => name.toLowerCase());
    const tag = bar.tag.toLowerCase();
    return words().every((word) => names.includes(word) || tag === word
      || tag.split(" ").includes(word) || tag.includes(word) && word.startsWith("pcid"));
  };

  // Entries that overlap have rows of their own, and so have obligations.
  const depth = (list) => list.reduce((most, one) => Math.max(most, one.row + 1), 0);

  // The rows from top to bottom, with their places; made anew when the filter changes.
  function layout() {
    const rows = [];
    let y = AXIS;
    const add = (row, height) => { rows.push({ ...row, y, height }); y += height; };
    for (const cpu of run.cpus) {
      add({ kind: "cpu", cpu, label: "cpu" + cpu.number }, 22);
      add({ kind: "step", cpu, label: "steps", spans: cpu.steps }, 22);
      add({ kind: "phase", cpu, label: "phases", spans: cpu.phases }, 17);
      if (cpu.primitives.length)
        add({ kind: "primitive", cpu, label: "primitives", spans: cpu.primitives }, 18);
      const moments = run.moments.filter((moment) => moment.cpu === cpu.number);
      add({ kind: "moments", cpu, label: "operations", moments }, 24);
      for (const tag of cpu.tags) {
        const bars = run.bars.filter((bar) => bar.cpu === cpu.number && bar.tag === tag && fits(bar));
        const owed = run.obligations.filter(
          (one) => one.cpu === cpu.number && one.tag === tag && fits(one));
        if (!bars.length && !owed.length) continue;
        add({ kind: "tag", cpu, tag, label: tag + half(tag),
          marks: run.marks.filter((mark) => mark.cpu === cpu.number && mark.tag === tag),
          cuts: moments.filter((moment) => moment.tag === tag) }, 22);
        const pages = [...new Set([...bars, ...owed].map((one) => one.page))];
        for (const page of pages) {
          const held = bars.filter((bar) => bar.page === page);
          const mine = owed.filter((one) => one.page === page);
          const deep = depth(held);
          add({ kind: "page", cpu, tag, label: page, owed: mine, bars: held, deep },
            PAD + BAR * deep + OWED * depth(mine));
        }
      }
      y += 12;
    }
    state.rows = rows;
    state.height = y + 8;
    const shown = rows.reduce((sum, row) => sum + (row.bars ? row.bars.length : 0), 0);
    root.dataset.bars = String(shown);
    id("shown").textContent = state.filter
      ? `${shown} of ${run.bars.length} entries` : `${run.bars.length} entries, ${run.events} events`;
  }

  function hit(element, thing, kind) {
    element.classList.add("hit");
    element.dataset.kind = kind;
    element.addEventListener("click", (event) => { event.stopPropagation(); select(thing, kind); });
    element.addEventListener("pointerenter", () => explain(thing, kind));
    element.addEventListener("pointerleave", () => explain());
    if (state.selected && state.selected.thing === thing) element.classList.add("selected");
    return element;
  }

  // Things of a row that are in the window; where they are a crowd, none, and a density instead.
  function few(row, things, from, to) {
    const seen = things.filter((one) => visible(from(one), to(one)));
    if (seen.length <= CROWD) return seen;
    const columns = new Uint16Array(Math.ceil(width()) + 1);
    for (const one of seen) {
      const column = Math.round(x(Math.max(from(one), state.from)) - GUTTER);
      if (column >= 0 && column < columns.length) columns[column]++;
    }
    const most = Math.max(...columns);
    let path = "";
    columns.forEach((count, column) => {
      if (count) {
        const high = 3 + (row.height - 7) * count / most;
        path += `M${GUTTER + column} ${row.y + row.height - 2}v${-high}h1v${high}z`;
      }
    });
    const many = make("path", { d: path, class: "many" }, chart);
    make("title", {}, many, `${seen.length} here; zoom in to see each`);
    return [];
  }

  function spans(row) {
    const list = few(row, row.spans, (span) => span.from, (span) => span.to);
    for (const span of list) {
      const left = Math.max(x(span.from), GUTTER), right = Math.min(x(span.to), GUTTER + width());
      const box = make("rect", { x: left, y: row.y + 1, width: Math.max(right - left, 1.5),
        height: row.height - 3, rx: 2, class: row.kind === "phase" ? "phase " + span.text.split(" ")[0] : row.kind }, chart);
      hit(box, span, row.kind);
      const room = Math.floor((right - left - 8) / 6.1);
      if (room >= 3) {
        const text = span.text.length > room ? span.text.slice(0, room - 1) + "…" : span.text;
        make("text", { x: left + 4, y: row.y + row.height / 2 + 3.5, class: "in" }, chart, text);
      }
    }
  }

  const shapes = {
    "cr3": (at, y) => ["circle", { cx: at, cy: y, r: 5 }],
    "cr3-kept": (at, y) => ["circle", { cx: at, cy: y, r: 4.5 }],
    "invalidation": (at, y) => ["path", { d: `M${at - 5} ${y - 5}l10 10M${at + 5} ${y - 5}l-10 10`,
      "stroke": "var(--invalidation)", "stroke-width": 3 }],
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
    "invalidation": "INVLPG, INVPCID, CR4", "store": "page-table store", "mark": "mark made",
    "consume": "mark cleared", "interrupt": "interrupt, exception", "ipi": "IPI sent",
    "acknowledge": "acknowledgement", "fault": "injected", "other": "frame freed, flush deferred" };

  function moments(row) {
    const list = few(row, row.moments, (one) => one.seq, (one) => one.seq);
    for (const one of list) {
      const [name, attributes] = shapes[one.kind](x(one.seq), row.y + row.height / 2);
      const shape = make(name, { ...attributes, class: "m-" + one.kind }, chart);
      hit(shape, one, "moment");
    }
  }

  function bars(row) {
    for (const bar of few(row, row.bars, (bar) => bar.from, (bar) => bar.to ?? run.events)) {
      const to = bar.to ?? run.events;
      const part = (from, until, name) => {
        if (!visible(from, until) || until < from) return;
        const left = Math.max(x(from), GUTTER), right = Math.min(x(until), GUTTER + width());
        const box = make("rect", { x: left, y: row.y + 2 + BAR * bar.row,
          width: Math.max(right - left, 1.5), height: BAR - 2, rx: 2, class: name,
          "data-page": bar.page, "data-tag": bar.tag }, chart);
        hit(box, bar, "bar");
      };
      part(bar.from, bar.stale ?? to, "fresh");
      if (bar.stale !== null) part(bar.stale, to, "stale");
    }
    for (const one of few(row, row.owed, (owed) => owed.from, (owed) => owed.to)) {
      const left = Math.max(x(one.from), GUTTER), right = Math.min(x(one.to), GUTTER + width());
      const y = row.y + 4 + BAR * row.deep + OWED * one.row;
      const d = `M${left} ${y - 3}v5H${Math.max(right, left + 2)}v-5`;
      const line = make("path", { d, class: "owed" + (one.violated ? " violated" : "") }, chart);
      hit(line, one, "owed");
    }
  }

  // A line from the mark that was made to the one that was cleared: this PCID is to be flushed.
  function marks(row) {
    const end = (mark) => mark.to ?? run.events;
    for (const mark of few(row, row.marks, (mark) => mark.from, end)) {
      const left = Math.max(x(mark.from), GUTTER), right = Math.min(x(end(mark)), GUTTER + width());
      const line = make("rect", { x: left, y: row.y + row.height / 2 - 1.5,
        width: Math.max(right - left, 1.5), height: 3, class: "marked" }, chart);
      hit(line, mark, "mark");
    }
  }

  function axis() {
    const span = state.to - state.from;
    const raw = span / Math.max(width() / 90, 1);
    const power = 10 ** Math.floor(Math.log10(Math.max(raw, 1)));
    const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw) || power * 10;
    for (let at = Math.ceil(state.from / step) * step; at <= state.to; at += step) {
      make("line", { x1: x(at), x2: x(at), y1: AXIS - 4, y2: state.height, class: "rule" }, chart);
      make("text", { x: x(at), y: 13, class: "quiet", "text-anchor": "middle" }, chart, String(at));
    }
    make("text", { x: 12, y: 13, class: "quiet" }, chart, "event");
  }

  function draw() {
    chart.replaceChildren();
    chart.setAttribute("height", state.height);
    axis();
    const draws = { step: spans, phase: spans, primitive: spans, moments, page: bars };
    for (const row of state.rows) {
      if (row.kind === "tag") {
        make("rect", { x: 0, y: row.y, width: GUTTER + width() + 14, height: row.height,
          class: "lane" }, chart);
        marks(row);
        for (const cut of few(row, row.cuts, (one) => one.seq, (one) => one.seq)) {
          const [name, attributes] = shapes[cut.kind](x(cut.seq), row.y + row.height / 2);
          hit(make(name, { ...attributes, class: "m-" + cut.kind }, chart), cut, "moment");
        }
      }
      if (draws[row.kind]) draws[row.kind](row);
    }
    for (const violation of run.violations) {
      if (!visible(violation.seq, violation.seq)) continue;
      const at = x(violation.seq);
      make("line", { x1: at, x2: at, y1: AXIS - 8, y2: state.height, class: "here" }, chart);
      const flag = make("path", { d: `M${at - 6} 0h12l-6 9z`, class: "stale" }, chart);
      hit(flag, violation, "violation");
    }
    // The names come last, over what reaches to the left of the window.
    make("rect", { x: 0, y: AXIS, width: GUTTER - 6, height: state.height, class: "gutter" }, chart);
    for (const row of state.rows) {
      if (row.kind === "tag")
        make("rect", { x: 0, y: row.y, width: GUTTER - 6, height: row.height, class: "lane" }, chart);
      const place = { cpu: [12, "cpu"], tag: [22, "tag"], page: [34, "page"] }[row.kind];
      const [left, name] = place || [22, "quiet"];
      const text = make("text", { x: left, y: row.y + Math.min(row.height, 22) / 2 + 5, class: name,
        "data-lane": row.kind }, chart, row.label);
      if (row.kind === "page") text.setAttribute("y", row.y + 12);
    }
    overview();
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
    const at = (seq) => GUTTER + seq / Math.max(run.events, 1) * (wide - GUTTER - 14);
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
      const left = at(bar.stale), right = at(bar.to ?? run.events);
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

  const facts = (list) => {
    const dl = html("dl", detail);
    for (const [name, value] of list) {
      if (value === null || value === undefined || value === "") continue;
      html("dt", dl, name);
      html("dd", dl, String(value));
    }
  };

  const explanations = {
    bar: (bar) => {
      html("h2", detail, `${bar.page} in ${bar.tag}`);
      const gone = run.moments.find((one) => one.seq === bar.to && one.removed > 0);
      facts([["page", bar.address], ["gives", bar.translation], ["filled", `event ${bar.from}`],
        ["stale", bar.stale === null ? null : `since event ${bar.stale}`],
        ["a walk gives", bar.today],
        ["removed", bar.to === null ? "never" : `event ${bar.to}${gone ? ": " + gone.text : ""}`]]);
      html("pre", detail, "walk when it was filled\n" + bar.walk.join("\n"));
    },
    moment: (one) => {
      html("h2", detail, one.text);
      facts([["event", one.seq], ["cpu", one.cpu], ["what", NAMES[one.kind]], ["lane", one.tag],
        ["at", one.place], ["removed", one.removed ? `${one.removed} entries` : null],
        ["of them here", one.pages.join(", ")]]);
    },
    mark: (mark) => {
      html("h2", detail, `${mark.tag} is marked`);
      facts([["means", "it must be flushed when its user tables are next loaded"],
        ["made", `event ${mark.from}`],
        ["cleared", mark.to === null ? "never" : `event ${mark.to}`]]);
    },
    owed: (one) => {
      html("h2", detail, `${one.page} owed in ${one.tag}`);
      facts([["since", `event ${one.from}`], ["until", `event ${one.to}`], ["ended", one.text]]);
    },
    violation: (one) => {
      html("h2", detail, `violated: ${one.rule}`);
      facts([["what", one.message], ["try", one.hint], ["cpu", one.cpu],
        ...one.witness.map((fact) => [fact.name, fact.text])]);
    },
  };
  const lasting = (name) => (span) => {
    html("h2", detail, span.text);
    facts([["what", name], ["from", `event ${span.from}`], ["to", `event ${span.to}`]]);
  };
  explanations.step = lasting("step of the scenario");
  explanations.phase = lasting("phase");
  explanations.primitive = lasting("flush primitive");

  function explain(thing, kind) {
    const shown = thing ? { thing, kind } : state.selected;
    detail.replaceChildren();
    if (shown) explanations[shown.kind](shown.thing);
    else {
      html("h2", detail, "What you see");
      html("p", detail, "A lane for each CPU and in it one for each tag of its TLB. A bar is an "
        + "entry, from its fill to its removal, red from the moment it was stale. A bracket below it "
        + "is what was owed, from the store to what became of it. Point at anything, or select it.");
      html("p", detail, "Test pages are shown, and what an obligation or a violation is about.");
    }
  }

  function select(thing, kind) {
    state.selected = thing ? { thing, kind } : null;
    root.dataset.selected = thing ? kind : "";
    explain();
    draw();
  }

  function look(from, to) {
    const least = Math.min(12, Math.max(run.events, 1));
    let span = Math.min(Math.max(to - from, least), Math.max(run.events, 1));
    from = Math.min(Math.max(from, 0), Math.max(run.events, 1) - span);
    state.from = from;
    state.to = from + span;
    draw();
  }
  const pan = (share) => {
    const step = (state.to - state.from) * share;
    look(state.from + step, state.to + step);
  };
  const zoom = (factor, around = (state.from + state.to) / 2) =>
    look(around - (around - state.from) * factor, around + (state.to - around) * factor);
  const show = (seq) => {
    const span = Math.min(state.to - state.from, 90);
    look(seq - span * 0.7, seq + span * 0.3);
  };

  function violation() {
    if (!run.violations.length) return;
    const current = state.selected && state.selected.kind === "violation"
      ? run.violations.indexOf(state.selected.thing) : -1;
    const one = run.violations[(current + 1) % run.violations.length];
    const owed = run.obligations.find((owed) => owed.violated && owed.to === one.seq);
    const from = owed ? Math.min(owed.from, one.seq - 30) : one.seq - 40;
    state.selected = { thing: one, kind: "violation" };
    root.dataset.selected = "violation";
    look(from - 6, one.seq + Math.max((one.seq - from) * 0.25, 8));
    explain();
  }

  function operation(direction) {
    const list = run.moments;
    const at = state.selected ? state.selected.thing.seq ?? state.selected.thing.from : state.from;
    const next = direction > 0 ? list.find((one) => one.seq > at)
      : list.findLast((one) => one.seq < at);
    if (!next) return;
    if (!visible(next.seq, next.seq)) show(next.seq);
    select(next, "moment");
  }

  // Entries from top to bottom, and in time; the next is brought into view.
  function entry(direction) {
    const list = state.rows.flatMap((row) => row.bars || []);
    if (!list.length) return;
    const at = state.selected ? list.indexOf(state.selected.thing) : -1;
    const next = at < 0 && direction < 0 ? list.length - 1 : (at + direction + list.length) % list.length;
    const bar = list[next];
    if (!visible(bar.from, bar.to ?? run.events)) show(bar.from);
    select(bar, "bar");
    chart.querySelector(".selected")?.scrollIntoView({ block: "nearest" });
  }

  function narrow(text) {
    state.filter = text;
    filter.value = text;
    layout();
    draw();
  }

  function theme(name) {
    root.dataset.theme = name;
    draw();
  }

  const KEYS = [["← →", "move"], ["+ −", "zoom"], ["0", "the whole run"], ["v", "next violation"],
    ["n p", "next, previous operation"], ["e E", "next, previous entry, and its walk"], ["/", "filter by page or PCID"], ["t", "light or dark"],
    ["Esc", "clear filter and selection"], ["?", "this list"]];
  function help() {
    const box = id("help");
    box.hidden = !box.hidden;
    id("keys").setAttribute("aria-expanded", String(!box.hidden));
    draw();
  }

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === filter && event.key !== "Escape") return;
    const actions = {
      "ArrowLeft": () => pan(-0.25), "ArrowRight": () => pan(0.25), "+": () => zoom(0.6),
      "=": () => zoom(0.6), "-": () => zoom(1 / 0.6), "0": () => look(0, run.events),
      "v": violation, "n": () => operation(1), "p": () => operation(-1), "?": help,
      "e": () => entry(1), "E": () => entry(-1),
      "t": () => theme(root.dataset.theme === "dark" ? "light" : "dark"),
      "/": () => filter.focus(),
      "Escape": () => { filter.blur(); narrow(""); select(null); },
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  });
  filter.addEventListener("input", () => narrow(filter.value));
  for (const [name, action] of Object.entries({ previous: () => operation(-1), next: () => operation(1),
    violation, out: () => zoom(1 / 0.6), in: () => zoom(0.6), fit: () => look(0, run.events),
    theme: () => theme(root.dataset.theme === "dark" ? "light" : "dark"), keys: help }))
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
    if (event.target === chart || event.target.tagName !== "path")
      drag = { x: event.clientX, from: state.from, to: state.to };
  });
  addEventListener("pointermove", (event) => {
    if (!drag || Math.abs(event.clientX - drag.x) < 4) return;
    scroll.classList.add("dragging");
    const moved = (event.clientX - drag.x) / width() * (drag.to - drag.from);
    look(drag.from - moved, drag.to - moved);
  });
  for (const over of ["pointerup", "pointercancel"])
    addEventListener(over, () => { drag = null; scroll.classList.remove("dragging"); });
  id("overview").addEventListener("pointerdown", (event) => {
    const wide = id("overview").clientWidth - GUTTER - 14;
    const seq = (event.offsetX - GUTTER) / wide * run.events;
    const span = state.to - state.from;
    look(seq - span / 2, seq + span / 2);
  });
  addEventListener("resize", draw);

  function legend() {
    const box = id("legend");
    const item = (text, fill) => {
      const place = html("span", box);
      fill(make("svg", { viewBox: "0 0 22 13" }, place));
      place.append(text);
    };
    const bar = (name) => (svg) => make("rect", { x: 1, y: 2, width: 20, height: 9, rx: 2, class: name }, svg);
    item("entry", bar("fresh"));
    item("stale", bar("stale"));
    item("owed", (svg) => make("path", { d: "M2 3v6h18v-6", class: "owed" }, svg));
    item("marked", (svg) => make("rect", { x: 1, y: 5, width: 20, height: 3, class: "marked" }, svg));
    item("kernel mode", bar("phase kernel"));
    item("user mode", bar("phase user"));
    for (const kind in NAMES) {
      item(NAMES[kind], (svg) => {
        const [name, attributes] = shapes[kind](11, 6.5);
        make(name, { ...attributes, class: "m-" + kind }, svg);
      });
    }
    html("div", box, run.real).id = "real";
  }

  id("title").textContent = run.scenario;
  const outcome = id("outcome");
  outcome.textContent = run.outcome;
  outcome.classList.toggle("bad", run.outcome !== "clean");
  id("summary").textContent = run.summary;
  id("config").textContent = [run.config, ...run.faults].join(", ") + " · on " + run.executor
    + " · " + run.command;
  id("violation").disabled = !run.violations.length;
  for (const [keys, what] of KEYS) {
    const line = html("div", id("help"));
    for (const key of keys.split(" ")) { html("kbd", line, key); line.append(" "); }
    line.append(what);
  }
  root.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";

  // `#filter=u0&from=10&to=90&theme=dark` opens the page so.
  const asked = new URLSearchParams(location.hash.slice(1));
  state.filter = filter.value = asked.get("filter") || "";
  if (asked.get("theme")) root.dataset.theme = asked.get("theme");
  legend();
  layout();
  explain();
  if (asked.has("from") && asked.has("to")) look(Number(asked.get("from")), Number(asked.get("to")));
  else if (run.violations.length) violation();
  // The events before the first step tell the state that it meets.
  else look(Math.max(Math.min(...run.cpus.flatMap((cpu) => cpu.steps.map((one) => one.from))) - 2, 0),
    Math.min(run.events, 400));
  root.dataset.ready = "1";
})();
