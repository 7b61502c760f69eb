//! The guest's loads and stores: from the memory operand of an instruction to bytes, or to the trap
//! that the access ends in.

use super::engine::{Engine, Trapped};
use super::memory::Missing;
use super::uop::{STACK, Uop};

impl Engine {
    /// Loads the memory operand.
    #[inline(always)]
    pub fn load_operand<const BITS: u32>(&mut self, uop: &Uop) -> Result<u64, Trapped> {
        let address = self.address(uop);
        self.load_at::<BITS>(address, uop.bits & STACK != 0)
    }

    /// Stores to the memory operand.
    #[inline(always)]
    pub fn store_operand<const BITS: u32>(&mut self, uop: &Uop, value: u64) -> Result<(), Trapped> {
        let address = self.address(uop);
        self.store_at::<BITS>(address, uop.bits & STACK != 0, value)
    }

    #[cold]
    fn missing<T>(&mut self, missing: Missing, write: bool, stack: bool) -> Result<T, Trapped> {
        match missing {
            Missing::NotCanonical => self.not_canonical(stack),
            Missing::Page { address, present } => self.page_fault(address, write, present),
        }
    }

    /// Loads `BITS` bits at `address`.
    #[inline(always)]
    pub fn load_at<const BITS: u32>(&mut self, address: u64, stack: bool) -> Result<u64, Trapped> {
        let Some(at) = self.memory.readable(address, u64::from(BITS / 8)) else {
            let mut bytes = [0; 8];
            self.load_slow(address, &mut bytes[..BITS as usize / 8], stack)?;
            return Ok(u64::from_le_bytes(bytes));
        };
        // SAFETY: `readable` gave BITS / 8 bytes of guest memory.
        Ok(unsafe {
            match BITS {
                8 => u64::from(at.read()),
                16 => u64::from(at.cast::<u16>().read_unaligned()),
                32 => u64::from(at.cast::<u32>().read_unaligned()),
                _ => at.cast::<u64>().read_unaligned(),
            }
        })
    }

    #[cold]
    fn load_slow(&mut self, address: u64, bytes: &mut [u8], stack: bool) -> Result<(), Trapped> {
        match self.memory.parts(address, bytes.len(), false) {
            Ok(parts) => {
                self.memory.copy_out(&parts, bytes);
                Ok(())
            }
            Err(missing) => self.missing(missing, false, stack),
        }
    }

    /// Stores the low `BITS` bits of `value` at `address`.
    #[inline(always)]
    pub fn store_at<const BITS: u32>(
        &mut self,
        address: u64,
        stack: bool,
        value: u64,
    ) -> Result<(), Trapped> {
        let Some(at) = self.memory.writable(address, u64::from(BITS / 8)) else {
            return self.store_slow(address, &value.to_le_bytes()[..BITS as usize / 8], stack);
        };
        // SAFETY: `writable` gave BITS / 8 bytes of guest memory.
        unsafe {
            match BITS {
                8 => at.write(value as u8),
                16 => at.cast::<u16>().write_unaligned(value as u16),
                32 => at.cast::<u32>().write_unaligned(value as u32),
                _ => at.cast::<u64>().write_unaligned(value),
            }
        }
        Ok(())
    }

    #[cold]
    fn store_slow(&mut self, address: u64, bytes: &[u8], stack: bool) -> Result<(), Trapped> {
        match self.memory.parts(address, bytes.len(), true) {
            Ok(parts) => {
                self.memory.copy_in(&parts, bytes);
                Ok(())
            }
            Err(missing) => self.missing(missing, true, stack),
        }
    }

    /// Reads and replaces the memory operand at `address` by `change`, which also gives what
    /// `modify_at` returns. Any fault is a write's.
    #[inline(always)]
    pub fn modify_at<const BITS: u32, T>(
        &mut self,
        address: u64,
        stack: bool,
        change: impl FnOnce(&mut Self, u64) -> (u64, T),
    ) -> Result<T, Trapped> {
        if let Some(at) = self.memory.writable(address, u64::from(BITS / 8)) {
            // SAFETY: `writable` gave BITS / 8 bytes of guest memory, and what can be written
            // can be read.
            let old = unsafe {
                match BITS {
                    8 => u64::from(at.read()),
                    16 => u64::from(at.cast::<u16>().read_unaligned()),
                    32 => u64::from(at.cast::<u32>().read_unaligned()),
                    _ => at.cast::<u64>().read_unaligned(),
                }
            };
            let (new, result) = change(self, old);
            self.store_at::<BITS>(address, stack, new)?;
            return Ok(result);
        }
        let size = BITS as usize / 8;
        let parts = match self.memory.parts(address, size, true) {
            Ok(parts) => parts,
            Err(missing) => return self.missing(missing, true, stack),
        };
        let mut bytes = [0; 8];
        self.memory.copy_out(&parts, &mut bytes[..size]);
        let (new, result) = change(self, u64::from_le_bytes(bytes));
        self.memory.copy_in(&parts, &new.to_le_bytes()[..size]);
        Ok(result)
    }

    /// Loads 128 bits.
    #[inline(always)]
    pub fn load_wide(&mut self, address: u64, stack: bool) -> Result<u128, Trapped> {
        let Some(at) = self.memory.readable(address, 16) else {
            let mut bytes = [0; 16];
            self.load_slow(address, &mut bytes, stack)?;
            return Ok(u128::from_le_bytes(bytes));
        };
        // SAFETY: `readable` gave 16 bytes of guest memory.
        Ok(unsafe { at.cast::<u128>().read_unaligned() })
    }

    /// Stores 128 bits.
    #[inline(always)]
    pub fn store_wide(&mut self, address: u64, stack: bool, value: u128) -> Result<(), Trapped> {
        let Some(at) = self.memory.writable(address, 16) else {
            return self.store_slow(address, &value.to_le_bytes(), stack);
        };
        // SAFETY: `writable` gave 16 bytes of guest memory.
        unsafe { at.cast::<u128>().write_unaligned(value) };
        Ok(())
    }

    /// Loads bytes of any number up to a page's.
    pub fn load_bytes(
        &mut self,
        address: u64,
        bytes: &mut [u8],
        stack: bool,
    ) -> Result<(), Trapped> {
        self.load_slow(address, bytes, stack)
    }

    /// Stores bytes of any number up to a page's.
    pub fn store_bytes(&mut self, address: u64, bytes: &[u8], stack: bool) -> Result<(), Trapped> {
        self.store_slow(address, bytes, stack)
    }
}
