//! What can keep an instruction from completing.

use super::addr::{Gpa, Gva};

/// An exception of the modelled processor (SDM vol. 3, table 6-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The vector.
    pub vector: u8,
    /// The error code, for the vectors that have one.
    pub error: Option<u32>,
    /// CR2, for vector 14.
    pub address: Option<Gva>,
}

/// Vectors by name.
#[allow(missing_docs)]
pub mod vector {
    pub const NMI: u8 = 2;
    pub const BREAKPOINT: u8 = 3;
    pub const INVALID_OPCODE: u8 = 6;
    pub const DOUBLE_FAULT: u8 = 8;
    pub const NOT_PRESENT: u8 = 11;
    pub const STACK_FAULT: u8 = 12;
    pub const GENERAL_PROTECTION: u8 = 13;
    pub const PAGE_FAULT: u8 = 14;
}

impl Exception {
    /// #UD.
    pub const INVALID_OPCODE: Self =
        Self { vector: vector::INVALID_OPCODE, error: None, address: None };
    /// #DF; its error code is always 0.
    pub const DOUBLE_FAULT: Self =
        Self { vector: vector::DOUBLE_FAULT, error: Some(0), address: None };
    /// #NP(0).
    pub const NOT_PRESENT: Self =
        Self { vector: vector::NOT_PRESENT, error: Some(0), address: None };
    /// #SS(0).
    pub const STACK_FAULT: Self =
        Self { vector: vector::STACK_FAULT, error: Some(0), address: None };

    /// One that a processor raised with this error code, or 0 for a vector that has none.
    #[must_use]
    pub const fn of_processor(vector: u8, error: u32) -> Self {
        let error = if matches!(vector, 8 | 10..=14 | 17) { Some(error) } else { None };
        Self { vector, error, address: None }
    }

    /// An NMI, delivered like an exception.
    pub const NMI: Self = Self { vector: vector::NMI, error: None, address: None };

    /// An interrupt, delivered like an exception.
    #[must_use]
    pub const fn interrupt(vector: u8) -> Self {
        Self { vector, error: None, address: None }
    }

    /// #GP with `error`: 0, or a selector.
    #[must_use]
    pub const fn general_protection(error: u32) -> Self {
        Self { vector: vector::GENERAL_PROTECTION, error: Some(error), address: None }
    }

    /// #PF at `address`.
    #[must_use]
    pub const fn page_fault(address: Gva, error: u32) -> Self {
        Self { vector: vector::PAGE_FAULT, error: Some(error), address: Some(address) }
    }

    /// Whether a second exception during delivery of this one makes a double fault
    /// (SDM vol. 3, table 6-5): #DE, #TS, #NP, #SS, #GP.
    #[must_use]
    pub const fn is_contributory(&self) -> bool {
        matches!(self.vector, 0 | 10..=13)
    }
}

/// Why a processor cannot go on. None of these is an error of the VMM.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// A walk or an access went beyond guest-physical memory.
    #[error("access to guest-physical {0}, beyond memory")]
    BeyondMemory(Gpa),
    /// An exception could not be delivered, nor the double fault it made.
    #[error("triple fault: delivery of vector {vector} failed")]
    TripleFault {
        /// The first exception's vector.
        vector: u8,
    },
    /// An instruction that cannot be carried out.
    #[error("{mnemonic} ({bytes}) cannot be carried out: {why}")]
    Unsupported {
        /// The instruction's bytes in hex.
        bytes: String,
        /// Its mnemonic.
        mnemonic: String,
        /// What about it.
        why: &'static str,
    },
    /// An operand of a known instruction that the model has no meaning for.
    #[error("{0}")]
    NotModelled(String),
}

/// What an operation of the modelled processor may end in instead of completing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The guest gets it.
    Exception(Exception),
    /// The run is over.
    Stop(Stop),
}

impl From<Exception> for Fault {
    fn from(exception: Exception) -> Self {
        Self::Exception(exception)
    }
}

impl From<Stop> for Fault {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl Stop {
    /// [`Stop::Unsupported`] for `instruction`, whose bytes are `bytes`.
    #[must_use]
    pub fn unsupported(
        bytes: &[u8],
        instruction: &iced_x86::Instruction,
        why: &'static str,
    ) -> Self {
        let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>();
        Self::Unsupported {
            bytes: hex.join(" "),
            mnemonic: format!("{:?}", instruction.mnemonic()).to_uppercase(),
            why,
        }
    }
}
