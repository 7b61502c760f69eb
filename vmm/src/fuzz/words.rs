//! What the first word of each frame may be: one value, or several where that depends on when a CPU
//! goes on, or on what is cached.

use super::action::Outcome;
use crate::scenario::MOST_VALUES;
use stalemate_shared::layout::{COLOURS, LARGE_COLOURS, colour_word};
use std::collections::BTreeSet;

/// A frame, small or 2 MiB, by its colour; above the colours of small frames are copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Word {
    pub large: bool,
    pub colour: usize,
}

/// The values that each word may have.
#[derive(Clone, Debug)]
pub(super) struct Words {
    small: Vec<BTreeSet<u64>>,
    large: [BTreeSet<u64>; LARGE_COLOURS],
}

impl Default for Words {
    fn default() -> Self {
        let one = |colour| BTreeSet::from([colour_word(colour)]);
        Self { small: (0..COLOURS.len()).map(one).collect(), large: std::array::from_fn(one) }
    }
}

impl Words {
    /// A copy comes into being, with this value; its colour.
    pub(super) fn copy(&mut self, value: u64) -> usize {
        self.small.push(BTreeSet::from([value]));
        self.small.len() - 1
    }

    pub(super) fn get(&self, word: Word) -> &BTreeSet<u64> {
        if word.large { &self.large[word.colour] } else { &self.small[word.colour] }
    }

    pub(super) fn set(&mut self, word: Word, values: BTreeSet<u64>) {
        let at =
            if word.large { &mut self.large[word.colour] } else { &mut self.small[word.colour] };
        *at = values;
    }

    /// The word may have this value, too.
    pub(super) fn may_be(&mut self, word: Word, value: u64) {
        let mut values = self.get(word).clone();
        values.insert(value);
        self.set(word, values);
    }
}

/// What a load may come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    pub values: BTreeSet<u64>,
    pub fault: bool,
}

impl Reading {
    /// These too.
    pub(super) fn add(&mut self, other: Self) {
        self.values.extend(other.values);
        self.fault |= other.fault;
    }

    /// As a step line says it; nothing where the values are too many for one.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        let mut values = [None; MOST_VALUES];
        if self.values.len() > MOST_VALUES {
            return None;
        }
        for (at, value) in values.iter_mut().zip(&self.values) {
            *at = Some(*value);
        }
        Some(match (values, self.fault) {
            ([None, ..], _) => Outcome::Fault,
            ([Some(value), None, ..], false) => Outcome::Value(value),
            (values, fault) => Outcome::OneOf { values, fault },
        })
    }
}
