//! The rules' names, statements and sources, and what a rule is.

use super::ledger::{Ledger, Obligation};
use super::shadow::{Shadow, ShadowCpu};
use crate::arch::addr::{CpuId, Gva};
use crate::arch::tlb::{Effect, Entry, Tag};
use crate::event::{Event, Primitive, TraceHeader};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

/// The stable ids of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
#[allow(missing_docs)]
pub enum RuleId {
    StaleUserEntry,
    StaleKernelEntry,
    StaleOtherAsid,
    NeverFlushed,
    PcidReuse,
    LostMark,
    Cr3Pairing,
    PtiLeak,
    LoadedMm,
    StrayMark,
    BigHammer,
    StaleRemoteEntry,
    ReuseBeforeFlush,
    Generation,
    NeedlessFlush,
    /// A rule that is none of these, added to an oracle by [`super::Oracle::add_rule`].
    Own(&'static About),
}

/// What a rule says of itself.
#[derive(Clone, Copy)]
pub struct About {
    /// Its id.
    pub id: RuleId,
    /// The id as text.
    pub name: &'static str,
    /// The rule, in one or two sentences.
    pub statement: &'static str,
    /// What it rests on.
    pub source: &'static str,
    /// Arguments of `stalemate run` with which it is violated, by a built-in scenario; a test
    /// tries.
    pub violated_by: &'static str,
    /// The same for what comes close and does not.
    pub near_miss: &'static str,
    /// What to try when it is violated.
    pub hint: &'static str,
    /// Whether it counts costs instead of failing runs.
    pub is_cost: bool,
}

/// Rules are told apart by their names: the id of one's own refers to this.
impl PartialEq for About {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for About {}

impl PartialOrd for About {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for About {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name.cmp(other.name)
    }
}

impl Hash for About {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl fmt::Debug for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Every rule.
pub const RULES: [About; 15] = [
    super::rules::stale_user_entry::ABOUT,
    super::rules::stale_kernel_entry::ABOUT,
    super::rules::stale_other_asid::ABOUT,
    super::rules::stale_remote_entry::ABOUT,
    super::rules::never_flushed::ABOUT,
    super::rules::pcid_reuse::ABOUT,
    super::rules::lost_mark::ABOUT,
    super::rules::cr3_pairing::ABOUT,
    super::rules::pti_leak::ABOUT,
    super::rules::reuse_before_flush::ABOUT,
    super::rules::generation::ABOUT,
    super::rules::loaded_mm::ABOUT,
    super::rules::stray_mark::ABOUT,
    super::rules::big_hammer::ABOUT,
    super::rules::needless_flush::ABOUT,
];

impl RuleId {
    /// What the rule says of itself.
    #[must_use]
    pub fn about(self) -> &'static About {
        if let Self::Own(about) = self {
            return about;
        }
        // Every other id is in the table; a test says so.
        RULES.iter().find(|about| about.id == self).unwrap_or(&RULES[0])
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.about().name)
    }
}

impl From<RuleId> for &'static str {
    fn from(id: RuleId) -> Self {
        id.about().name
    }
}

impl TryFrom<String> for RuleId {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl FromStr for RuleId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        RULES.iter().find(|about| about.name == text).map(|about| about.id).ok_or_else(|| {
            let names: Vec<&str> = RULES.iter().map(|about| about.name).collect();
            format!("use one of {}", names.join(", "))
        })
    }
}

/// What a rule looks at: the event that has just taken effect, and the state after it.
pub struct Context<'a> {
    /// What the trace began with.
    pub header: &'a TraceHeader,
    /// The event.
    pub event: &'a Event,
    /// Tables, TLB and registers after it.
    pub shadow: &'a Shadow,
    /// The obligations.
    pub ledger: &'a Ledger,
    /// What the event did to the TLB.
    pub effect: &'a Effect,
    /// The primitive that returns with this event, and the event that it began at.
    pub ended: Option<(u64, Primitive)>,
}

impl Context<'_> {
    /// The CPU that the event is of.
    #[must_use]
    pub fn cpu(&self) -> &ShadowCpu {
        self.shadow.cpu(self.event.cpu)
    }

    /// What is stale on that CPU and no rule has spoken of, with the numbers.
    pub fn open_here(&self) -> impl Iterator<Item = (usize, &Obligation)> {
        self.ledger.open().filter(|(_, obligation)| obligation.cpu == self.event.cpu)
    }

    /// Whether what is tagged so may be used on `cpu` as it is now.
    #[must_use]
    pub fn is_usable(&self, cpu: CpuId, tag: Tag) -> bool {
        tag == Tag::Global || tag == Tag::Pcid(self.shadow.cpu(cpu).pcid())
    }
}

/// A cached entry as a finding shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its tag.
    pub tag: Tag,
    /// The entry.
    pub entry: Entry,
}

/// A rule is violated.
#[derive(Clone, Debug, Default)]
pub struct Finding {
    /// The obligation that was not met, if it is about one.
    pub obligation: Option<usize>,
    /// The entry that should not be there.
    pub held: Option<Held>,
    /// What happened, in one sentence.
    pub message: String,
    /// Where the guest did it, if not at the event itself.
    pub at: Option<(u64, Gva)>,
    /// Until when it had to be met, where that is not the rule's usual deadline.
    pub deadline: Option<&'static str>,
    /// An earlier place that the finding names: position, RIP and what happened there.
    pub because: Option<(u64, Gva, &'static str)>,
}

/// One rule; it sees every event in order.
pub trait Rule {
    /// Its id.
    fn id(&self) -> RuleId;
    /// Looks at one event.
    fn observe(&mut self, context: &Context<'_>) -> Vec<Finding>;
    /// The rule with all that it has seen.
    fn boxed(&self) -> Box<dyn Rule>;
}

impl Clone for Box<dyn Rule> {
    fn clone(&self) -> Self {
        self.as_ref().boxed()
    }
}

/// All rules that fail runs, fresh.
#[must_use]
pub fn all() -> Vec<Box<dyn Rule>> {
    use super::rules::{
        cr3_pairing, generation, loaded_mm, lost_mark, never_flushed, pcid_reuse, pti_leak,
        reuse_before_flush, stale_kernel_entry, stale_other_asid, stale_remote_entry,
        stale_user_entry, stray_mark,
    };
    vec![
        Box::new(never_flushed::NeverFlushed),
        Box::new(reuse_before_flush::ReuseBeforeFlush),
        Box::new(stale_kernel_entry::StaleKernelEntry),
        Box::new(stale_remote_entry::StaleRemoteEntry),
        Box::new(generation::Generation::default()),
        Box::new(pcid_reuse::PcidReuse::default()),
        Box::new(stale_other_asid::StaleOtherAsid),
        Box::new(cr3_pairing::Cr3Pairing),
        Box::new(lost_mark::LostMark::default()),
        Box::new(stale_user_entry::StaleUserEntry),
        Box::new(pti_leak::PtiLeak),
        Box::new(loaded_mm::LoadedMm),
        Box::new(stray_mark::StrayMark),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_in_the_table_under_its_own_name() {
        for about in RULES {
            assert_eq!(about.name.parse(), Ok(about.id));
            assert_eq!(about.id.to_string(), about.name);
        }
        for rule in all() {
            assert!(!rule.id().about().is_cost);
        }
    }
}
