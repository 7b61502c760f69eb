//! Host memory that KVM shows to the guest: anonymous pages and their revocation.

use crate::executor::ExecutorError;
use std::io;
use std::ptr::NonNull;

/// Anonymous host memory behind one KVM memory slot.
#[derive(Debug)]
pub struct HostPages {
    base: NonNull<u8>,
    len: usize,
}

impl HostPages {
    /// Maps `len` bytes (a multiple of 4096), zeroed.
    ///
    /// # Errors
    /// When mmap fails.
    pub fn new(len: usize) -> Result<Self, ExecutorError> {
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches
        // nothing that exists.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        match NonNull::new(base.cast::<u8>()) {
            Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { base, len }),
            _ => Err(ExecutorError::Host { what: "mmap", source: io::Error::last_os_error() }),
        }
    }

    /// The host address of the first byte.
    #[must_use]
    pub fn host_address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// Bytes mapped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Reads the aligned 8-byte word at `offset`; 0 beyond the end.
    #[must_use]
    pub fn read(&self, offset: u64) -> u64 {
        let Some(at) = self.word(offset) else { return 0 };
        // SAFETY: `word` gives an aligned address inside the mapping, which lives as long as
        // `self`. The guest may write it at any time, hence volatile.
        unsafe { at.read_volatile() }
    }

    /// Writes the aligned 8-byte word at `offset`; nothing beyond the end.
    pub fn write(&self, offset: u64, value: u64) {
        let Some(at) = self.word(offset) else { return };
        // SAFETY: as in `read`; no reference into the mapping exists anywhere.
        unsafe { at.write_volatile(value) }
    }

    fn word(&self, offset: u64) -> Option<*mut u64> {
        let offset = usize::try_from(offset).ok()?;
        if offset % 8 != 0 || offset.checked_add(8)? > self.len {
            return None;
        }
        // SAFETY: `offset + 8 <= len`, so the result stays inside the mapping.
        Some(unsafe { self.base.as_ptr().add(offset) }.cast())
    }
}

impl Drop for HostPages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and KVM's slot that uses it is gone with its VM, which
        // the executor drops first (field order).
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Makes KVM forget every mapping of the host pages in `[address, address + len)`: through the
/// MMU notifier it zaps their shadow or EPT/NPT entries, in all roots and aliases, and flushes
/// the processor's TLB before the guest runs again.
///
/// # Safety
/// The range is whole pages of a readable and writable mapping that the caller owns, no virtual
/// CPU runs, and nothing reads or writes the range meanwhile: between two calls it is unreadable.
///
/// # Errors
/// When mprotect fails.
pub unsafe fn revoke(address: u64, len: usize) -> Result<(), ExecutorError> {
    for protection in [libc::PROT_NONE, libc::PROT_READ | libc::PROT_WRITE] {
        // SAFETY: this function's own conditions; the second call restores the protection.
        let result = unsafe { libc::mprotect(address as *mut libc::c_void, len, protection) };
        if result != 0 {
            return Err(ExecutorError::Host {
                what: "mprotect",
                source: io::Error::last_os_error(),
            });
        }
    }
    Ok(())
}

/// Asks for 4 KiB host pages, so that [`revoke`] never has to split a larger one.
pub fn no_huge_pages(address: u64, len: usize) {
    // SAFETY: advice on memory that the caller owns; it changes no contents, and a refusal is
    // harmless.
    unsafe { libc::madvise(address as *mut libc::c_void, len, libc::MADV_NOHUGEPAGE) };
}
