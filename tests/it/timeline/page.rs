//! The page, in a browser.

use super::browser::{attribute, chromium, headless};
use super::{drawn, dropped_mark, long};
use stalemate::report::{Timeline, html};
use std::path::Path;

/// Opens the page, with this script run after its own, and gives the document as it is then.
fn opened(browser: &Path, timeline: &Timeline, name: &str, hash: &str, script: &str) -> String {
    let page = html(timeline);
    let driver = format!("<script>{script}</script></body>");
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.html"));
    std::fs::write(&file, page.replace("</body>", &driver)).expect("a file");
    let output = headless(browser, &file.with_extension("profile"))
        .args(["--virtual-time-budget=4000", "--dump-dom"])
        .arg(format!("file://{}#{hash}", file.display()))
        .output()
        .expect("the browser starts");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let logged: Vec<&str> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(logged.is_empty(), "{name}: {logged:?}");
    let document = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(attribute(&document, "data-ready"), "1", "{name}: {log}");
    assert_eq!(attribute(&document, "data-errors"), "0", "{name}");
    document
}

/// How many elements of a class there are in the chart.
fn count(document: &str, class: &str) -> usize {
    let of = |tag: &&str| {
        let classes = tag.split_once("class=\"").and_then(|(_, rest)| rest.split_once('"'));
        classes.is_some_and(|(classes, _)| classes.split(' ').any(|one| one == class))
    };
    let chart = document.split_once("id=\"chart\"").expect("a chart").1;
    chart.split_once("<aside").expect("a panel").0.split('<').filter(of).count()
}

#[test]
fn the_page_opens_at_the_violation() {
    let Some(browser) = chromium() else { return };
    let timeline = dropped_mark();
    let page = opened(&browser, &timeline, "violation", "", "");
    assert_eq!(attribute(&page, "data-selected"), "violation");
    assert_eq!(attribute(&page, "data-bars"), timeline.bars.len().to_string());
    assert!(page.contains("violated: stale-user-entry") && page.contains(">PCID 0x801 user<"));
    assert!(count(&page, "stale") >= 2 && count(&page, "fresh") >= 2);
    assert!(count(&page, "violated") == 1 && count(&page, "here") == 1);
    assert!(count(&page, "m-cr3-kept") >= 2 && count(&page, "m-fault") == 1);
    assert!(count(&page, "user") == 2 && count(&page, "kernel") == 3);
    assert!(count(&page, "step") >= 3 && count(&page, "marked") == 0);
}

/// Notes the value of an expression of the page as an attribute of its root.
fn noted(name: &str, expression: &str) -> String {
    format!("document.documentElement.dataset.{name} = String({expression});")
}

/// A key that is pressed, wherever the focus is.
fn key(name: &str) -> String {
    format!(
        "(document.activeElement || document.body).dispatchEvent(
           new KeyboardEvent('keydown', {{ key: '{name}', bubbles: true, cancelable: true }}));"
    )
}

const HEADING: &str = "document.querySelector('#detail h2').textContent";

#[test]
fn the_filter_takes_pages_addresses_and_pcids() {
    let Some(browser) = chromium() else { return };
    let timeline = drawn(&crate::common::builtin("shootdown"), "pcid", &[]);
    let bars = |fits: &dyn Fn(&str, &str) -> bool| {
        let all = timeline.bars.iter();
        all.filter(|bar| fits(&bar.page, &bar.tag)).count().to_string()
    };
    let script = noted("owed", "document.querySelectorAll('#chart .owed').length")
        + &noted("operations", "document.querySelectorAll('#chart [data-kind=moment]').length");
    let open = |name: &str, filter: &str| {
        let end = timeline.events;
        let hash = format!("filter={filter}&from=0&to={end}");
        opened(&browser, &timeline, name, &hash, &script)
    };
    let page = open("filter-page", "u0");
    assert_eq!(attribute(&page, "data-bars"), bars(&|page, _| page == "u0"));
    assert!(page.contains("data-page=\"u0\"") && !page.contains("data-page=\"k0\""));
    let owed = timeline.obligations.iter().filter(|owed| owed.page == "u0").count();
    assert!(owed > 2 && attribute(&page, "data-owed") == owed.to_string());
    let address = open("filter-address", "0x410000");
    for what in ["data-bars", "data-owed"] {
        assert_eq!(attribute(&address, what), attribute(&page, what), "{what}");
    }
    // A number is the same however it is written.
    for filter in ["0x802", "0x0802", "2050", "pcid 0x802"] {
        let page = open("filter-pcid", &filter.replace(' ', "%20"));
        assert_eq!(attribute(&page, "data-bars"), bars(&|_, tag| tag == "PCID 0x802"), "{filter}");
    }
    let none = open("filter-none", "k9");
    for what in ["data-bars", "data-owed", "data-operations"] {
        assert_eq!(attribute(&none, what), "0", "{what}");
    }
}

#[test]
fn the_keyboard_reaches_everything() {
    let Some(browser) = chromium() else { return };
    let timeline = drawn(&crate::common::builtin("shootdown"), "pcid", &[]);
    let window = "[state.from, state.to].map(Math.round).join(' ')";
    let mut script = String::new();
    let mut press = |keys: &[&str], note: &str, expression: &str| {
        keys.iter().for_each(|name| script += &key(name));
        script += &noted(note, expression);
    };
    // The page's script is one function; what it keeps is read off the document.
    let window = window.replace("state.", "+document.documentElement.dataset.");
    press(&["0"], "whole", &window);
    press(&["+"], "near", &window);
    press(&["ArrowRight"], "right", &window);
    press(&["-", "0"], "again", &window);
    press(&["n"], "first", HEADING);
    press(&["n", "p"], "back", HEADING);
    press(&["e"], "entry", HEADING);
    press(&["."], "second", HEADING);
    press(&["Escape", "ArrowDown"], "down", HEADING);
    press(&["ArrowDown"], "below", HEADING);
    press(&["ArrowUp", "."], "beside", HEADING);
    press(&["?"], "help", "document.getElementById('help').hidden");
    press(&["Escape"], "closed", "document.getElementById('help').hidden");
    press(&["t"], "dark", "document.documentElement.dataset.theme");
    press(&["/"], "focus", "document.activeElement.id");
    press(&["Escape"], "left", HEADING);
    let page = opened(&browser, &timeline, "keyboard", "theme=light", &script);
    let note = |name: &str| attribute(&page, &format!("data-{name}"));
    let end = timeline.events;
    assert_eq!(note("whole"), format!("0 {end}"));
    let ends = |name: &str| -> Vec<u64> {
        note(name).split(' ').map(|end| end.parse().expect("a number")).collect()
    };
    let (near, right) = (ends("near"), ends("right"));
    assert!(0 < near[0] && near[1] < end && right[0] > near[0], "{near:?} {right:?}");
    assert_eq!(note("again"), note("whole"));
    assert_eq!((note("first"), note("back")), (timeline.moments[0].text.clone(), note("first")));
    let first = &timeline.bars[0];
    assert_eq!(note("entry"), format!("{} in {}", first.page, first.tag));
    assert!(!note("second").is_empty());
    let steps = &timeline.cpus[0].steps;
    assert_eq!((note("down"), note("beside")), (steps[0].text.clone(), steps[1].text.clone()));
    assert_eq!(note("below"), "kernel mode");
    assert_eq!((note("help"), note("closed")), ("false".into(), "true".into()));
    assert_eq!((note("dark"), note("focus")), ("dark".into(), "filter".into()));
    assert_eq!(note("left"), "What you see");
}

#[test]
fn what_is_pointed_at_is_explained_and_what_is_clicked_is_kept() {
    let Some(browser) = chromium() else { return };
    let timeline = drawn(&crate::common::builtin("user-flush-on-next-return"), "pcid", &[]);
    // As a finger does it: what is under a point three pixels beside the thing.
    let mut script = "const tap = (name, below) => {
            const box = document.querySelector(`#chart .${name}`).getBoundingClientRect();
            const at = [box.x + box.width / 2, box.bottom + below];
            const under = document.elementFromPoint(...at);
            under.dispatchEvent(new PointerEvent('pointerenter'));
            const pointed = document.querySelector('#detail h2').textContent;
            under.dispatchEvent(new PointerEvent('pointerleave'));
            under.dispatchEvent(new MouseEvent('click', { bubbles: true }));
            return pointed; };"
        .to_owned();
    for (note, class, below) in
        [("mark", "marked", 3), ("owed", "owed", 2), ("cr3", "m-cr3", 3), ("bar", "fresh", -4)]
    {
        script += &noted(note, &format!("tap('{class}', {below})"));
        script += &noted(&format!("{note}Kept"), HEADING);
    }
    let page = opened(&browser, &timeline, "tapped", "", &script);
    let note = |name: &str| attribute(&page, &format!("data-{name}"));
    assert_eq!(note("mark"), "PCID 0x801 is marked");
    assert_eq!(note("owed"), "u0 owed in PCID 0x001");
    assert!(note("cr3").starts_with("MOV CR3: PCID 0x801"), "{}", note("cr3"));
    assert_eq!(note("bar"), "u0 in PCID 0x001");
    for name in ["mark", "owed", "cr3", "bar"] {
        assert_eq!(note(name), note(&format!("{name}-kept")));
    }
    // The last one is an entry: its walk is there.
    assert!(page.contains("walk when it was filled") && page.contains("L4 ["));
}

#[test]
fn the_violation_is_in_view_when_the_page_opens() {
    let Some(browser) = chromium() else { return };
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../scenarios/compare/shootdown-4.toml");
    let text = std::fs::read_to_string(path).expect("a file");
    let scenario = stalemate::scenario::parse("shootdown-4", path, &text).expect("legal");
    let timeline = drawn(&scenario, "pcid", &["early ack"]);
    let script = noted(
        "inside",
        "(() => { const view = document.getElementById('scroll').getBoundingClientRect();
            const box = document.querySelector('#chart .violated').getBoundingClientRect();
            return box.top >= view.top && box.bottom <= view.bottom; })()",
    ) + "for (let i = 0; i < 40; i++)"
        + &key("e")
        + &noted(
            "entry",
            "(() => { const view = document.getElementById('scroll').getBoundingClientRect();
                const box = document.querySelector('#chart .selected').getBoundingClientRect();
                return document.getElementById('scroll').scrollTop > 0
                  && box.top >= view.top && box.bottom <= view.bottom; })()",
        );
    let page = opened(&browser, &timeline, "in-view", "", &script);
    assert_eq!(attribute(&page, "data-inside"), "true");
    assert_eq!(attribute(&page, "data-entry"), "true");
}

#[test]
fn a_run_that_no_rule_explains_is_explained() {
    let Some(browser) = chromium() else { return };
    let timeline = drawn(&crate::common::builtin("shootdown"), "pcid", &["drop ipi"]);
    assert_eq!(timeline.outcome, "hang");
    let page = opened(&browser, &timeline, "hang", "", "");
    assert!(page.contains("Why: hang"), "{:?}", timeline.remarks);
    assert!(page.contains(", within flush_tlb_one_user"), "{:?}", timeline.remarks);
}

#[test]
fn fifty_thousand_events_are_drawn_as_few_elements() {
    let Some(browser) = chromium() else { return };
    let timeline = long();
    assert!(timeline.events > 50_000, "{} events", timeline.events);
    let end = timeline.events;
    let page = opened(&browser, &timeline, "long", &format!("from=0&to={end}"), "");
    let elements = page.split_once("id=\"chart\"").expect("a chart").1.matches("<rect").count();
    assert!(elements < 3000 && count(&page, "many") > 3, "{elements} elements");
    let red = page.split("many stale\"").count() > 1 || page.contains("class=\"many stale");
    assert!(red, "what is stale is red from any distance");
    let page = opened(&browser, &timeline, "long-near", "from=25000&to=25100", "");
    assert!(
        count(&page, "fresh") >= 3 && count(&page, "m-store") >= 1 && count(&page, "many") == 0
    );
}

#[test]
fn a_mark_is_a_line_from_its_store_to_its_consumption() {
    let Some(browser) = chromium() else { return };
    let timeline = drawn(&crate::common::builtin("user-flush-on-next-return"), "pcid", &[]);
    let page = opened(&browser, &timeline, "mark", "", "");
    assert_eq!(count(&page, "marked"), 1);
    // Each is in the lane of the operations, and in that of the PCID.
    assert_eq!((count(&page, "m-mark"), count(&page, "m-consume")), (2, 2));
    assert!(page.contains(&timeline.real), "what was real is said on the page");
}

#[test]
fn entries_that_overlap_are_both_seen() {
    let Some(browser) = chromium() else { return };
    let timeline = dropped_mark();
    assert!(timeline.bars.iter().any(|bar| bar.row == 1), "the old entry and the new one");
    let script = "const of = (name) => [...document.querySelectorAll(
            `#chart .${name}[data-tag='PCID 0x801']`)].map((one) => one.getBBox());
        const apart = (a, b) => a.x >= b.x + b.width || b.x >= a.x + a.width
          || a.y >= b.y + b.height || b.y >= a.y + a.height;
        const all = [...of('fresh'), ...of('stale')];
        document.documentElement.dataset.drawn = all.length;
        document.documentElement.dataset.apart =
          all.every((a, i) => all.slice(i + 1).every((b) => apart(a, b)));";
    let page = opened(&browser, &timeline, "overlap", "", script);
    assert_eq!(attribute(&page, "data-drawn"), "3");
    assert_eq!(attribute(&page, "data-apart"), "true");
}

#[test]
fn no_text_of_a_scenario_is_markup() {
    let Some(browser) = chromium() else { return };
    let hostile = "<!--<script>{{data}}</script><b id=\"b\">\u{2028}";
    let timeline = Timeline {
        scenario: hostile.to_owned(),
        summary: hostile.to_owned(),
        command: hostile.to_owned(),
        ..dropped_mark()
    };
    let script = "document.documentElement.dataset.bold = document.querySelectorAll('b').length;
        document.documentElement.dataset.same = String(document.getElementById('title').textContent
          === document.getElementById('summary').textContent);";
    let page = opened(&browser, &timeline, "hostile", "", script);
    assert_eq!(attribute(&page, "data-bold"), "0");
    assert_eq!(attribute(&page, "data-same"), "true");
    assert!(page.contains("&lt;!--&lt;script&gt;{{data}}"), "it is shown as it is");
}
