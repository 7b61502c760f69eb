//! What accesses come to, and what they leave.

use super::{Illegal, Place, World, is_large, place};
use crate::fuzz::action::{Action, Frame, Outcome, Verb};
use crate::fuzz::held::{Store, is_between};
use crate::fuzz::words::{Reading, Word};
use stalemate_shared::page::Page;
use std::collections::{BTreeMap, BTreeSet};

impl World {
    /// What a step has done may be seen by the loads that are held back.
    pub(super) fn follow(
        &mut self,
        action: &Action,
        pages: &BTreeMap<Place, Option<Frame>>,
    ) -> Result<(), Illegal> {
        let loads: Vec<u8> = self
            .held
            .iter()
            .filter(|(_, held)| held.reading.is_some())
            .map(|(cpu, _)| *cpu)
            .collect();
        for cpu in loads {
            let Some(held) = self.held.get(&cpu) else { continue };
            let Verb::Read(page, user) = held.action.verb else { continue };
            let mut seen = self.reading(held.action.mm, page, user);
            let place = place(held.action.mm, page);
            // A store that changes what a page shows copies it.
            let stores = matches!(action.verb, Verb::Write(..));
            let between = pages.get(&place).is_some_and(|before| {
                is_between(action.verb) || stores && *before != self.pages.get(&place).copied()
            });
            seen.fault |= between;
            let Some(reading) = self.held.get_mut(&cpu).and_then(|held| held.reading.as_mut())
            else {
                continue;
            };
            reading.add(seen);
            if reading.outcome().is_none() {
                return Err(Illegal::Refused);
            }
        }
        Ok(())
    }

    /// What a load may come to.
    pub(super) fn reading(&self, mm: usize, page: Page, user: bool) -> Reading {
        let mut reading = Reading::default();
        for state in self.states(place(mm, page)) {
            // User mode meets no kernel page.
            match state.filter(|_| !user || !matches!(page, Page::Kernel(_))) {
                Some(Frame { colour, .. }) => {
                    reading.values.extend(self.words.get(Word { large: is_large(page), colour }));
                }
                None => reading.fault = true,
            }
        }
        reading
    }

    /// A store; `store` is where it is to, if it copies nothing.
    pub(super) fn write(
        &mut self,
        action: &Action,
        (page, user, new): (Page, bool, u64),
        pages: &BTreeMap<Place, Option<Frame>>,
        store: &mut Option<Store>,
    ) -> Result<Outcome, Illegal> {
        let place = place(action.mm, page);
        let states = self.states(place);
        let barred = user && matches!(page, Page::Kernel(_));
        let word = |frame: &Frame| Word { large: is_large(page), colour: frame.colour };
        let copies = |frame: &Frame| user && frame.shared && !frame.writable;
        let faults = |state: &Option<Frame>| {
            barred || state.is_none_or(|frame| !frame.writable && !copies(&frame))
        };
        if states.iter().all(faults) {
            return Ok(Outcome::Fault);
        }
        match states[..] {
            [Some(frame)] if frame.writable => {
                let held = action.hold.is_some();
                *store = Some(self.store(word(&frame), new, held));
            }
            [Some(frame)] => {
                self.apart(action, pages)?;
                if self.is_written(frame.colour, |of, _| of != place) {
                    return Err(Illegal::Refused);
                }
                self.take_frame()?;
                let colour = self.words.copy(new);
                let copied = Frame { colour, writable: true, shared: false, ..frame };
                self.pages.insert(place, copied);
            }
            // To one of several frames.
            _ => {
                let writable = |state: &Option<Frame>| state.filter(|frame| frame.writable);
                let frames: Option<Vec<Frame>> = states.iter().map(writable).collect();
                let frames = frames.filter(|_| action.hold.is_none()).ok_or(Illegal::Refused)?;
                for frame in frames {
                    self.words.may_be(word(&frame), new);
                    self.overlaps(word(&frame));
                }
            }
        }
        Ok(Outcome::Done)
    }

    /// Stores a value, now or, where the step is held back, some time until it goes on.
    fn store(&mut self, word: Word, value: u64, held: bool) -> Store {
        let others = self.overlaps(word);
        let mut values: BTreeSet<u64> = others.iter().copied().chain([value]).collect();
        if held {
            values.extend(self.words.get(word));
        }
        self.words.set(word, values);
        Store { word, value, alone: others.is_empty() }
    }

    /// The values that stores of other CPUs may still leave in a word: which is last is open.
    fn overlaps(&mut self, word: Word) -> Vec<u64> {
        let stores = self.held.values_mut().filter_map(|held| held.store.as_mut());
        let here = stores.filter(|store| store.word == word);
        here.map(|store| {
            store.alone = false;
            store.value
        })
        .collect()
    }

    /// What an access may meet at a page: what it shows, or what is cached; what it showed, or
    /// nothing, where another CPU is in the midst of an edit.
    pub(super) fn states(&self, place: Place) -> Vec<Option<Frame>> {
        let held = self.held.values().filter_map(|held| {
            let before = *held.places.get(&place)?;
            let copies = matches!(held.action.verb, Verb::Write(..)) && held.store.is_none();
            let between = (copies || is_between(held.action.verb)).then_some(None);
            Some(std::iter::once(before).chain(between))
        });
        let owed = self.owed.get(&place).into_iter().flat_map(|debt| &debt.cached);
        let pending = self.deferred.iter().filter(|((_, of), _)| *of == place);
        let cached = owed.copied().chain(pending.map(|(_, pending)| pending.cached));
        let all = std::iter::once(self.pages.get(&place).copied())
            .chain(held.flatten())
            .chain(cached.map(Some));
        let alike = |one: &Frame, other: &Frame| {
            (one.colour, one.writable, one.shared) == (other.colour, other.writable, other.shared)
        };
        let mut states: Vec<Option<Frame>> = Vec::new();
        for state in all {
            let known = states.iter().any(|known| match (known, &state) {
                (Some(known), Some(state)) => alike(known, state),
                (known, state) => known.is_none() && state.is_none(),
            });
            if !known {
                states.push(state);
            }
        }
        states
    }
}
