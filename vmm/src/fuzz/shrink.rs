//! From a program that fails to a smaller one that fails in the same way: delta debugging over
//! steps (Zeller, Hildebrandt: "Simplifying and isolating failure-inducing input", 2002).
//!
//! A candidate is always a legal program: what the removal of a step makes impossible is removed
//! too, what must come of the remaining steps is derived anew, and a candidate that owes a flush
//! is none.

use super::action::{Action, Frame, Verb};
use super::generate::Program;
use super::model::{Illegal, World};
use crate::inject::Fault;
use stalemate_shared::page::Page;
use std::collections::BTreeMap;

/// Candidates that are tried at most.
const BUDGET: usize = 3000;

/// The smallest program that was found for which `fails` says that it fails as the first did.
///
/// # Errors
/// What `fails` returns.
pub fn shrink<E>(
    program: &Program,
    fails: &mut dyn FnMut(&Program) -> Result<bool, E>,
) -> Result<Program, E> {
    let mut smallest = Smallest { program: program.clone(), left: BUDGET, fails };
    smallest.without_faults()?;
    smallest.fewer_steps()?;
    smallest.plainer_steps()?;
    smallest.lower_names()?;
    Ok(smallest.program)
}

struct Smallest<'f, E> {
    program: Program,
    left: usize,
    fails: &'f mut dyn FnMut(&Program) -> Result<bool, E>,
}

impl<E> Smallest<'_, E> {
    /// Takes a candidate if it fails.
    fn offer(&mut self, candidate: Program) -> Result<bool, E> {
        if self.left == 0 || candidate == self.program {
            return Ok(false);
        }
        self.left -= 1;
        let fails = (self.fails)(&candidate)?;
        if fails {
            self.program = candidate;
        }
        Ok(fails)
    }

    fn without_faults(&mut self) -> Result<(), E> {
        self.offer(Program { faults: Vec::new(), ..self.program.clone() }).map(|_| ())
    }

    /// Leaves out runs of steps, long ones first, until no single step can be left out.
    fn fewer_steps(&mut self) -> Result<(), E> {
        let mut size = self.program.actions.len().div_ceil(2);
        loop {
            let mut at = 0;
            let mut removed = false;
            while at < self.program.actions.len() {
                if self.leave_out(at, size)? {
                    removed = true;
                } else {
                    at += 1;
                }
            }
            match size {
                0 | 1 if !removed => return Ok(()),
                _ => size = (size / 2).max(1),
            }
        }
    }

    fn leave_out(&mut self, at: usize, size: usize) -> Result<bool, E> {
        let faults = self.program.faults.clone();
        match without(&self.program.actions, at, size) {
            Some(actions) => self.offer(Program { actions, faults }),
            None => Ok(false),
        }
    }

    /// Replaces each step by plainer ones.
    fn plainer_steps(&mut self) -> Result<(), E> {
        let mut at = 0;
        while at < self.program.actions.len() {
            let Program { mut actions, faults } = self.program.clone();
            if actions[at].hold.take().is_some() {
                // Its resumption goes with it.
                if let Some(actions) = legal(&actions) {
                    self.offer(Program { actions, faults })?;
                }
            }
            let Program { mut actions, faults } = self.program.clone();
            if std::mem::take(&mut actions[at].cpu) != 0 {
                self.offer_legal(actions, faults)?;
            }
            for verb in plainer(self.program.actions[at].verb) {
                let Program { mut actions, faults } = self.program.clone();
                actions[at].verb = verb;
                if self.offer_legal(actions, faults)? {
                    break;
                }
            }
            at += 1;
        }
        Ok(())
    }

    fn offer_legal(&mut self, actions: Vec<Action>, faults: Vec<Fault>) -> Result<bool, E> {
        // A step that has become impossible would shift those that follow.
        match legal(&actions).filter(|legal| legal.len() == actions.len()) {
            Some(actions) => self.offer(Program { actions, faults }),
            None => Ok(false),
        }
    }

    /// Calls address spaces and pages by the first names there are, in the order of their use.
    fn lower_names(&mut self) -> Result<(), E> {
        let mut actions = self.program.actions.clone();
        let (mut spaces, mut cpus) = (BTreeMap::new(), BTreeMap::new());
        let mut pages: BTreeMap<Page, Page> = BTreeMap::new();
        for action in &mut actions {
            let next = cpus.len() as u8;
            action.cpu = *cpus.entry(action.cpu).or_insert(next);
            if !action.is_of_all() {
                let next = spaces.len();
                action.mm = *spaces.entry(action.mm).or_insert(next);
            }
            if let Verb::Fork(child) = &mut action.verb {
                let next = spaces.len();
                *child = *spaces.entry(*child).or_insert(next);
            }
            for page in action.pages_mut() {
                let alike = |known: &&Page| {
                    std::mem::discriminant::<Page>(known) == std::mem::discriminant(&*page)
                };
                let next = pages.keys().filter(alike).count() as u64;
                let renamed = match page {
                    Page::User(_) => Page::User(next),
                    Page::Large(_) => Page::Large(next),
                    Page::Table(_) => Page::Table(next),
                    Page::Kernel(_) => Page::Kernel(next),
                };
                *page = *pages.entry(*page).or_insert(renamed);
            }
        }
        let faults = self.program.faults.clone();
        match legal(&actions) {
            Some(actions) => self.offer(Program { actions, faults }).map(|_| ()),
            None => Ok(()),
        }
    }
}

/// What may stand for a step and says less, the plainest first.
fn plainer(verb: Verb) -> Vec<Verb> {
    let plain = |frame: Frame| Frame { writable: true, dirty: false, ..frame };
    match verb {
        Verb::Map(page, frame) => vec![Verb::Map(page, plain(frame))],
        Verb::Remap(page, frame) => vec![Verb::Unmap(page), Verb::Remap(page, plain(frame))],
        Verb::Write(page, user, _) => vec![Verb::Switch, Verb::Nop, Verb::Read(page, user)],
        Verb::Read(..) => vec![Verb::Switch, Verb::Nop],
        Verb::UnmapBatched(page) => vec![Verb::Unmap(page)],
        Verb::Nop => vec![Verb::Switch],
        _ => Vec::new(),
    }
}

/// The steps without `size` of them from `at`, and without those that this makes impossible.
fn without(actions: &[Action], at: usize, size: usize) -> Option<Vec<Action>> {
    let end = actions.len().min(at + size);
    let rest: Vec<Action> = actions[..at].iter().chain(&actions[end..]).copied().collect();
    legal(&rest)
}

/// The steps but for those that the kernel would refuse; none where a flush is owed, or where no
/// step is left.
fn legal(actions: &[Action]) -> Option<Vec<Action>> {
    let mut world = World::default();
    let mut kept = Vec::with_capacity(actions.len());
    for action in actions {
        match world.take(action) {
            Ok(_) => kept.push(*action),
            Err(Illegal::Refused) => {}
            Err(Illegal::Owing) => return None,
        }
    }
    (world.is_settled() && !kept.is_empty()).then_some(kept)
}
