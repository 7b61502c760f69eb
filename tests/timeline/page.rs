//! The page, in a browser.

use super::browser::{attribute, chromium, headless};
use super::{common, drawn, dropped_mark, long};
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

#[test]
fn the_filter_filters_and_the_keyboard_works() {
    let Some(browser) = chromium() else { return };
    let timeline = drawn(&common::builtin("shootdown"), "pcid", &[]);
    let bars = |fits: &dyn Fn(&str, &str) -> bool| {
        let all = timeline.bars.iter();
        all.filter(|bar| fits(&bar.page, &bar.tag)).count().to_string()
    };
    let page = opened(&browser, &timeline, "filter", "filter=u0", "");
    assert_eq!(attribute(&page, "data-bars"), bars(&|page, _| page == "u0"));
    assert!(page.contains("data-page=\"u0\"") && !page.contains("data-page=\"k0\""));
    let page = opened(&browser, &timeline, "filter-pcid", "filter=0x802", "");
    assert_eq!(attribute(&page, "data-bars"), bars(&|_, tag| tag == "PCID 0x802"));
    // Typed, then cleared by Escape; the next operation is selected; then a click on an entry.
    let script = "const key = (key, to = window) => \
                  to.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
        key('/'); const f = document.activeElement; f.value = 'k0';
        f.dispatchEvent(new Event('input'));
        document.body.dataset.typed = document.documentElement.dataset.bars;
        key('Escape', f); document.body.dataset.cleared = document.documentElement.dataset.bars;
        key('n'); document.body.dataset.next = document.documentElement.dataset.selected;
        key('+'); key('0'); key('ArrowRight'); key('?'); key('t');
        key('e'); document.body.dataset.entry = document.querySelector('#detail h2').textContent;
        key('e'); document.body.dataset.second = document.querySelector('#detail h2').textContent;
        key('E'); key('Escape');
        const point = (name) => document.querySelector('#chart .marked')
          .dispatchEvent(new PointerEvent(name));
        point('pointerenter');
        document.body.dataset.hover = document.querySelector('#detail h2').textContent;
        point('pointerleave');
        document.body.dataset.left = document.querySelector('#detail h2').textContent;
        document.querySelector('#chart .fresh')
          .dispatchEvent(new MouseEvent('click', { bubbles: true }));";
    let page = opened(&browser, &timeline, "keyboard", "theme=light", script);
    let body = |name: &str| {
        let body = page.split_once("<body").expect("a body").1.split_once('>').expect("a body").0;
        let value = body.split_once(&format!("data-{name}=\"")).expect("it was driven").1;
        value.split_once('"').expect("a value").0.to_owned()
    };
    assert_eq!(body("typed"), bars(&|page, _| page == "k0"));
    assert_eq!(body("cleared"), timeline.bars.len().to_string());
    assert_eq!(body("next"), "moment");
    let first = &timeline.bars[0];
    assert_eq!(body("entry"), format!("{} in {}", first.page, first.tag));
    assert_ne!(body("second"), "");
    assert!(body("hover").ends_with(" is marked"), "{}", body("hover"));
    assert_eq!(body("left"), "What you see");
    assert_eq!(attribute(&page, "data-selected"), "bar");
    assert_eq!(attribute(&page, "data-theme"), "dark");
    assert!(page.contains("walk when it was filled") && page.contains("L4 ["));
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
    let page = opened(&browser, &timeline, "long-near", "from=25000&to=25100", "");
    assert!(
        count(&page, "fresh") >= 3 && count(&page, "m-store") >= 1 && count(&page, "many") == 0
    );
}

#[test]
fn a_mark_is_a_line_from_its_store_to_its_consumption() {
    let Some(browser) = chromium() else { return };
    let timeline = drawn(&common::builtin("user-flush-on-next-return"), "pcid", &[]);
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
