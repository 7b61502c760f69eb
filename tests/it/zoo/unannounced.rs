//! The zoo as an audit sees it: the same runs, judged by what the processor does and by what an audit knows of
//! tasks, and not by what the guest announces.

use super::{runs, zoo};
use stalemate::event::{Announcement, Event, Kind, Observer, TaskId, Trace, TraceHeader};
use stalemate::oracle::Oracle;
use std::collections::BTreeSet;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/unannounced.md");

/// What an audit has been told of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Nothing: its tasks say when a flush is due.
    Nothing,
    /// What a profile's lines give: when flush primitives are called and return, which frames are given back,
    /// and where marks are.
    Profile,
}

impl Told {
    fn has(self, announcement: &Announcement) -> bool {
        self == Self::Profile
            && matches!(
                announcement,
                Announcement::FlushBegins { .. }
                    | Announcement::FlushReturns { .. }
                    | Announcement::FrameFreed(_)
                    | Announcement::Marked { .. }
                    | Announcement::Unmarked { .. }
            )
    }

    fn header(self, header: &TraceHeader) -> TraceHeader {
        let mut header = header.clone();
        header.kernel.runs_freely = true;
        header.kernel.state.retain(|announcement| self.has(announcement));
        if self == Self::Nothing {
            header.kernel.slots.clear();
            header.kernel.trampoline.clear();
        }
        header
    }

    /// The events that are left. Each CPU has one kernel stack, which is its task.
    fn events(self, trace: &Trace) -> Vec<Event> {
        let mut begun = BTreeSet::new();
        let mut events = Vec::new();
        for event in &trace.events {
            let event = event.clone();
            if begun.insert(event.cpu) {
                let task = Announcement::TaskBegins(TaskId(usize::from(event.cpu.0)));
                let kind = Kind::Announced { announcements: vec![task], word: None };
                events.push(Event { kind, ..event.clone() });
            }
            match event.kind {
                Kind::Announced { announcements, word } => {
                    let mut announcements = announcements;
                    announcements.retain(|announcement| self.has(announcement));
                    if !announcements.is_empty() {
                        let kind = Kind::Announced { announcements, word };
                        events.push(Event { kind, ..event });
                    }
                }
                _ => events.push(event),
            }
        }
        events.iter_mut().zip(0..).for_each(|(event, seq)| event.seq = seq);
        events
    }

    fn rules(self, trace: &Trace) -> BTreeSet<String> {
        let header = self.header(trace.header.as_ref().expect("a run"));
        let mut oracle = Oracle::default();
        oracle.begin(&header);
        self.events(trace).iter().for_each(|event| oracle.event(event));
        oracle.violations().iter().map(|violation| violation.rule.to_string()).collect()
    }
}

/// A row of the zoo: what speaks of it as it is broken, and as it is mended, told nothing and by a profile.
struct Row {
    name: String,
    /// The rule that speaks where the guest announces what it does.
    announced: String,
    broken: [BTreeSet<String>; 2],
    mended: [BTreeSet<String>; 2],
    cpus: u8,
}

fn rows() -> Vec<Row> {
    let rigs = crate::common::rigs();
    let rig = rigs.iter().find(|rig| rig.backend.name() == "interp").expect("always there");
    let mut rows = Vec::new();
    for scenario in zoo() {
        let rule = scenario.zoo.as_ref().and_then(|zoo| zoo.rule);
        let mut row = Row {
            name: scenario.name.clone(),
            announced: rule.map_or("none: by a value".to_owned(), |rule| rule.to_string()),
            broken: Default::default(),
            mended: Default::default(),
            cpus: 1,
        };
        for run in runs(&scenario).iter().filter(|run| !run.cost) {
            let trace = rig.with_trace(run).1;
            row.cpus = row.cpus.max(run.config.cpus);
            let of = if run.config.variant.is_some() { &mut row.broken } else { &mut row.mended };
            for (of, told) in of.iter_mut().zip([Told::Nothing, Told::Profile]) {
                of.extend(told.rules(&trace));
            }
        }
        rows.push(row);
    }
    rows
}

fn page(rows: &[Row]) -> String {
    let spoken = |rules: &BTreeSet<String>| match rules.is_empty() {
        true => "**not caught**".to_owned(),
        false => rules.iter().cloned().collect::<Vec<_>>().join(", "),
    };
    let mut table = String::new();
    for row in rows {
        let [nothing, profile] = row.broken.each_ref().map(spoken);
        table += &format!(
            "| [`{}`](zoo.md) | {} | {} | {nothing} | {profile} |\n",
            row.name, row.cpus, row.announced
        );
    }
    let caught = |told: usize| rows.iter().filter(|row| !row.broken[told].is_empty()).count();
    include_str!("unannounced.md")
        .replace("{{rows}}", table.trim_end())
        .replace("{{all}}", &rows.len().to_string())
        .replace("{{nothing}}", &caught(0).to_string())
        .replace("{{profile}}", &caught(1).to_string())
}

#[test]
fn what_an_audit_catches_of_the_zoo_is_what_the_page_says() {
    let rows = rows();
    // Of a kernel without the mistake it says nothing.
    for row in &rows {
        let silence: [BTreeSet<String>; 2] = Default::default();
        assert_eq!(row.mended, silence, "{}: a false alarm", row.name);
    }
    let page = page(&rows);
    if std::env::var_os("STALEMATE_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(FILE, &page).expect("docs can be written");
    }
    let text = std::fs::read_to_string(FILE).unwrap_or_default();
    assert_eq!(text, page, "docs/unannounced.md is out of date: STALEMATE_BLESS=1 writes it");
}
