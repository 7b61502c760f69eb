//! Where things were.

pub use crate::kernel::steps::{Image, ImageError, KernelInfo, KernelOptions, guest_image};
pub use crate::memory::{CodePages, Delta, GuestMemory};
pub use crate::symbols::{Location, Symbols, demangled};
