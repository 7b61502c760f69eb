//! The arithmetic flags, computed when they are read.

use crate::arch::vcpu::flags::{AF, ARITHMETIC, CF, OF, PF, SF, ZF};

/// CF is kept as it is; the others either as bits, or as what they follow from: a result, and
/// the carry out of each of its bits.
#[derive(Clone, Copy, Debug)]
pub struct Flags {
    carry: bool,
    /// Width of `result` in bits; 0 when `bits` holds the flags.
    width: u32,
    result: u64,
    carries: u64,
    bits: u64,
}

impl Flags {
    /// Those of `rflags`.
    pub fn new(rflags: u64) -> Self {
        let bits = rflags & ARITHMETIC;
        Self { carry: bits & CF != 0, width: 0, result: 0, carries: 0, bits }
    }

    /// All six as RFLAGS has them.
    pub fn get(&self) -> u64 {
        let mut bits = u64::from(self.carry);
        if self.width == 0 {
            return bits | self.bits & !CF;
        }
        for (flag, set) in [
            (PF, self.parity()),
            (AF, self.carries >> 3 & 1 != 0),
            (ZF, self.zero()),
            (SF, self.sign()),
            (OF, self.overflow()),
        ] {
            bits |= if set { flag } else { 0 };
        }
        bits
    }

    /// Replaces all six.
    pub fn set(&mut self, bits: u64) {
        *self = Self::new(bits);
    }

    /// The flags of a sum or difference `result` of `width` bits: `carries` has the carry, or
    /// borrow, out of each bit.
    #[inline(always)]
    pub fn arithmetic(&mut self, width: u32, result: u64, carries: u64) {
        self.carry = carries >> (width - 1) & 1 != 0;
        self.keeping_carry(width, result, carries);
    }

    /// As [`Flags::arithmetic`] for INC and DEC, which leave CF alone.
    #[inline(always)]
    pub fn keeping_carry(&mut self, width: u32, result: u64, carries: u64) {
        self.width = width;
        self.result = result;
        self.carries = carries;
    }

    /// The flags of a logical `result`: CF, OF and AF are 0.
    #[inline(always)]
    pub fn logical(&mut self, width: u32, result: u64) {
        self.carry = false;
        self.keeping_carry(width, result, 0);
    }

    /// SF, ZF and PF of `result`, with CF and OF as given and AF 0.
    #[inline(always)]
    pub fn shifted(&mut self, width: u32, result: u64, carry: bool, overflow: bool) {
        self.carry = carry;
        self.keeping_carry(width, result, u64::from(overflow) << (width - 2));
    }

    /// CF and OF as given, the others as they are.
    pub fn rotated(&mut self, carry: bool, overflow: bool) {
        let kept = self.get() & !(CF | OF);
        self.set(kept | if carry { CF } else { 0 } | if overflow { OF } else { 0 });
    }

    #[inline(always)]
    pub fn set_carry(&mut self, carry: bool) {
        self.carry = carry;
    }

    /// Changes ZF alone.
    pub fn set_zero(&mut self, zero: bool) {
        let kept = self.get() & !ZF;
        self.set(kept | if zero { ZF } else { 0 });
    }

    #[inline(always)]
    pub fn carry(&self) -> bool {
        self.carry
    }

    #[inline(always)]
    pub fn zero(&self) -> bool {
        if self.width == 0 { self.bits & ZF != 0 } else { self.result == 0 }
    }

    #[inline(always)]
    pub fn sign(&self) -> bool {
        if self.width == 0 { self.bits & SF != 0 } else { self.result >> (self.width - 1) & 1 != 0 }
    }

    #[inline(always)]
    pub fn overflow(&self) -> bool {
        if self.width == 0 {
            return self.bits & OF != 0;
        }
        (self.carries ^ self.carries << 1) >> (self.width - 1) & 1 != 0
    }

    #[inline(always)]
    pub fn parity(&self) -> bool {
        if self.width == 0 {
            self.bits & PF != 0
        } else {
            (self.result as u8).count_ones().is_multiple_of(2)
        }
    }

    /// Condition `CC` as instructions encode it in their low four bits.
    #[inline(always)]
    pub fn condition<const CC: u8>(&self) -> bool {
        let holds = match CC >> 1 {
            0 => self.overflow(),
            1 => self.carry(),
            2 => self.zero(),
            3 => self.carry() || self.zero(),
            4 => self.sign(),
            5 => self.parity(),
            6 => self.sign() != self.overflow(),
            _ => self.zero() || self.sign() != self.overflow(),
        };
        holds != (CC & 1 != 0)
    }
}

/// The carry out of each bit of `a + b + c = sum`.
#[inline(always)]
pub fn carries_of_sum(a: u64, b: u64, sum: u64) -> u64 {
    (a & b) | ((a | b) & !sum)
}

/// The borrow out of each bit of `a - b - c = difference`.
#[inline(always)]
pub fn borrows_of_difference(a: u64, b: u64, difference: u64) -> u64 {
    (!a & b) | ((!a | b) & difference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_a_byte_subtraction_that_borrows_and_overflows() {
        let mut flags = Flags::new(ZF | AF);
        flags.arithmetic(8, 0xff, borrows_of_difference(0x7f, 0x80, 0xff));
        assert_eq!(flags.get(), CF | SF | OF | PF);
    }

    #[test]
    fn flags_of_an_addition_that_wraps_to_zero() {
        let mut flags = Flags::new(SF | OF);
        flags.arithmetic(64, 0, carries_of_sum(u64::MAX, 1, 0));
        assert_eq!(flags.get(), CF | PF | AF | ZF);
    }

    #[test]
    fn lazy_flags_are_those_of_the_definition() {
        for width in [8u32, 16, 32, 64] {
            let mask = u64::MAX >> (64 - width);
            let top = 1u64 << (width - 1);
            let edges = [0, 1, 8, 15, 16, top - 1, top, top + 1, mask - 1, mask];
            for a in edges {
                for b in edges {
                    let mut flags = Flags::new(0);
                    let sum = a.wrapping_add(b) & mask;
                    flags.arithmetic(width, sum, carries_of_sum(a, b, sum));
                    let wide = u128::from(a) + u128::from(b);
                    assert_eq!(flags.carry(), wide > u128::from(mask), "{a:x} + {b:x}");
                    let overflow = (a ^ sum) & (b ^ sum) & top != 0;
                    assert_eq!(flags.overflow(), overflow, "{a:x} + {b:x} in {width}");
                    assert_eq!(flags.get() & AF != 0, (a & 15) + (b & 15) > 15);
                    let difference = a.wrapping_sub(b) & mask;
                    let borrows = borrows_of_difference(a, b, difference);
                    flags.arithmetic(width, difference, borrows);
                    assert_eq!(flags.carry(), a < b, "{a:x} - {b:x}");
                    let overflow = (a ^ b) & (a ^ difference) & top != 0;
                    assert_eq!(flags.overflow(), overflow, "{a:x} - {b:x} in {width}");
                    assert_eq!(flags.get() & AF != 0, a & 15 < b & 15);
                }
            }
        }
    }
}
