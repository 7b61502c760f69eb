//! The interface between the guest kernel and its VMM, written once for both.
//!
//! Everything here is plain data: constants, `repr(C)` layouts and PCID arithmetic. A change of
//! meaning or layout raises [`VERSION`], which the guest checks at boot.
#![no_std]
#![forbid(unsafe_code)]

/// An enum whose numbers are part of the interface.
macro_rules! numbered {
    ($(#[$meta:meta])* pub enum $name:ident {
        $($(#[$about:meta])* $variant:ident = $number:literal,)+
    }) => {
        $(#[$meta])*
        #[repr(u64)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$about])* $variant = $number,)+
        }

        impl TryFrom<u64> for $name {
            /// The number, which stands for nothing.
            type Error = u64;

            fn try_from(number: u64) -> Result<Self, u64> {
                match number {
                    $($number => Ok(Self::$variant),)+
                    other => Err(other),
                }
            }
        }
    };
}

pub mod boot;
pub mod hypercall;
pub mod layout;
pub mod note;
pub mod page;
pub mod pcid;
pub mod step;
pub mod tlb_state;
pub mod variant;
pub mod words;

/// Version of everything in this crate.
pub const VERSION: u32 = 5;
/// The oldest version that a kernel may have been built with: what came since was only added.
pub const OLDEST_VERSION: u32 = 3;
