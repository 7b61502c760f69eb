// The panel that explains, the legend and the heading.
const facts = (list) => {
  const dl = html("dl", detail);
  for (const [name, value] of list) {
    if (value === null || value === undefined || value === "") continue;
    html("dt", dl, name);
    html("dd", dl, String(value));
  }
};
const lasting = (name) => (span) => {
  html("h2", detail, span.text);
  facts([["what", name], ["from", `event ${span.from}`], ["to", `event ${span.to}`]]);
};

const explanations = {
  step: lasting("step of the scenario"),
  phase: lasting("phase"),
  primitive: lasting("flush primitive"),
  bar: (bar) => {
    html("h2", detail, `${bar.page} in ${bar.tag}`);
    const gone = run.moments.find((one) => one.seq === bar.to);
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
  owed: (owed) => {
    html("h2", detail, `${owed.page} owed in ${owed.tag}`);
    facts([["since", `event ${owed.from}`], ["until", `event ${owed.to}`], ["ended", owed.text]]);
  },
  violation: (one) => {
    html("h2", detail, `violated: ${one.rule}`);
    facts([["what", one.message], ["try", one.hint], ["cpu", one.cpu],
      ...one.witness.map((fact) => [fact.name, fact.text]), ["run", run.remarks.join("\n")]]);
  },
};

// What the pointer is at, else what is selected, else what the page is.
function explain(thing, kind) {
  const shown = thing ? { thing, kind } : state.selected;
  detail.replaceChildren();
  if (shown) {
    explanations[shown.kind](shown.thing);
    return;
  }
  if (run.remarks.length) {
    html("h2", detail, run.as_expected ? "This run" : `Why: ${run.outcome}`);
    html("pre", detail, run.remarks.join("\n"));
  }
  html("h2", detail, "What you see");
  html("p", detail, "A lane for each CPU and in it one for each tag of its TLB. A bar is an entry, "
    + "from its fill to its removal, red from the moment it was stale. A bracket below it is what was "
    + "owed, from the store to what became of it. A line in the lane of a user PCID is its mark, "
    + "until it is consumed. Point at anything, or select it.");
  html("p", detail, "Test pages are shown, and what an obligation or a violation is about.");
}

function legend() {
  const box = id("legend");
  const item = (text, fill) => {
    const span = html("span", box);
    fill(make("svg", { viewBox: "0 0 22 13", "aria-hidden": "true" }, span));
    span.append(text);
  };
  const bar = (name) => (svg) =>
    make("rect", { x: 1, y: 2, width: 20, height: 9, rx: 2, class: name }, svg);
  item("entry", bar("fresh"));
  item("stale", bar("stale"));
  item("owed", (svg) => make("path", { d: "M2 3v6h18v-6", class: "owed" }, svg));
  item("marked", (svg) => make("rect", { x: 1, y: 5, width: 20, height: 3, class: "marked" }, svg));
  item("kernel mode", bar("phase kernel"));
  item("user mode", bar("phase user"));
  // What does not happen in this run needs no explanation.
  const kinds = new Set(run.moments.map((one) => one.kind));
  for (const kind in NAMES) {
    if (!kinds.has(kind)) continue;
    item(NAMES[kind], (svg) => {
      const [name, attributes] = shapes[kind](11, 6.5);
      make(name, { ...attributes, class: "m-" + kind }, svg);
    });
  }
  html("div", box, run.real).id = "real";
}

function heading() {
  id("title").textContent = run.scenario;
  const outcome = id("outcome");
  const caught = run.as_expected && run.outcome !== "clean";
  outcome.textContent = caught ? `${run.outcome}, as expected` : run.outcome;
  outcome.classList.toggle("bad", !run.as_expected);
  id("summary").textContent = run.summary;
  id("config").textContent =
    `${[run.config, ...run.faults].join(", ")} · on ${run.executor} · ${run.command}`;
  id("violation").disabled = !run.violations.length;
}
