//! Where a sequence's choices come from, and the values that are worth choosing.

/// A stream of choices: bytes first, where there are any, then a generator of its own.
#[derive(Clone, Debug)]
pub struct Entropy<'a> {
    bytes: &'a [u8],
    state: u64,
}

impl<'a> Entropy<'a> {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { bytes: &[], state: seed }
    }

    /// The stream that `bytes` begin, for a fuzzer to steer by.
    pub fn from_bytes(bytes: &'a [u8]) -> Self {
        Self { bytes, state: bytes.len() as u64 }
    }

    /// 64 random bits (SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number
    /// generators", 2014).
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `count`.
    pub fn below(&mut self, count: u64) -> u64 {
        if let Some((byte, rest)) = self.bytes.split_first_chunk::<2>() {
            self.bytes = rest;
            return u64::from(u16::from_le_bytes(*byte)) % count;
        }
        self.bits() % count
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of `from`.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// An integer that instructions tend to get wrong, or any.
    pub fn integer(&mut self) -> u64 {
        let width = self.pick(&[8u32, 16, 32, 64]);
        let mask = u64::MAX >> (64 - width);
        match self.below(12) {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => mask,
            4 => mask >> 1,
            5 => !(mask >> 1),
            6 => 1 << (width - 1),
            7 => 1 << self.below(64),
            8 => self.below(70),
            9 => (self.bits() as i8) as u64,
            _ => self.bits(),
        }
    }

    /// An immediate of `width` bits, sign-extended.
    pub fn immediate(&mut self, width: u32) -> u64 {
        let value = self.integer();
        ((value << (64 - width)) as i64 >> (64 - width)) as u64
    }

    /// Eight bytes of data: two single-precision values, one of double precision, or integers.
    pub fn data(&mut self) -> u64 {
        match self.below(4) {
            0 => u64::from(self.single()) | u64::from(self.single()) << 32,
            1 => self.double(),
            _ => self.integer(),
        }
    }

    fn single(&mut self) -> u32 {
        let sign = u32::from(self.one_in(2)) << 31;
        let bits = self.bits() as u32;
        sign | match self.below(14) {
            0 => 0,
            1 => 0x3f80_0000,
            2 => 0x7f80_0000,
            3 => 0x7fc0_0000 | bits & 0x3f_ffff,
            // A signalling NaN.
            4 => 0x7f80_0001 | bits & 0x3f_ffff,
            // Denormals, the largest and the smallest normal numbers.
            5 => 1 | bits & 0x7f_ffff,
            6 => 1,
            7 => 0x7f_ffff,
            8 => 0x80_0000,
            9 => 0x7f7f_ffff,
            // About the ends of the integers.
            10 => self.pick(&[0x4eff_ffff, 0x4f00_0000, 0x5eff_ffff, 0x5f00_0000]),
            11 => (self.below(64) as f32 + 0.5).to_bits(),
            _ => (0x3f80_0000 + (bits & 0x0fff_ffff)).wrapping_sub(0x0800_0000) & 0x7fff_ffff,
        }
    }

    fn double(&mut self) -> u64 {
        let sign = u64::from(self.one_in(2)) << 63;
        let bits = self.bits();
        let fraction = bits & ((1 << 51) - 1);
        sign | match self.below(16) {
            0 => 0,
            1 => 1f64.to_bits(),
            2 => f64::INFINITY.to_bits(),
            3 => 0x7ff8 << 48 | fraction,
            4 => 0x7ff0_0000_0000_0001 | fraction,
            5 => 1 | fraction,
            6 => 1,
            7 => (1 << 52) - 1,
            8 => 1 << 52,
            9 => f64::MAX.to_bits(),
            10 => self.pick(&[2147483647.5f64, 2147483648.0, 9.3e18, 9.2e18]).to_bits(),
            11 => (self.below(64) as f64 + 0.5).to_bits(),
            // About the ends of single precision.
            12 => f64::from(f32::MAX).to_bits() + self.below(3),
            13 => f64::from(f32::MIN_POSITIVE).to_bits() - self.below(3) + (bits & 0xf << 28),
            _ => (0x3ff0_0000_0000_0000 + (bits & 0x03ff_ffff_ffff_ffff)) - 0x0200_0000_0000_0000,
        }
    }

    /// A value for MXCSR; exceptions are seldom unmasked, overflow and underflow never.
    pub fn mxcsr(&mut self) -> u32 {
        let modes = self.bits() as u32 & 0xe07f;
        let modes = if self.one_in(2) { modes & !0x8040 } else { modes };
        let masks = match self.below(6) {
            // An exception whose flag is set already does not trap on its own.
            0 => self.bits() as u32 & 0x1f80 | 0xc00,
            _ => 0x1f80,
        };
        modes | masks
    }
}
