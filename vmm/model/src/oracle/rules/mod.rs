//! The rules, one a file. A new one is its file, and here its module and its row.

pub mod big_hammer;
pub mod copied_while_writable;
pub mod cr3_pairing;
pub mod generation;
pub mod lazy_in_user_mode;
pub mod loaded_mm;
pub mod lost_dirty;
pub mod lost_mark;
pub mod needless_flush;
pub mod never_flushed;
pub mod pcid_reuse;
pub mod pti_leak;
pub mod reuse_before_flush;
pub mod stale_kernel_entry;
pub mod stale_other_asid;
pub mod stale_remote_entry;
pub mod stale_user_entry;
pub mod stray_mark;
mod table_reuse;
pub mod unowed_entry;
mod va_reuse;

use super::rule::{Rule, StaleRule};
use super::{About, RuleId};
use std::str::FromStr;

/// How a rule speaks.
#[derive(Clone, Copy)]
pub enum Speaks {
    /// Of obligations that are not met in time.
    Stale(StaleRule),
    /// Of what it sees in the events.
    Event(fn() -> Box<dyn Rule>),
    /// Of costs, which fail no run: the oracle counts them.
    Cost,
}

/// Every rule, in the order in which they judge an event: of one stale entry the first one speaks.
pub static RULES: &[(&About, Speaks)] = &[
    (&never_flushed::ABOUT, Speaks::Stale(never_flushed::RULE)),
    (&reuse_before_flush::ABOUT, Speaks::Event(reuse_before_flush::rule)),
    (&copied_while_writable::ABOUT, Speaks::Event(copied_while_writable::rule)),
    (&stale_kernel_entry::ABOUT, Speaks::Stale(stale_kernel_entry::RULE)),
    (&stale_remote_entry::ABOUT, Speaks::Stale(stale_remote_entry::RULE)),
    (&generation::ABOUT, Speaks::Event(generation::rule)),
    (&pcid_reuse::ABOUT, Speaks::Event(pcid_reuse::rule)),
    (&stale_other_asid::ABOUT, Speaks::Stale(stale_other_asid::RULE)),
    (&cr3_pairing::ABOUT, Speaks::Event(cr3_pairing::rule)),
    (&lost_mark::ABOUT, Speaks::Event(lost_mark::rule)),
    (&stale_user_entry::ABOUT, Speaks::Stale(stale_user_entry::RULE)),
    (&pti_leak::ABOUT, Speaks::Event(pti_leak::rule)),
    (&table_reuse::ABOUT, Speaks::Event(table_reuse::rule)),
    (&va_reuse::ABOUT, Speaks::Event(va_reuse::rule)),
    (&lost_dirty::ABOUT, Speaks::Event(lost_dirty::rule)),
    (&loaded_mm::ABOUT, Speaks::Event(loaded_mm::rule)),
    (&lazy_in_user_mode::ABOUT, Speaks::Event(lazy_in_user_mode::rule)),
    (&stray_mark::ABOUT, Speaks::Event(stray_mark::rule)),
    (&big_hammer::ABOUT, Speaks::Cost),
    (&needless_flush::ABOUT, Speaks::Cost),
];

/// What every rule says of itself.
pub fn abouts() -> impl Iterator<Item = &'static About> {
    RULES.iter().map(|(about, _)| *about)
}

/// The names of the rules.
#[must_use]
pub fn names() -> Vec<&'static str> {
    abouts().map(|about| about.name).collect()
}

/// All rules that fail runs, fresh.
#[must_use]
pub fn all() -> Vec<Box<dyn Rule>> {
    let rule = |(_, speaks): &(&About, Speaks)| -> Option<Box<dyn Rule>> {
        match speaks {
            Speaks::Stale(rule) => Some(Box::new(*rule)),
            Speaks::Event(make) => Some(make()),
            Speaks::Cost => None,
        }
    };
    RULES.iter().filter_map(rule).collect()
}

/// The rules on stale entries.
pub fn on_stale_entries() -> impl Iterator<Item = StaleRule> {
    RULES.iter().filter_map(|(_, speaks)| match speaks {
        Speaks::Stale(rule) => Some(*rule),
        _ => None,
    })
}

impl FromStr for RuleId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        abouts()
            .find(|about| about.name == text)
            .map(RuleId)
            .ok_or_else(|| format!("use one of {}", names().join(", ")))
    }
}

impl TryFrom<String> for RuleId {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_in_the_table_under_its_own_name() {
        for about in abouts() {
            assert_eq!(about.name.parse(), Ok(RuleId(about)));
            assert_eq!(RuleId(about).to_string(), about.name);
        }
        for rule in all() {
            assert!(!rule.about().is_cost);
        }
    }
}
