//! The tables of the fault grammar: every form, and the names in it. `list faults` prints them.
//!
//! A target for something new is a row of `TARGETS` and one row of [`FORMS`] for each action
//! that fits it.

use super::fault::{Action, Point, Site, Target};
use stalemate_shared::page::Page;

/// Every form of a fault but for its occurrence, with one line of help. SITE, POINT and PAGE stand
/// for one of [`SITES`], one of [`POINTS`] and a test page. What is not in this table is refused.
pub const FORMS: [(&str, &str); 50] = [
    // The marks of user PCIDs.
    ("drop mark", "the store that marks a user PCID does not happen"),
    ("repeat mark", "the store that marks a user PCID happens twice"),
    ("delay mark", "the store that marks a user PCID happens late"),
    ("alter mark", "the mark goes to the ASID's bit where the kernel PCID's belongs"),
    ("alter mark-asid", "the mark goes to the next ASID's bit"),
    ("drop consume", "the store that clears a mark on the return path does not happen"),
    ("early consume", "a mark is cleared as soon as it is made, and nothing is flushed"),
    ("clear-mark@paranoid-exit", "the paranoid exit clears the marks that it finds"),
    // What other ASIDs are owed.
    ("drop invalidate-other", "the store that makes other ASIDs flush does not happen"),
    ("early invalidate-other", "the flag is cleared as soon as it is set, and nothing is flushed"),
    ("delay invalidate-other", "the store that makes other ASIDs flush happens late"),
    // Generations.
    ("drop generation", "the store of an ASID slot's TLB generation does not happen"),
    (
        "early generation",
        "when a flush of an address space that is not loaded returns, its slot has the new \
         generation already, and nothing is flushed",
    ),
    (
        "drop mm-generation",
        "the store that raises an address space's TLB generation does not happen",
    ),
    // Invalidations.
    ("drop invlpg", "an INVLPG does not happen"),
    ("repeat invlpg", "an INVLPG happens twice"),
    ("delay invlpg", "an INVLPG happens late"),
    ("alter invlpg", "an INVLPG is of the next page"),
    ("drop invpcid", "an INVPCID does not happen"),
    ("repeat invpcid", "an INVPCID happens twice"),
    ("delay invpcid", "an INVPCID happens late"),
    ("alter invpcid", "an INVPCID is of the other PCID of the pair"),
    ("drop cr4", "a CR4 write does not happen"),
    ("repeat cr4", "a CR4 write happens twice"),
    ("delay cr4", "a CR4 write happens late"),
    ("alter cr4", "a CR4 write leaves PGE as it is"),
    // CR3 loads.
    ("drop cr3@SITE", "a CR3 load does not happen"),
    ("repeat cr3@SITE", "a CR3 load happens twice"),
    ("delay cr3@SITE", "a CR3 load happens late"),
    ("set noflush@SITE", "a CR3 load keeps what it should flush"),
    ("clear noflush@SITE", "a CR3 load flushes what it could keep"),
    ("alter pcid@SITE", "bit 11 of a CR3 load is flipped"),
    ("clear root@SITE", "bit 12 of a CR3 load is forgotten"),
    // Shootdowns.
    ("drop ipi", "an interrupt to another CPU is not sent"),
    ("repeat ipi", "an interrupt to another CPU is sent twice"),
    ("delay ipi", "an interrupt to another CPU is sent late, at the latest when its sender waits"),
    ("drop ack", "the store by which a CPU acknowledges does not happen"),
    ("repeat ack", "the store by which a CPU acknowledges happens twice"),
    ("delay ack", "a CPU's acknowledgement comes late, at the latest when a CPU waits"),
    ("early ack", "a CPU acknowledges as soon as it takes notice, before it flushes"),
    // The processor, at a point.
    ("nmi@POINT", "an NMI arrives"),
    ("irq@POINT", "an interrupt is raised"),
    (
        "nmi@each",
        "an NMI arrives, in a run of its own, at each instruction boundary; `#2..4` of steps 2 to 4",
    ),
    (
        "irq@each",
        "an interrupt is raised, in a run of its own, at each instruction boundary; `#2..4` of \
         steps 2 to 4",
    ),
    (
        "preempt@each",
        "the CPU that `until` holds back comes in, in a run of its own, at each instruction boundary, \
         until its step is over or it waits; `#2..4` of steps 2 to 4",
    ),
    ("evict PAGE@POINT", "what the current PCID caches of the page goes; with fills on demand"),
    ("speculate PAGE@POINT", "the page is cached though nobody used it; with fills on demand"),
    (
        "set-registers@POINT",
        "the VMM writes the virtual CPU's registers, CR3 among them, with the values they have",
    ),
    // Errata.
    (
        "erratum invlpg-keeps-globals",
        "with CR4.PCIDE, INVLPG leaves global entries (ADL063, RPL042; Linux ce0b15d11ad8)",
    ),
    ("erratum invpcid-gp", "an INVPCID that the processor has raises #GP"),
];

/// What `delay` means, said once for all forms.
pub const DELAY: &str = "What happens late happens right before the next operation of the same \
     kind (which is then the one that is late, where all are meant), or when its step is over.";

/// The names of sites.
pub const SITES: [(&str, Site); 7] = [
    ("return", Site::Return),
    ("entry", Site::Entry),
    ("switch", Site::Switch),
    ("flush", Site::Flush),
    ("paranoid-entry", Site::ParanoidEntry),
    ("paranoid-exit", Site::ParanoidExit),
    ("any", Site::Any),
];

/// The names of points.
pub const POINTS: [(&str, Point); 7] = [
    ("after-mark", Point::AfterMark),
    ("before-user-cr3", Point::BeforeUserCr3),
    ("after-user-cr3", Point::AfterUserCr3),
    ("after-cr4", Point::AfterCr4),
    ("flush-begin", Point::FlushBegin),
    ("flush-end", Point::FlushEnd),
    ("step", Point::Step),
];

/// Points that one form each is about.
pub(super) const OWN_POINTS: [(&str, Point); 2] =
    [("each", Point::Each), ("paranoid-exit", Point::ParanoidExit)];

/// The names of actions.
pub(super) const ACTIONS: [(&str, Action); 15] = [
    ("drop", Action::Drop),
    ("repeat", Action::Repeat),
    ("delay", Action::Delay),
    ("early", Action::Early),
    ("alter", Action::Alter),
    ("set", Action::Set),
    ("clear", Action::Clear),
    ("erratum", Action::Erratum),
    ("nmi", Action::Nmi),
    ("irq", Action::Irq),
    ("preempt", Action::Preempt),
    ("clear-mark", Action::ClearMark),
    ("evict", Action::Evict),
    ("speculate", Action::Speculate),
    ("set-registers", Action::SetRegisters),
];

/// The names of operations.
pub(super) const TARGETS: [(&str, Target); 17] = [
    ("mark", Target::Mark),
    ("mark-asid", Target::MarkAsid),
    ("consume", Target::Consume),
    ("invalidate-other", Target::InvalidateOther),
    ("generation", Target::Generation),
    ("mm-generation", Target::MmGeneration),
    ("invlpg", Target::Invlpg),
    ("invpcid", Target::Invpcid),
    ("cr4", Target::Cr4),
    ("cr3", Target::Cr3),
    ("noflush", Target::Noflush),
    ("pcid", Target::Pcid),
    ("root", Target::Root),
    ("invlpg-keeps-globals", Target::InvlpgKeepsGlobals),
    ("invpcid-gp", Target::InvpcidGp),
    ("ipi", Target::Ipi),
    ("ack", Target::Ack),
];

pub(super) fn find<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(known, _)| *known == name).map(|&(_, value)| value)
}

pub(super) fn name_of<T: Copy + PartialEq>(table: &[(&'static str, T)], value: T) -> &'static str {
    table.iter().find(|(_, known)| *known == value).map_or("?", |(name, _)| name)
}

pub(super) fn names<T>(table: &[(&'static str, T)]) -> Vec<&'static str> {
    table.iter().map(|(name, _)| *name).collect()
}

/// The form that a fault has, if it is one, and its line of help. A fault's site, point or page
/// may be written as in the table.
#[must_use]
pub fn form_of(text: &str) -> Option<(&'static str, &'static str)> {
    let text = text.split('#').next().unwrap_or_default().trim();
    let (head, place) = text.split_once('@').map_or((text, None), |(a, b)| (a.trim(), Some(b)));
    let words: Vec<&str> = head.split_whitespace().collect();
    let of_page = |known: &str| match (known.strip_suffix(" PAGE"), &words[..]) {
        (Some(action), &[first, page]) => {
            first == action && (page == "PAGE" || page.parse::<Page>().is_ok())
        }
        _ => false,
    };
    let known_place = |kind: &str| match (kind, place) {
        ("SITE", Some(place)) => place == kind || find(&SITES, place).is_some(),
        ("POINT", Some(place)) => place == kind || find(&POINTS, place).is_some(),
        (own, place) => place == Some(own),
    };
    let fits = |(known, _): &&(&'static str, &'static str)| match known.split_once('@') {
        None => *known == text,
        Some((known, kind)) => (known == head || of_page(known)) && known_place(kind),
    };
    FORMS.iter().find(fits).copied()
}
