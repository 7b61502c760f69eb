//! What varies from run to run: the processor, the kernel, the model.

use crate::arch::features::CpuFeatures;
use crate::arch::tlb::Fill;
use crate::schedule::Schedule;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use stalemate_shared::boot::{self, options};
use stalemate_shared::variant::{VARIANTS, Variant};
use std::fmt;
use std::str::FromStr;

/// A processor by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuModel {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it has.
    pub features: CpuFeatures,
    /// Whether the default suite uses it.
    pub default: bool,
}

impl CpuModel {
    /// What it has, in words.
    #[must_use]
    pub fn has(&self) -> String {
        let names = self.features.names();
        let all = if names.is_empty() { "none of them".to_owned() } else { names.join(", ") };
        all + if self.default { "; in the default suite" } else { "" }
    }
}

impl FromStr for CpuModel {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        CPUS.into_iter().find(|cpu| cpu.name == name).ok_or_else(|| {
            format!("`{name}` is no CPU; use one of {}", CPUS.map(|cpu| cpu.name).join(", "))
        })
    }
}

const fn cpu(name: &'static str, pcid: bool, invpcid: bool, pge: bool, default: bool) -> CpuModel {
    let features = CpuFeatures { pcid, invpcid, pge, smep: false, gib_pages: true };
    CpuModel { name, features, default }
}

/// The same with SMEP.
const fn smep(name: &'static str, cpu: CpuModel) -> CpuModel {
    CpuModel { name, features: CpuFeatures { smep: true, ..cpu.features }, default: false }
}

/// Every named processor.
pub const CPUS: [CpuModel; 9] = [
    cpu("nopcid", false, false, true, true),
    cpu("pcid", true, false, true, true),
    cpu("pcid-invpcid", true, true, true, true),
    cpu("pcid-nopge", true, false, false, true),
    cpu("nopcid-nopge", false, false, false, false),
    cpu("nopcid-invpcid", false, true, true, false),
    cpu("nopcid-invpcid-nopge", false, true, false, false),
    cpu("pcid-invpcid-nopge", true, true, false, false),
    smep("pcid-smep", cpu("", true, false, true, false)),
];

/// A flush policy.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Policy {
    Split,
    Unsplit,
    Full,
    Eager,
    Fallback,
    Joined,
    /// The one that a kernel has which has no others: no policy of this project's guest.
    Own,
}

/// Every policy of this project's guest, with its name and what it does; the broken one last.
pub const POLICIES: [(Policy, &str, &str); 6] = [
    (
        Policy::Split,
        "split",
        "the little hammer in the kernel PCID now; the user PCID marked and flushed on its next \
         load, or INVPCID of the one address; a kernel page makes other ASIDs flush at their \
         next switch",
    ),
    (
        Policy::Fallback,
        "fallback",
        "as split, but a kernel page is flushed by the big hammer where PCID is on and kernel \
         pages are not global: Lutomirski's proposal",
    ),
    (
        Policy::Joined,
        "joined",
        "kernel and user PCID of an ASID always flushed together, no separate mark; other \
         contexts at their next switch: Hansen's patch",
    ),
    (
        Policy::Eager,
        "eager",
        "the user PCID flushed at once, never deferred: by INVPCID, or by a hop to the user CR3 \
         and back",
    ),
    (Policy::Full, "full", "every flush is the big hammer"),
    (
        Policy::Unsplit,
        "unsplit",
        "the user half as split, but one function for user and kernel pages, so that \
         invalidate_other is never set: as it was before the split; caught by stale-other-asid \
         if and only if PCID is on and kernel pages are not global",
    ),
];

impl Policy {
    /// Every policy, the broken one last.
    #[must_use]
    pub fn all() -> [Self; POLICIES.len()] {
        POLICIES.map(|(policy, ..)| policy)
    }

    /// Its number in the boot block.
    #[must_use]
    pub fn boot(self) -> boot::Policy {
        match self {
            Self::Split => boot::Policy::Split,
            Self::Unsplit => boot::Policy::Unsplit,
            Self::Full => boot::Policy::Full,
            Self::Eager => boot::Policy::Eager,
            Self::Fallback => boot::Policy::Fallback,
            Self::Joined => boot::Policy::Joined,
            // Nobody looks.
            Self::Own => boot::Policy::Split,
        }
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = POLICIES.into_iter().find(|(_, name, _)| *name == text);
        found.map(|(policy, ..)| policy).ok_or_else(|| {
            let names = POLICIES.map(|(_, name, _)| name);
            format!("`{text}` is no policy; use one of {}", names.join(", "))
        })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = POLICIES.iter().find(|(policy, ..)| policy == self).map_or("own", |row| row.1);
        f.pad(name)
    }
}

/// One point of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunConfig {
    /// The processor.
    pub cpu: CpuModel,
    /// The flush policy.
    pub policy: Policy,
    /// Page-table isolation.
    pub pti: bool,
    /// Kernel pages global under PTI: the broken variant.
    pub global_with_pti: bool,
    /// The paranoid exit rewrites a kernel CR3.
    pub paranoid_rewrite: bool,
    /// The NMI handler changes a page and flushes it.
    pub nmi_flush: bool,
    /// The historical mistake that the kernel makes.
    #[serde(with = "variant_by_name")]
    pub variant: Option<Variant>,
    /// The fill choice.
    pub fill: Fill,
    /// Where seeded choices begin.
    pub seed: u64,
    /// Paging-structure caches are modelled.
    pub structure_caches: bool,
    /// How many CPUs there are.
    pub cpus: u8,
    /// How they preempt each other.
    pub schedule: Schedule,
}

impl Serialize for CpuModel {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.name.serialize(to)
    }
}

impl<'de> Deserialize<'de> for CpuModel {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        name.parse().map_err(D::Error::custom)
    }
}

/// A variant of the kernel, or none, by its name.
mod variant_by_name {
    use super::{Deserialize, Deserializer, Error, Serialize, Serializer, VARIANTS, Variant};

    pub(super) fn serialize<S: Serializer>(of: &Option<Variant>, to: S) -> Result<S::Ok, S::Error> {
        of.map(|variant| variant.about().name).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Variant>, D::Error> {
        let Some(name) = Option::<String>::deserialize(from)? else { return Ok(None) };
        let found = VARIANTS.iter().find(|about| about.name == name);
        let none = || D::Error::custom(format_args!("`{name}` is no variant"));
        found.map(|about| Some(about.variant)).ok_or_else(none)
    }
}

impl RunConfig {
    /// Whether kernel pages outside the trampoline are global.
    #[must_use]
    pub fn kernel_global(&self) -> bool {
        self.cpu.features.pge && (!self.pti || self.global_with_pti)
    }

    /// Bits of `shared::boot::options`.
    #[must_use]
    pub fn options(&self) -> u32 {
        let bits = [
            (self.pti, options::PTI),
            (self.global_with_pti, options::GLOBAL_WITH_PTI),
            (self.paranoid_rewrite, options::PARANOID_REWRITE),
            (self.nmi_flush, options::NMI_FLUSH),
        ];
        bits.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum()
    }
}

impl fmt::Display for RunConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pti = if self.pti { "pti" } else { "nopti" };
        write!(f, "{} {} {pti}", self.cpu.name, self.policy)?;
        if self.global_with_pti {
            f.write_str(" global")?;
        }
        if self.paranoid_rewrite {
            f.write_str(" paranoid-rewrite")?;
        }
        if self.nmi_flush {
            f.write_str(" nmi-flush")?;
        }
        if let Some(variant) = self.variant {
            write!(f, " {}", variant.about().name)?;
        }
        if self.fill != Fill::WorstCase {
            write!(f, " {}", self.fill.name())?;
        }
        if self.fill == Fill::Seeded {
            write!(f, " {}", self.seed)?;
        }
        if !self.structure_caches {
            f.write_str(" no-structure-caches")?;
        }
        match self.schedule {
            Schedule::InOrder => {}
            Schedule::Events(seed) => write!(f, " events {seed}")?,
            Schedule::Instructions(seed) => write!(f, " instructions {seed}")?,
        }
        Ok(())
    }
}

/// Conditions on a configuration; an absent one holds always.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct When {
    /// One of these policies.
    pub policy: Vec<Policy>,
    /// The processor has PCID.
    pub pcid: Vec<bool>,
    /// The processor has INVPCID.
    pub invpcid: Vec<bool>,
    /// The processor has global pages.
    pub pge: Vec<bool>,
    /// Page-table isolation is on.
    pub pti: Vec<bool>,
    /// Kernel pages are global.
    pub global: Vec<bool>,
    /// One of these fill choices.
    pub fill: Vec<Fill>,
    /// One of these variants; none stands for the kernel as it is.
    pub variant: Vec<Option<Variant>>,
}

impl When {
    /// Each condition alone, with its key.
    #[must_use]
    pub fn parts(&self) -> Vec<(&'static str, Self)> {
        let none = Self::default;
        vec![
            ("policy", Self { policy: self.policy.clone(), ..none() }),
            ("pcid", Self { pcid: self.pcid.clone(), ..none() }),
            ("invpcid", Self { invpcid: self.invpcid.clone(), ..none() }),
            ("pge", Self { pge: self.pge.clone(), ..none() }),
            ("pti", Self { pti: self.pti.clone(), ..none() }),
            ("global", Self { global: self.global.clone(), ..none() }),
            ("fill", Self { fill: self.fill.clone(), ..none() }),
            ("variant", Self { variant: self.variant.clone(), ..none() }),
        ]
    }

    /// Whether they all hold.
    #[must_use]
    pub fn holds(&self, config: &RunConfig) -> bool {
        fn one<T: PartialEq>(of: &[T], value: T) -> bool {
            of.is_empty() || of.contains(&value)
        }
        let features = config.cpu.features;
        one(&self.policy, config.policy)
            && one(&self.pcid, features.pcid)
            && one(&self.invpcid, features.invpcid)
            && one(&self.pge, features.pge)
            && one(&self.pti, config.pti)
            && one(&self.global, config.kernel_global())
            && one(&self.fill, config.fill)
            && one(&self.variant, config.variant)
    }
}
