//! Addresses, PCIDs and CPU numbers as types of their own.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A guest-virtual (linear) address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Gva(pub u64);

/// A guest-physical address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Gpa(pub u64);

/// A process-context identifier: the 12-bit tag of CR3 and of TLB entries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Pcid(u16);

/// A number that is no PCID, for it has more than twelve bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:#x} is no PCID, which has twelve bits")]
pub struct NoPcid(u16);

impl TryFrom<u16> for Pcid {
    type Error = NoPcid;

    fn try_from(number: u16) -> Result<Self, NoPcid> {
        if number < 1 << 12 { Ok(Self(number)) } else { Err(NoPcid(number)) }
    }
}

impl From<Pcid> for u16 {
    fn from(pcid: Pcid) -> Self {
        pcid.0
    }
}

/// A virtual CPU's number.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct CpuId(pub u8);

impl Gva {
    /// The address of the 4 KiB page that contains it.
    #[must_use]
    pub const fn page(self) -> Self {
        Self(self.0 & !0xfff)
    }

    /// Whether bits 63:47 are equal, as 4-level paging requires.
    #[must_use]
    pub const fn is_canonical(self) -> bool {
        let top = self.0 >> 47;
        top == 0 || top == 0x1_ffff
    }

    /// Whether it lies in the kernel half.
    #[must_use]
    pub const fn is_kernel(self) -> bool {
        self.0 >> 63 == 1
    }
}

impl Gpa {
    /// The address of the 4 KiB frame that contains it.
    #[must_use]
    pub const fn page(self) -> Self {
        Self(self.0 & !0xfff)
    }
}

impl Pcid {
    /// The low 12 bits of `value`.
    #[must_use]
    pub const fn new(value: u16) -> Self {
        Self(value & 0xfff)
    }

    /// The number.
    #[must_use]
    pub const fn value(self) -> u16 {
        self.0
    }
}

macro_rules! hex {
    ($type:ty, $format:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

hex!(Gva, "{:#x}");
hex!(Gpa, "{:#x}");
hex!(Pcid, "{:#05x}");
