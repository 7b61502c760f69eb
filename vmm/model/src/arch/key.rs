//! A state as bytes: those of two states are equal only where their futures are.
//!
//! What the future does not depend on is left out, or told by what it comes to: the numbers of events,
//! which rise for ever, by how many of the moments that later judgements look back to come before them.

use std::hash::{Hash, Hasher};

/// The bytes of a state, as they are gathered.
#[derive(Clone, Debug, Default)]
pub struct StateKey {
    bytes: Vec<u8>,
    /// The events that later judgements compare others with, in order.
    moments: Vec<u64>,
}

impl StateKey {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Begins anew.
    pub fn clear(&mut self) {
        self.moments.clear();
        self.bytes.clear();
    }

    /// From now on events are told by these moments.
    pub fn set_moments(&mut self, mut moments: Vec<u64>) {
        moments.sort_unstable();
        moments.dedup();
        self.moments = moments;
    }

    /// Adds a value.
    pub fn put(&mut self, value: impl Hash) {
        value.hash(self);
    }

    /// Adds raw bytes.
    pub fn put_bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Adds the place of an event among the moments.
    pub fn put_event(&mut self, seq: u64) {
        let before = self.moments.partition_point(|moment| *moment < seq);
        let is_one = self.moments.get(before) == Some(&seq);
        self.put((before, is_one));
    }

    /// Adds parts whose order says nothing.
    pub fn put_unordered<T>(
        &mut self,
        parts: impl IntoIterator<Item = T>,
        mut put: impl FnMut(&mut Self, T),
    ) {
        let mut sorted = Vec::new();
        for part in parts {
            let mut of_part =
                Self { bytes: Vec::new(), moments: std::mem::take(&mut self.moments) };
            put(&mut of_part, part);
            self.moments = of_part.moments;
            sorted.push(of_part.bytes);
        }
        sorted.sort_unstable();
        self.put(sorted);
    }
}

impl Hasher for StateKey {
    /// The bytes are what counts, and not this.
    fn finish(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn write(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_by_the_moments_before_them() {
        let key = |moments: Vec<u64>, seq| {
            let mut key = StateKey::new();
            key.set_moments(moments);
            key.put_event(seq);
            key.bytes().to_vec()
        };
        assert_eq!(key(vec![10, 20], 15), key(vec![100, 7], 99));
        assert_ne!(key(vec![10, 20], 15), key(vec![10, 20], 25));
        assert_ne!(key(vec![10, 20], 20), key(vec![10, 20], 15));
    }

    #[test]
    fn the_order_of_unordered_parts_says_nothing() {
        let key = |parts: [u32; 2]| {
            let mut key = StateKey::new();
            key.put_unordered(parts, |key, part| key.put(part));
            key.bytes().to_vec()
        };
        assert_eq!(key([1, 2]), key([2, 1]));
        assert_ne!(key([1, 2]), key([1, 3]));
    }
}
