//! The barriers of the guest, found in its image: each between the store and the load that it keeps
//! in order, on every path from the one to the other.

#[allow(dead_code)]
#[path = "../../guest/src/fence.rs"]
mod table;

use crate::common::{config, guest_image};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};
use object::{Object, ObjectSection, ObjectSymbol};
use stalemate::executor::Backend;
use stalemate::kernel::steps::{Guest, Session, SessionConfig};
use stalemate::scenario::{Policy, RunConfig};
use stalemate_shared::layout::KERNEL_BASE;
use stalemate_shared::variant::{VARIANTS, Variant};
use std::collections::{BTreeMap, BTreeSet};
use table::{AFTER, BARRIER, Barrier, FENCES, Fence, Record, STORE};
use vm_memory::{Bytes, GuestAddress};

/// The image's code, by address, and its table of barriers.
#[derive(Clone)]
struct Image {
    /// Each section of code: its address and its bytes.
    text: Vec<(u64, Vec<u8>)>,
    code: BTreeMap<u64, Instruction>,
    records: Vec<Record>,
}

impl Image {
    fn new() -> Self {
        let image = guest_image();
        let file = object::File::parse(&image[..]).expect("the guest is an ELF file");
        let address = |name: &str| {
            let found = file.symbols().find(|symbol| symbol.name() == Ok(name));
            found.unwrap_or_else(|| panic!("the image has no symbol {name}")).address()
        };
        let (start, end) = (address("__fences_start"), address("__fences_end"));
        let mut text = Vec::new();
        let mut records = Vec::new();
        for section in file.sections() {
            let (at, bytes) = (section.address(), section.data().expect("its bytes"));
            if section.kind() == object::SectionKind::Text {
                text.push((at, bytes.to_vec()));
            }
            if (at..at + bytes.len() as u64).contains(&start) {
                let table = &bytes[(start - at) as usize..(end - at) as usize];
                let words: Vec<u64> =
                    table.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
                let (rows, rest) = words.as_chunks::<3>();
                assert_eq!((rest.len(), table.len() % 24), (0, 0), "whole records");
                let row = |&[address, number, kind]: &[u64; 3]| Record { address, number, kind };
                records.extend(rows.iter().map(row));
            }
        }
        Self { text, code: BTreeMap::new(), records }.decoded()
    }

    fn decoded(self) -> Self {
        let mut code = BTreeMap::new();
        for (at, bytes) in &self.text {
            let decoder = Decoder::with_ip(64, bytes, *at, DecoderOptions::NONE);
            code.extend(decoder.into_iter().map(|one| (one.ip(), one)));
        }
        Self { code, ..self }
    }

    fn noted(&self, fence: &Fence, kind: u64) -> BTreeSet<u64> {
        let of = |record: &&Record| record.number == fence.number && record.kind == kind;
        self.records.iter().filter(of).map(|record| record.address).collect()
    }

    /// The barriers that are there.
    fn barriers(&self, fence: &Fence) -> BTreeSet<u64> {
        let stands = |at: &u64| {
            let here = self.code.get(at);
            let next = here.and_then(|one| self.code.get(&one.next_ip()));
            let is = |one: Option<&Instruction>, mnemonic| {
                one.is_some_and(|one| one.mnemonic() == mnemonic)
            };
            match fence.instruction {
                Barrier::Mfence => is(here, Mnemonic::Mfence),
                Barrier::MfenceLfence => is(here, Mnemonic::Mfence) && is(next, Mnemonic::Lfence),
                Barrier::Lock => here.is_some_and(Instruction::has_lock_prefix),
            }
        };
        self.noted(fence, BARRIER).into_iter().filter(stands).collect()
    }

    /// What runs after the instruction at `at`: where it goes on, and where it jumps or calls. Where
    /// a function returns to is not followed: who calls it goes on behind the call.
    fn next(&self, at: u64) -> Vec<u64> {
        let Some(one) = self.code.get(&at) else { return Vec::new() };
        let target = one.near_branch_target();
        match one.flow_control() {
            FlowControl::UnconditionalBranch => vec![target],
            FlowControl::ConditionalBranch | FlowControl::Call => vec![one.next_ip(), target],
            FlowControl::Return | FlowControl::IndirectBranch | FlowControl::Exception => {
                Vec::new()
            }
            _ => vec![one.next_ip()],
        }
    }

    /// What can be reached from any of `from`, which count, on a path that no instruction of
    /// `barred` is on.
    fn reached(&self, from: &BTreeSet<u64>, barred: &BTreeSet<u64>) -> BTreeSet<u64> {
        let mut seen = BTreeSet::new();
        let mut left: Vec<u64> = from.iter().copied().collect();
        while let Some(at) = left.pop() {
            if !barred.contains(&at) && seen.insert(at) {
                left.extend(self.next(at));
            }
        }
        seen
    }

    /// What is wrong with a barrier.
    fn objection(&self, fence: &Fence) -> Option<String> {
        let [stores, after] = [STORE, AFTER].map(|kind| self.noted(fence, kind));
        let anyhow = self.reached(&stores, &BTreeSet::new());
        if stores.is_empty() || after.is_empty() || !after.is_subset(&anyhow) {
            return Some(format!("{after:x?} does not follow {stores:x?}"));
        }
        let passed = self.reached(&stores, &self.barriers(fence));
        let early: Vec<&u64> = after.intersection(&passed).collect();
        (!early.is_empty()).then(|| format!("no barrier is between {stores:x?} and {early:x?}"))
    }

    /// The image in the memory of a kernel that has booted as this variant.
    fn booted(&self, variant: Option<Variant>) -> Self {
        let config = RunConfig { variant, ..config("pcid", Policy::Split, true) };
        let mut memory = None;
        let session = Session::boot_on(SessionConfig::from(&config), &Guest::builtin(), |fresh| {
            memory = Some(fresh.mmap().clone());
            Backend::interp().make(fresh)
        });
        session.expect("it boots");
        let mut image = self.clone();
        for (start, bytes) in &mut image.text {
            let at = GuestAddress(*start - KERNEL_BASE);
            memory.as_ref().expect("memory").read_slice(bytes, at).expect("the image is in it");
        }
        image.decoded()
    }
}

#[test]
fn each_barrier_is_between_its_two_accesses() {
    let image = Image::new();
    for fence in &FENCES {
        assert_eq!(image.objection(fence), None, "{}: {}", fence.function, fence.store);
        let noted = image.noted(fence, BARRIER);
        assert_eq!(image.barriers(fence), noted, "{} has its instructions", fence.function);
    }
    let numbers: BTreeSet<u64> = image.records.iter().map(|record| record.number).collect();
    assert_eq!(numbers.len(), FENCES.len(), "the image has no other");
}

#[test]
fn a_kernel_without_a_barrier_has_booted_without_it_and_it_is_missed() {
    let image = Image::new();
    for fence in &FENCES {
        let variant = image.booted(Some(fence.variant));
        let objection = variant.objection(fence);
        let objection = objection.unwrap_or_else(|| panic!("{} is not missed", fence.function));
        assert!(objection.starts_with("no barrier"), "{objection}");
        for other in FENCES.iter().filter(|other| other.number != fence.number) {
            assert_eq!(variant.objection(other), None, "{}", other.function);
        }
    }
    let whole = image.booted(None);
    assert!(FENCES.iter().all(|fence| whole.objection(fence).is_none()));
}

#[test]
fn every_variant_that_needs_a_store_buffer_leaves_one_barrier_out() {
    let needs = VARIANTS.iter().filter(|about| about.variant.needs_store_buffers());
    let needs: Vec<_> = needs.map(|about| about.variant).collect();
    assert_eq!(needs, FENCES.map(|fence| fence.variant));
    for fence in &FENCES {
        assert_eq!(fence.variant.about().function, fence.function);
    }
}
