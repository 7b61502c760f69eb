//! What is known already of a kernel: findings by key, each with its reason, and until when it is to be
//! put up with.

use super::{Finding, Key};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};
use toml::Spanned;

/// A file of known findings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baseline {
    /// Those that are known.
    pub known: Vec<Known>,
}

/// The shape of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    known: Vec<Spanned<Known>>,
}

/// A finding that is known.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Its key, as reports print it.
    pub key: String,
    /// Why it is put up with.
    pub reason: String,
    /// The last day on which it is, as YYYY-MM-DD; for ever without it.
    pub until: Option<String>,
}

/// A finding that is known, and found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct Excused {
    /// Its key.
    pub key: String,
    /// Why it is put up with.
    pub reason: String,
}

/// How findings and a baseline compare.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct Compared {
    /// Keys that the baseline does not know.
    pub new: Vec<String>,
    /// Those that it knows.
    pub known: Vec<Excused>,
    /// Keys that it knows and that were not found.
    pub gone: Vec<String>,
    /// Keys that it knows and whose day has passed.
    pub expired: Vec<String>,
}

impl Baseline {
    /// Reads a file.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let raw: Raw = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut baseline = Self::default();
        for known in raw.known {
            let line = text[..known.span().start].matches('\n').count() + 1;
            let wrong = |what: &str| Err(format!("line {line}: {what}"));
            let known = known.into_inner();
            if let Err(error) = known.key.parse::<Key>() {
                return wrong(&error);
            }
            if baseline.known.iter().any(|other| other.key == known.key) {
                return wrong("this key is known already");
            }
            if known.reason.trim().is_empty() {
                return wrong("it has no reason");
            }
            if known.until.as_ref().is_some_and(|until| days_of(until).is_none()) {
                return wrong("`until` is a day, as in 2027-01-31");
            }
            baseline.known.push(known);
        }
        Ok(baseline)
    }

    /// Compares findings with it, on the day that is so many days after 1 January 1970.
    #[must_use]
    pub fn compare(&self, findings: &[Finding], today: i64) -> Compared {
        let keys: Vec<String> = findings.iter().map(|finding| finding.key.to_string()).collect();
        let mut compared = Compared::default();
        for known in &self.known {
            let over = known.until.as_deref().and_then(days_of).is_some_and(|until| until < today);
            let Known { key, reason, .. } = known.clone();
            match (keys.contains(&known.key), over) {
                (false, _) => compared.gone.push(key),
                (true, true) => compared.expired.push(key),
                (true, false) => compared.known.push(Excused { key, reason }),
            }
        }
        let is_new = |key: &&String| self.known.iter().all(|known| known.key != **key);
        compared.new = keys.iter().filter(is_new).cloned().collect();
        compared
    }
}

impl Compared {
    /// Whether nothing was found but what is known.
    #[must_use]
    pub fn is_expected(&self) -> bool {
        self.new.is_empty() && self.expired.is_empty()
    }
}

/// Today, in days after 1 January 1970.
#[must_use]
pub fn today() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs() / 86_400) as i64
}

/// The number of the day YYYY-MM-DD after 1 January 1970, by the rules of the Gregorian calendar.
fn days_of(day: &str) -> Option<i64> {
    let mut parts = day.split('-').map(|part| part.parse::<i64>().ok());
    let [year, month, day] = [parts.next()??, parts.next()??, parts.next()??];
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let february = if leap(year) { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let index = usize::try_from(month - 1).ok().filter(|index| *index < months.len())?;
    let inside = (1970..=9999).contains(&year) && (1..=months[index]).contains(&day);
    if !inside || parts.next().is_some() {
        return None;
    }
    let before: i64 = (1970..year).map(|year| if leap(year) { 366 } else { 365 }).sum();
    Some(before + months[..index].iter().sum::<i64>() + day - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(days_of("1970-01-01"), Some(0));
        assert_eq!(days_of("2000-03-01"), Some(11_017));
        assert_eq!(days_of("2026-11-28"), Some(20_785));
        for wrong in ["2026-02-29", "2026-13-01", "2026-1", "tomorrow", "2026-01-01-01"] {
            assert_eq!(days_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_file_without_reasons_or_with_other_keys_is_refused() {
        let known =
            |more: &str| Baseline::parse(&format!("[[known]]\nkey = \"va-reuse:unmap:f\"\n{more}"));
        assert!(known("reason = \"in 6.1 only\"\nuntil = \"2027-01-31\"").is_ok());
        assert!(known("").is_err_and(|error| error.contains("reason")));
        assert!(known("reason = \" \"").is_err_and(|error| error.contains("no reason")));
        let day = known("reason = \"x\"\nuntil = \"soon\"");
        assert!(day.is_err_and(|error| error.contains("2027-01-31")));
        assert!(
            known("reason = \"x\"\nsince = \"6.1\"").is_err_and(|error| error.contains("line"))
        );
    }

    #[test]
    fn what_is_known_and_not_found_is_gone() {
        let text = "[[known]]\nkey = \"va-reuse:unmap:f\"\nreason = \"x\"";
        let baseline = Baseline::parse(text).expect("a baseline");
        let compared = baseline.compare(&[], 0);
        assert_eq!((compared.gone.len(), compared.is_expected()), (1, true));
    }
}
