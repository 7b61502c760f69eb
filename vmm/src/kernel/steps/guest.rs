//! A kernel to test.

use super::{Abilities, Image, ImageError};
use crate::symbols::Symbols;
use std::path::Path;
use std::sync::Arc;

/// A kernel to test: its image, checked, and its symbols. A clone is the same kernel.
#[derive(Clone, Debug)]
pub struct Guest {
    image: Arc<Image>,
    symbols: Arc<Symbols>,
}

/// Why there is no guest.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// It is no kernel for this VMM.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl Guest {
    /// The guest kernel that was built with this VMM.
    #[must_use]
    pub fn builtin() -> Self {
        let bytes = include_bytes!(concat!(env!("OUT_DIR"), "/guest.elf"));
        let guest = Self::from_elf(&bytes[..]);
        guest.unwrap_or_else(|error| unreachable!("the build has checked its guest: {error}"))
    }

    /// The kernel in an ELF file's bytes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_elf(bytes: impl Into<Arc<[u8]>>) -> Result<Self, ImageError> {
        let image = Image::parse(bytes)?;
        let symbols = Arc::new(Symbols::new(image.bytes()));
        Ok(Self { image: Arc::new(image), symbols })
    }

    /// The kernel in an ELF file.
    ///
    /// # Errors
    /// Where it cannot be read, and what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, GuestError> {
        Ok(Self::from_elf(std::fs::read(path)?)?)
    }

    /// Its image.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// What it can do: everything, where it does not say.
    #[must_use]
    pub fn abilities(&self) -> Abilities {
        self.image.abilities().copied().unwrap_or(Abilities::ALL)
    }

    /// Its symbols.
    #[must_use]
    pub fn symbols(&self) -> &Symbols {
        &self.symbols
    }
}
