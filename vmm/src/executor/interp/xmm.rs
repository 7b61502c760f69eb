//! The x87 and SSE state, and FXSAVE's image of it.

use std::arch::asm;

/// Bytes of FXSAVE's image.
pub const IMAGE: usize = 512;
/// Words of the opaque state image: an XSAVE area of KVM's size.
pub const STATE_WORDS: usize = 1024;
const MXCSR_AT: usize = 24;
const MXCSR_MASK_AT: usize = 28;
const XMM_AT: usize = 160;
/// Where FXSAVE stores the x87's registers, ST0 first, and how long each of them is there.
const STACK_AT: usize = 32;
const STACK_LEN: usize = 16;
/// The x87's control word after FNINIT.
const CONTROL_RESET: u16 = 0x37f;
/// Bits that the control word has, and the one that is always 1.
const CONTROL_BITS: u16 = 0x1f3f;
const CONTROL_ONE: u16 = 0x40;
/// The exceptions in the control and status words.
const EXCEPTIONS: u16 = 0x3f;
/// Exception flags, stack fault, and the summary of what is not masked.
const CLEARED: u16 = 0x80ff;
const SUMMARY: u16 = 0x8080;
/// Where FXSAVE stops to write.
const RESERVED_AT: usize = 416;
/// XSTATE_BV's place in an XSAVE area, in words; x87 and SSE in it.
const XSTATE_BV_WORD: usize = 128;
const XSTATE_X87_SSE: u32 = 3;
/// MXCSR after a reset.
const MXCSR_RESET: u32 = 0x1f80;

/// SSE registers and MXCSR; the x87's are kept, not computed with.
#[derive(Clone, Debug)]
pub struct Fpu {
    pub xmm: [u128; 16],
    pub mxcsr: u32,
    /// Bits that MXCSR has on this host.
    pub mxcsr_mask: u32,
    /// Control words and stack, as FXSAVE stores them.
    x87: [u8; XMM_AT],
}

#[repr(C, align(16))]
struct Aligned([u8; IMAGE]);

impl Fpu {
    /// The state after a reset.
    pub fn new() -> Self {
        let mut host = Aligned([0; IMAGE]);
        // SAFETY: FXSAVE64 writes 512 bytes at an aligned address, and nothing else.
        unsafe {
            asm!("fxsave64 [{at}]", at = in(reg) &raw mut host, options(nostack, preserves_flags));
        }
        let mask = u32_at(&host.0, MXCSR_MASK_AT);
        let mut x87 = [0; XMM_AT];
        // FCW after FNINIT.
        x87[..2].copy_from_slice(&CONTROL_RESET.to_le_bytes());
        Self {
            xmm: [0; 16],
            mxcsr: MXCSR_RESET,
            mxcsr_mask: if mask == 0 { 0xffbf } else { mask },
            x87,
        }
    }

    /// What FXSAVE64 stores.
    pub fn image(&self) -> [u8; RESERVED_AT] {
        let mut image = [0; RESERVED_AT];
        image[..XMM_AT].copy_from_slice(&self.x87);
        image[MXCSR_AT..][..4].copy_from_slice(&self.mxcsr.to_le_bytes());
        image[MXCSR_MASK_AT..][..4].copy_from_slice(&self.mxcsr_mask.to_le_bytes());
        for (number, xmm) in self.xmm.iter().enumerate() {
            image[XMM_AT + number * 16..][..16].copy_from_slice(&xmm.to_le_bytes());
        }
        image
    }

    /// What FXSAVE stores: offsets of 32 bits, and selectors, which are 0.
    pub fn short_image(&self) -> [u8; RESERVED_AT] {
        let mut image = self.image();
        for offset in [8, 16] {
            image[offset + 4..offset + 8].fill(0);
        }
        image
    }

    /// Loads what [`Fpu::short_image`] gave, as [`Fpu::load`] does.
    pub fn load_short(&mut self, image: &[u8; RESERVED_AT]) -> bool {
        let mut wide = *image;
        for offset in [8, 16] {
            wide[offset + 4..offset + 8].fill(0);
        }
        self.load(&wide)
    }

    /// The x87's control word.
    pub fn control_word(&self) -> u16 {
        u16::from_le_bytes([self.x87[0], self.x87[1]])
    }

    /// The x87's status word.
    pub fn status_word(&self) -> u16 {
        u16::from_le_bytes([self.x87[2], self.x87[3]])
    }

    fn set_status_word(&mut self, word: u16) {
        self.x87[2..4].copy_from_slice(&word.to_le_bytes());
    }

    /// Whether an exception of the x87 waits for the next of its instructions.
    pub fn is_pending(&self) -> bool {
        self.status_word() & !self.control_word() & EXCEPTIONS != 0
    }

    /// FLDCW: what it unmasks is pending from now on.
    pub fn set_control_word(&mut self, word: u16) {
        self.x87[..2].copy_from_slice(&(word & CONTROL_BITS | CONTROL_ONE).to_le_bytes());
        let summary = if self.is_pending() { SUMMARY } else { 0 };
        self.set_status_word(self.status_word() & !SUMMARY | summary);
    }

    /// FNCLEX.
    pub fn clear_exceptions(&mut self) {
        self.set_status_word(self.status_word() & !CLEARED);
    }

    /// FNINIT. The registers keep what they hold; their numbers are counted from TOP.
    pub fn initialize(&mut self) {
        let top = usize::from(self.status_word() >> 11 & 7);
        self.x87[STACK_AT..].rotate_right(top * STACK_LEN);
        self.x87[..MXCSR_AT].fill(0);
        self.x87[..2].copy_from_slice(&CONTROL_RESET.to_le_bytes());
    }

    /// Loads what [`Fpu::image`] gave; false for an MXCSR with bits that do not exist.
    pub fn load(&mut self, image: &[u8; RESERVED_AT]) -> bool {
        let mxcsr = u32_at(image, MXCSR_AT);
        if mxcsr & !self.mxcsr_mask != 0 {
            return false;
        }
        self.mxcsr = mxcsr;
        self.x87.copy_from_slice(&image[..XMM_AT]);
        for (number, xmm) in self.xmm.iter_mut().enumerate() {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&image[XMM_AT + number * 16..][..16]);
            *xmm = u128::from_le_bytes(bytes);
        }
        true
    }

    /// The state as an XSAVE area.
    pub fn save_state(&self) -> Vec<u32> {
        let mut words = vec![0; STATE_WORDS];
        for (word, bytes) in words.iter_mut().zip(self.image().as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        words[XSTATE_BV_WORD] = XSTATE_X87_SSE;
        words
    }

    /// Takes over what an XSAVE area holds; what is missing in it is as after a reset.
    pub fn restore_state(&mut self, words: &[u32]) {
        let mut image = [0; RESERVED_AT];
        for (bytes, word) in image.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
        let held = words.get(XSTATE_BV_WORD).copied().unwrap_or(0);
        let reset = Self::new();
        if held & 1 == 0 {
            image[..24].copy_from_slice(&reset.x87[..24]);
            image[32..XMM_AT].copy_from_slice(&reset.x87[32..]);
        }
        if held & 2 == 0 {
            image[XMM_AT..].fill(0);
        }
        let mxcsr = u32_at(&image, MXCSR_AT) & self.mxcsr_mask;
        image[MXCSR_AT..][..4].copy_from_slice(&mxcsr.to_le_bytes());
        self.load(&image);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}
