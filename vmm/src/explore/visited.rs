//! The states that were visited, by 128 bits of hash.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

/// What is hashed is a hash already.
#[derive(Default)]
struct Low(u64);

impl Hasher for Low {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for (place, byte) in bytes.iter().enumerate() {
            self.0 ^= u64::from(*byte) << (place % 8 * 8);
        }
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

/// Visited states, each with the fewest preemptions that led to it.
#[derive(Default)]
pub(super) struct Visited {
    states: HashMap<u128, u32, BuildHasherDefault<Low>>,
}

impl Visited {
    /// Notes a visit; whether there is something to be seen there that was not before.
    pub(super) fn visit(&mut self, state: u128, preemptions: u32) -> bool {
        match self.states.entry(state) {
            Entry::Vacant(new) => {
                new.insert(preemptions);
                true
            }
            Entry::Occupied(mut known) => {
                let fewer = preemptions < *known.get();
                if fewer {
                    known.insert(preemptions);
                }
                fewer
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    /// Bytes that it takes, about.
    pub(super) fn bytes(&self) -> usize {
        self.states.capacity() * (size_of::<(u128, u32)>() + 1)
    }
}
