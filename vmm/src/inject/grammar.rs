//! The fault grammar: the same text in a scenario file and on the command line.
//!
//! ```text
//! drop mark#1    set noflush@return    alter pcid@entry#2    nmi@after-mark    evict u0@flush-end
//! ```

use super::fault::{Action, Fault, Occurrence, Point, Site, Target};
use super::forms::{ACTIONS, FORMS, OWN_POINTS, POINTS, SITES, TARGETS, find, name_of, names};
use crate::suggest::nearest;
use stalemate_shared::page::Page;
use std::fmt;
use std::str::FromStr;

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

/// What is wrong, and what would be right.
type Wrong = (String, String);

/// Help for a word that is none of `known`.
fn one_of(word: &str, known: &[&str]) -> String {
    let meant = nearest(word, known.iter().copied());
    let meant = meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
    format!("use one of {}{meant}", known.join(", "))
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(&ACTIONS, self.action))?;
        if let Some(page) = self.page {
            write!(f, " {page}")?;
        }
        match self.target {
            Target::Point(point) => {
                let known = [&POINTS[..], &OWN_POINTS].concat();
                write!(f, "@{}", name_of(&known, point))?;
            }
            target => write!(f, " {}", name_of(&TARGETS, target))?,
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

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        read(text).map_err(|(why, help)| FaultError { text: text.to_owned(), why, help })
    }
}

fn read(text: &str) -> Result<Fault, Wrong> {
    let (text, number) = match text.trim().split_once('#') {
        None => (text.trim(), None),
        Some((text, number)) => (text.trim(), Some(number.trim())),
    };
    let (head, place) = match text.split_once('@') {
        None => (text, None),
        Some((head, place)) => (head.trim(), Some(place.trim())),
    };
    let words: Vec<&str> = head.split_whitespace().collect();
    let Some((&first, rest)) = words.split_first() else {
        let help = "as in `drop mark#1`, `set noflush@return` or `nmi@after-mark`";
        return Err(("a fault is an action and an operation".into(), help.into()));
    };
    let action = find(&ACTIONS, first)
        .ok_or_else(|| (format!("`{first}` is no action"), one_of(first, &names(&ACTIONS))))?;
    let fault =
        |target, site, page| Fault { action, target, site, page, occurrence: Occurrence::All };
    let fault = match *rest {
        [] => fault(Target::Point(point(first, place)?), None, None),
        [page] if takes_page(first) => fault(
            Target::Point(point(&format!("{first} PAGE"), place)?),
            None,
            Some(test_page(page)?),
        ),
        [target] => {
            let target = find(&TARGETS, target).ok_or_else(|| {
                (format!("`{target}` is no operation"), one_of(target, &names(&TARGETS)))
            })?;
            let site = site(place, target)?;
            check_form(action, target)?;
            fault(target, site, None)
        }
        _ => {
            let help = "as in `drop mark#1`, `set noflush@return` or `nmi@after-mark`";
            return Err(("a fault is an action and an operation".into(), help.into()));
        }
    };
    let each = fault.target == Target::Point(Point::Each);
    Ok(Fault { occurrence: occurrence(number, each)?, ..fault })
}

fn takes_page(action: &str) -> bool {
    FORMS.iter().any(|(form, _)| form.split_once(" PAGE").map(|(head, _)| head) == Some(action))
}

fn test_page(text: &str) -> Result<Page, Wrong> {
    text.parse().map_err(|()| (format!("`{text}` is no test page"), "use u0, h0 or k0, say".into()))
}

/// The point of a form that begins with `head`.
fn point(head: &str, place: Option<&str>) -> Result<Point, Wrong> {
    let of_head: Vec<&str> = FORMS
        .iter()
        .filter_map(|(form, _)| form.split_once('@'))
        .filter(|(known, _)| *known == head)
        .flat_map(|(_, place)| match place {
            "POINT" => names(&POINTS),
            own => vec![own],
        })
        .collect();
    if of_head.is_empty() {
        let help = "as in `drop mark#1`, `set noflush@return` or `nmi@after-mark`";
        return Err((format!("`{head}` needs an operation"), help.into()));
    }
    let place = place.unwrap_or_default();
    let known = [&POINTS[..], &OWN_POINTS].concat();
    find(&known, place)
        .filter(|_| of_head.contains(&place))
        .ok_or_else(|| (format!("`{place}` is no point of `{head}`"), one_of(place, &of_head)))
}

fn site(place: Option<&str>, target: Target) -> Result<Option<Site>, Wrong> {
    let sited = matches!(target, Target::Cr3 | Target::Noflush | Target::Pcid | Target::Root);
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

/// The table of forms is the grammar: what is not in it is refused.
fn check_form(action: Action, target: Target) -> Result<(), Wrong> {
    let form = format!("{} {}", name_of(&ACTIONS, action), name_of(&TARGETS, target));
    if FORMS.iter().any(|(known, _)| known.split('@').next() == Some(&*form)) {
        return Ok(());
    }
    let forms: Vec<&str> = FORMS.iter().map(|(form, _)| *form).collect();
    let why = "this action does not fit this operation".to_owned();
    Err((why, format!("the forms are {}", forms.join(", "))))
}

fn occurrence(number: Option<&str>, each: bool) -> Result<Occurrence, Wrong> {
    let Some(number) = number else { return Ok(Occurrence::All) };
    match number.parse() {
        Ok(step) if step > 0 && each => return Ok(Occurrence::Steps(step, step)),
        Ok(n) if n > 0 => return Ok(Occurrence::Nth(n)),
        _ if !each => {
            let why = format!("`{number}` is no occurrence");
            return Err((why, "use a number from 1, as in `drop mark#1`".into()));
        }
        _ => {}
    }
    let range = number.split_once("..");
    let ends = range
        .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    match ends {
        Some((first, last)) if 0 < first && first <= last => Ok(Occurrence::Steps(first, last)),
        _ => {
            let why = format!("`{number}` names no steps");
            Err((why, "use their numbers, as in `nmi@each#2..4`".into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::forms::form_of;

    #[test]
    fn every_form_at_every_place_reads_back_as_written() {
        for (form, help) in FORMS {
            assert!(!help.is_empty(), "{form}");
            for (site, _) in SITES {
                for (point, _) in POINTS {
                    for occurrence in ["", "#1", "#4294967295"] {
                        let text = form.replace("SITE", site).replace("POINT", point);
                        let text = text.replace("PAGE", "u3") + occurrence;
                        let back = text.parse::<Fault>().map(|fault| fault.to_string());
                        assert_eq!(form_of(&text), Some((form, help)), "{text}");
                        assert_eq!(back, Ok(text));
                    }
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
            for (point, _) in [&POINTS[..], &OWN_POINTS].concat() {
                for text in [format!("{action}@{point}"), format!("{action} h1@{point}")] {
                    let listed = form_of(&text).is_some();
                    assert_eq!(text.parse::<Fault>().is_ok(), listed, "{text}");
                }
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
            ("evict u99@step", "u0"),
            ("evict u0@each", "after-mark"),
            ("nmi mark", "the forms are"),
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
