//! The fault grammar: the same text in a scenario file and on the command line.
//!
//! ```text
//! drop mark#1    set noflush@return    alter pcid@entry#2    nmi@after-mark
//! ```

use crate::scenario::nearest;
use std::fmt;
use std::str::FromStr;

/// What is done to the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It does not happen.
    Drop,
    /// It happens twice.
    Repeat,
    /// It happens with a wrong operand.
    Alter,
    /// A bit of its operand is set.
    Set,
    /// A bit of its operand is cleared.
    Clear,
    /// The marks are cleared as if they had been consumed.
    ClearMark,
    /// An NMI arrives.
    Nmi,
    /// An interrupt arrives.
    Irq,
}

/// What it is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A store that sets a bit of `user_pcid_flush_mask`.
    Mark,
    /// A store that clears one.
    Consume,
    /// A store that sets `invalidate_other`.
    InvalidateOther,
    /// INVLPG.
    Invlpg,
    /// INVPCID.
    Invpcid,
    /// A CR4 write.
    Cr4,
    /// A CR3 load.
    Cr3,
    /// The NOFLUSH bit of a CR3 load.
    Noflush,
    /// The PCID of a CR3 load.
    Pcid,
    /// A point in time.
    Point(Point),
}

/// Named points at which an NMI can arrive, or marks can be cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Point {
    /// Right after a mark was made.
    AfterMark,
    /// Before a user CR3 load.
    BeforeUserCr3,
    /// After a user CR3 load.
    AfterUserCr3,
    /// At the IRETQ that ends the paranoid exit.
    ParanoidExit,
    /// At every instruction boundary, in a run of its own each.
    Each,
}

/// Where a CR3 load stands in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Site {
    /// The return to user mode.
    Return,
    /// The entry from user mode.
    Entry,
    /// `switch_mm`.
    Switch,
    /// The flush primitives.
    Flush,
    /// The paranoid entry.
    ParanoidEntry,
    /// The paranoid exit.
    ParanoidExit,
}

/// Which occurrences, counted from the first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Occurrence {
    /// Each.
    All,
    /// The nth, from 1.
    Nth(u32),
    /// Of every boundary: those within these steps, counted from 1.
    Steps(u32, u32),
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// What is done.
    pub action: Action,
    /// To what.
    pub target: Target,
    /// For CR3 loads, where.
    pub site: Option<Site>,
    /// How often.
    pub occurrence: Occurrence,
}

/// Every form of a fault but for site and occurrence, with one line of help.
pub const FORMS: [(&str, &str); 25] = [
    ("drop invalidate-other", "the store that makes other ASIDs flush does not happen"),
    ("drop mark", "the store that marks a user PCID does not happen"),
    ("repeat mark", "the store that marks a user PCID happens twice"),
    ("alter mark", "the mark goes to the ASID's bit where the kernel PCID's belongs"),
    ("drop consume", "the store that clears a mark on the return path does not happen"),
    ("drop invlpg", "an INVLPG does not happen"),
    ("repeat invlpg", "an INVLPG happens twice"),
    ("alter invlpg", "an INVLPG is of the next page"),
    ("drop invpcid", "an INVPCID does not happen"),
    ("repeat invpcid", "an INVPCID happens twice"),
    ("alter invpcid", "an INVPCID is of the other PCID of the pair"),
    ("drop cr4", "a CR4 write does not happen"),
    ("repeat cr4", "a CR4 write happens twice"),
    ("alter cr4", "a CR4 write leaves PGE as it is"),
    ("drop cr3@SITE", "a CR3 load does not happen"),
    ("repeat cr3@SITE", "a CR3 load happens twice"),
    ("set noflush@SITE", "a CR3 load keeps what it should flush"),
    ("clear noflush@SITE", "a CR3 load flushes what it could keep"),
    ("alter pcid@SITE", "bit 11 of a CR3 load is flipped"),
    ("clear-mark@paranoid-exit", "the paranoid exit clears the marks that it finds"),
    ("nmi@after-mark", "an NMI arrives right after a mark was made"),
    ("nmi@before-user-cr3", "an NMI arrives before the user CR3 is loaded"),
    ("nmi@after-user-cr3", "an NMI arrives after the user CR3 was loaded"),
    (
        "nmi@each",
        "an NMI arrives, in a run of its own, at each instruction boundary; `#2..4` of steps 2 to 4",
    ),
    (
        "irq@each",
        "an interrupt is raised, in a run of its own, at each instruction boundary; `#2..4` of steps 2 to 4",
    ),
];

/// The names of sites.
pub const SITES: [(&str, Site); 6] = [
    ("return", Site::Return),
    ("entry", Site::Entry),
    ("switch", Site::Switch),
    ("flush", Site::Flush),
    ("paranoid-entry", Site::ParanoidEntry),
    ("paranoid-exit", Site::ParanoidExit),
];

const POINTS: [(&str, Point); 3] = [
    ("after-mark", Point::AfterMark),
    ("before-user-cr3", Point::BeforeUserCr3),
    ("after-user-cr3", Point::AfterUserCr3),
];

const ACTIONS: [(&str, Action); 5] = [
    ("drop", Action::Drop),
    ("repeat", Action::Repeat),
    ("alter", Action::Alter),
    ("set", Action::Set),
    ("clear", Action::Clear),
];

const TARGETS: [(&str, Target); 9] = [
    ("invalidate-other", Target::InvalidateOther),
    ("mark", Target::Mark),
    ("consume", Target::Consume),
    ("invlpg", Target::Invlpg),
    ("invpcid", Target::Invpcid),
    ("cr4", Target::Cr4),
    ("cr3", Target::Cr3),
    ("noflush", Target::Noflush),
    ("pcid", Target::Pcid),
];

/// A text that is no fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no fault: {why}; {help}")]
pub struct FaultError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
    /// What would be right.
    pub help: String,
}

fn find<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(known, _)| *known == name).map(|&(_, value)| value)
}

fn name_of<T: Copy + PartialEq>(table: &[(&'static str, T)], value: T) -> &'static str {
    table.iter().find(|(_, known)| *known == value).map_or("?", |(name, _)| name)
}

/// Help for a word that is none of `known`.
fn one_of(word: &str, known: &[&str]) -> String {
    let meant = nearest(word, known.iter().copied());
    let meant = meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
    format!("use one of {}{meant}", known.join(", "))
}

fn names<T>(table: &[(&'static str, T)]) -> Vec<&'static str> {
    table.iter().map(|(name, _)| *name).collect()
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let error = |why: String, help: String| FaultError { text: text.to_owned(), why, help };
        let (head, occurrence) = match text.trim().split_once('#') {
            None => (text.trim(), Occurrence::All),
            Some((head, number)) => match number.trim().parse() {
                Ok(n) if n > 0 => (head.trim(), Occurrence::Nth(n)),
                _ if head.trim().ends_with("@each") => {
                    let range = number.split_once("..");
                    let ends = range.and_then(|(first, last)| {
                        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
                    });
                    match ends {
                        Some((first, last)) if 0 < first && first <= last => {
                            (head.trim(), Occurrence::Steps(first, last))
                        }
                        _ => {
                            let why = format!("`{number}` names no steps");
                            let help = "use their numbers, as in `nmi@each#2..4`";
                            return Err(error(why, help.into()));
                        }
                    }
                }
                _ => {
                    let why = format!("`{number}` is no occurrence");
                    return Err(error(why, "use a number from 1, as in `drop mark#1`".into()));
                }
            },
        };
        let (head, place) = match head.split_once('@') {
            None => (head, None),
            Some((head, place)) => (head.trim(), Some(place.trim())),
        };
        let words: Vec<&str> = head.split_whitespace().collect();
        let fault = |action, target, site| Self { action, target, site, occurrence };
        match words[..] {
            [kind @ ("nmi" | "irq")] if place == Some("each") => {
                let action = if kind == "nmi" { Action::Nmi } else { Action::Irq };
                let occurrence = match occurrence {
                    Occurrence::Nth(step) => Occurrence::Steps(step, step),
                    other => other,
                };
                let target = Target::Point(Point::Each);
                Ok(Self { action, target, site: None, occurrence })
            }
            ["irq"] => Err(error(
                "an interrupt is raised at each boundary".into(),
                "use `irq@each`".into(),
            )),
            ["nmi"] => {
                let found = place.and_then(|place| find(&POINTS, place));
                let point = found.ok_or_else(|| {
                    let why = format!("`{}` is no point", place.unwrap_or_default());
                    let known = [&names(&POINTS)[..], &["each"]].concat();
                    error(why, one_of(place.unwrap_or_default(), &known))
                })?;
                Ok(fault(Action::Nmi, Target::Point(point), None))
            }
            ["clear-mark"] if place == Some("paranoid-exit") => {
                Ok(fault(Action::ClearMark, Target::Point(Point::ParanoidExit), None))
            }
            ["clear-mark"] => Err(error(
                "a mark is cleared at a point".into(),
                "use `clear-mark@paranoid-exit`".into(),
            )),
            [action, target] => {
                let action = find(&ACTIONS, action).ok_or_else(|| {
                    let known = [&names(&ACTIONS)[..], &["nmi", "irq", "clear-mark"]].concat();
                    error(format!("`{action}` is no action"), one_of(action, &known))
                })?;
                let target = find(&TARGETS, target).ok_or_else(|| {
                    let help = one_of(target, &names(&TARGETS));
                    error(format!("`{target}` is no operation"), help)
                })?;
                let site = checked_site(place, target).map_err(|(why, help)| error(why, help))?;
                check_pair(action, target).map_err(|(why, help)| error(why, help))?;
                Ok(fault(action, target, site))
            }
            _ => Err(error(
                "a fault is an action and an operation".into(),
                "as in `drop mark#1`, `set noflush@return` or `nmi@after-mark`".into(),
            )),
        }
    }
}

fn checked_site(place: Option<&str>, target: Target) -> Result<Option<Site>, (String, String)> {
    let sited = matches!(target, Target::Cr3 | Target::Noflush | Target::Pcid);
    match place {
        None if sited => {
            let help = format!("add `@` and one of {}", names(&SITES).join(", "));
            Err(("a CR3 load is named by its site".into(), help))
        }
        None => Ok(None),
        Some(place) if sited => find(&SITES, place)
            .map(Some)
            .ok_or_else(|| (format!("`{place}` is no site"), one_of(place, &names(&SITES)))),
        Some(_) => Err(("this operation has no site".into(), "leave `@…` out".into())),
    }
}

fn check_pair(action: Action, target: Target) -> Result<(), (String, String)> {
    // The table of forms is the grammar: what is not in it is refused.
    let form = format!("{} {}", name_of(&ACTIONS, action), name_of(&TARGETS, target));
    if FORMS.iter().any(|(known, _)| known.split('@').next() == Some(&*form)) {
        return Ok(());
    }
    let forms: Vec<&str> = FORMS.iter().map(|(form, _)| *form).collect();
    let why = "this action does not fit this operation".to_owned();
    Err((why, format!("the forms are {}", forms.join(", "))))
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.action, self.target) {
            (Action::Nmi, Target::Point(Point::Each)) => f.write_str("nmi@each")?,
            (Action::Irq, _) => f.write_str("irq@each")?,
            (Action::Nmi, Target::Point(point)) => write!(f, "nmi@{}", name_of(&POINTS, point))?,
            (Action::ClearMark, _) => f.write_str("clear-mark@paranoid-exit")?,
            (action, target) => {
                write!(f, "{} {}", name_of(&ACTIONS, action), name_of(&TARGETS, target))?;
            }
        }
        if let Some(site) = self.site {
            write!(f, "@{}", name_of(&SITES, site))?;
        }
        match self.occurrence {
            Occurrence::All => Ok(()),
            Occurrence::Nth(n) => write!(f, "#{n}"),
            Occurrence::Steps(first, last) if first == last => write!(f, "#{first}"),
            Occurrence::Steps(first, last) => write!(f, "#{first}..{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_at_every_site_reads_back_as_written() {
        for (form, help) in FORMS {
            assert!(!help.is_empty(), "{form}");
            for (site, _) in SITES {
                for occurrence in ["", "#1", "#4294967295"] {
                    let text = form.replace("SITE", site) + occurrence;
                    let back = text.parse::<Fault>().map(|fault| fault.to_string());
                    assert_eq!(back, Ok(text));
                }
            }
        }
    }

    #[test]
    fn nothing_but_the_forms_is_a_fault() {
        for (action, _) in ACTIONS {
            for (target, _) in TARGETS {
                let form = format!("{action} {target}");
                let listed = FORMS.iter().any(|(known, _)| known.split('@').next() == Some(&*form));
                let read =
                    [form.clone(), form + "@return"].iter().any(|t| t.parse::<Fault>().is_ok());
                assert_eq!(read, listed, "{action} {target}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_fault_that_reads_back_or_an_error(text in "[a-z@# 0-9é-]{0,24}|\\PC*") {
            if let Ok(fault) = text.parse::<Fault>() {
                proptest::prop_assert_eq!(fault.to_string().parse::<Fault>(), Ok(fault));
            }
        }
    }

    #[test]
    fn what_is_no_fault_says_what_would_be_right() {
        for (text, help) in [
            ("drop mrk", "did you mean `mark`"),
            ("dorp mark", "did you mean `drop`"),
            ("drop cr3@retrun", "did you mean `return`"),
            ("drop wbinvd", "one of"),
            ("repeat consume", "the forms are"),
            ("drop cr3", "return, entry"),
            ("drop mark#0", "from 1"),
            ("set mark", "the forms are"),
            ("nmi@sometime", "after-mark"),
            ("", "as in"),
        ] {
            let error = text.parse::<Fault>().expect_err(text);
            assert!(error.to_string().contains(help), "{error}");
        }
    }
}
