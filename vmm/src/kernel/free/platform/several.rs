//! What several CPUs need beside a serial line: their local APICs, the IO-APIC, and interrupts between
//! them, each of which takes its time.
//!
//! An interrupt that is delivered at once finds its target where it was when it was sent, so that nothing is
//! ever seen of what it does between the request and the flush. So each is delayed by a number of the
//! target's own instructions that is drawn.

use super::io_apic::{self, IoApic};
use super::local_apic::{self, LocalApic, Message};
use crate::arch::addr::{CpuId, Gpa};
use crate::arch::tlb::split_mix;
use crate::machine::Sent;

/// How CPUs take turns, and how long interrupts between them take. One CPU takes none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// What is drawn is drawn from this.
    pub seed: u64,
    /// The most instructions of a turn.
    pub slice: u64,
    /// The most instructions of its target by which an interrupt is late.
    pub delay: u64,
}

/// An interrupt that was sent and has not arrived.
#[derive(Clone, Copy, Debug)]
struct Sending {
    to: u8,
    message: Message,
    /// When so many of its target's own instructions have completed.
    at: u64,
}

/// The interrupt controllers of several CPUs.
#[derive(Clone, Debug)]
pub struct Several {
    local: Vec<LocalApic>,
    io: IoApic,
    sending: Vec<Sending>,
    /// Instructions that each CPU has completed in turns before this one.
    completed: Vec<u64>,
    /// The CPU whose turn it is, when that began, and when it ends, in instructions of all.
    turn: (u8, u64, u64),
    turns: Turns,
    state: u64,
    /// CPUs that were started and do not run yet, with the page that they begin at.
    starting: Vec<(u8, u8)>,
    started: Vec<bool>,
    halted: Vec<bool>,
}

impl Several {
    pub fn new(cpus: u8, turns: Turns) -> Self {
        let mut several = Self {
            local: (0..cpus).map(LocalApic::new).collect(),
            io: IoApic::new(),
            sending: Vec::new(),
            completed: vec![0; usize::from(cpus)],
            turn: (0, 0, 0),
            turns,
            state: turns.seed,
            starting: Vec::new(),
            started: (0..cpus).map(|cpu| cpu == 0).collect(),
            halted: vec![false; usize::from(cpus)],
        };
        several.turn.2 = several.slice();
        several
    }

    fn slice(&mut self) -> u64 {
        1 + split_mix(&mut self.state) % self.turns.slice.max(1)
    }

    /// Instructions that a CPU has completed, once `instructions` of all have.
    fn own(&self, cpu: u8, instructions: u64) -> u64 {
        let (current, since, _) = self.turn;
        let now = if current == cpu { instructions.saturating_sub(since) } else { 0 };
        self.completed[usize::from(cpu)] + now
    }

    /// Whether a turn is over.
    pub fn is_over(&self, instructions: u64) -> bool {
        instructions >= self.turn.2
    }

    /// It is another CPU's turn, or once more this one's.
    pub fn take_turn(&mut self, cpu: CpuId, instructions: u64) {
        let (last, since, _) = self.turn;
        self.completed[usize::from(last)] += instructions.saturating_sub(since);
        self.turn = (cpu.0, instructions, instructions + self.slice());
    }

    /// Instructions that may complete before something here changes.
    pub fn quiet(&self, instructions: u64, now: u64) -> u64 {
        let (cpu, _, ends) = self.turn;
        let own = self.own(cpu, instructions);
        let sent = self.sending.iter().filter(|sending| sending.to == cpu);
        let sent = sent.map(|sending| sending.at.saturating_sub(own)).min();
        let timer = self.local.iter().filter_map(LocalApic::next).min();
        let timer = timer.map(|timer| timer.saturating_sub(now));
        let turn = ends.saturating_sub(instructions);
        [Some(turn), sent, timer].into_iter().flatten().min().unwrap_or(turn).max(1)
    }

    /// Lets what is due happen: timers, and interrupts to CPUs that have come so far, or that have halted and
    /// wait for nothing else.
    pub fn advance(&mut self, instructions: u64, now: u64) {
        self.local.iter_mut().for_each(|apic| apic.advance(now));
        let (mut due, mut later) = (Vec::new(), Vec::new());
        for sending in std::mem::take(&mut self.sending) {
            let halted = self.halted[usize::from(sending.to)];
            let is_due = halted || sending.at <= self.own(sending.to, instructions);
            if is_due { due.push(sending) } else { later.push(sending) }
        }
        self.sending = later;
        for Sending { to, message, .. } in due {
            match message {
                Message::Interrupt(vector) => self.local[usize::from(to)].request(vector),
                Message::Nmi => self.local[usize::from(to)].nmi = true,
                Message::StartUp(_) => {}
            }
        }
    }

    /// Whether a CPU has an interrupt to take.
    pub fn is_interrupting(&self, cpu: CpuId) -> bool {
        self.local[usize::from(cpu.0)].deliverable().is_some()
    }

    pub fn has_nmi(&self, cpu: CpuId) -> bool {
        self.local[usize::from(cpu.0)].nmi
    }

    pub fn takes_nmi(&mut self, cpu: CpuId) -> bool {
        std::mem::take(&mut self.local[usize::from(cpu.0)].nmi)
    }

    pub fn acknowledge(&mut self, cpu: CpuId) -> Option<u8> {
        self.local[usize::from(cpu.0)].take()
    }

    /// When a timer interrupts next.
    pub fn next(&self) -> Option<u64> {
        self.local.iter().filter_map(LocalApic::next).min()
    }

    /// A device's line goes up.
    pub fn raise(&mut self, line: u8) {
        let Some((to, vector)) = self.io.raise(line) else { return };
        if let Some(apic) = self.local.get_mut(usize::from(to)) {
            apic.request(vector);
        }
    }

    pub fn has_device(at: Gpa) -> bool {
        [local_apic::ADDRESS, io_apic::ADDRESS].contains(&at.page().0)
    }

    pub fn load(&mut self, cpu: CpuId, at: Gpa) -> u32 {
        let offset = at.0 & 0xfff;
        match at.page().0 {
            io_apic::ADDRESS => self.io.load(offset),
            _ => self.local[usize::from(cpu.0)].load(offset),
        }
    }

    pub fn store(&mut self, cpu: CpuId, at: Gpa, value: u32, instructions: u64) -> Vec<Sent> {
        let offset = at.0 & 0xfff;
        if at.page().0 == io_apic::ADDRESS {
            self.io.store(offset, value);
            return Vec::new();
        }
        let Some(command) = self.local[usize::from(cpu.0)].store(offset, value) else {
            return Vec::new();
        };
        let cpus = self.local.len() as u8;
        let mut sent = Vec::new();
        for to in command.targets(cpu.0, cpus) {
            if let Message::StartUp(page) = command.message {
                if !std::mem::replace(&mut self.started[usize::from(to)], true) {
                    self.starting.push((to, page));
                }
                continue;
            }
            sent.extend(command.message.sent(to));
            let late = if to == cpu.0 { 0 } else { self.delay() };
            let at = self.own(to, instructions) + late;
            self.sending.push(Sending { to, message: command.message, at });
        }
        sent
    }

    fn delay(&mut self) -> u64 {
        split_mix(&mut self.state) % (self.turns.delay + 1)
    }

    /// The CPUs that begin, with the pages that they begin at.
    pub fn take_starting(&mut self) -> Vec<(u8, u8)> {
        std::mem::take(&mut self.starting)
    }

    /// Whether a CPU waits in HLT.
    pub fn set_halted(&mut self, cpu: CpuId, halted: bool) {
        self.halted[usize::from(cpu.0)] = halted;
    }

    /// Whether a CPU has been started.
    pub fn is_started(&self, cpu: CpuId) -> bool {
        self.started[usize::from(cpu.0)]
    }

    pub fn deadline(&self, cpu: CpuId) -> u64 {
        self.local[usize::from(cpu.0)].deadline()
    }

    pub fn set_deadline(&mut self, cpu: CpuId, deadline: u64) {
        self.local[usize::from(cpu.0)].set_deadline(deadline);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ICR: u64 = local_apic::ADDRESS + 0x300;
    const ICR_HIGH: u64 = local_apic::ADDRESS + 0x310;
    const SPURIOUS: u64 = local_apic::ADDRESS + 0xf0;

    fn three(delay: u64) -> Several {
        let mut several = Several::new(3, Turns { seed: 1, slice: 100, delay });
        for cpu in (0..3).map(CpuId) {
            several.store(cpu, Gpa(SPURIOUS), 0x1ff, 0);
        }
        several
    }

    /// CPU 0 sends this; the CPUs that it was sent to.
    fn sends(several: &mut Several, high: u32, low: u32) -> Vec<u8> {
        several.store(CpuId(0), Gpa(ICR_HIGH), high << 24, 0);
        several.store(CpuId(0), Gpa(ICR), low, 0).iter().map(|sent| sent.to.0).collect()
    }

    #[test]
    fn an_interrupt_reaches_whom_it_is_sent_to() {
        let to = |high, low| sends(&mut three(0), high, low);
        assert_eq!(to(2, 0xfb), [2]);
        assert_eq!(to(0b110, 1 << 11 | 0xfb), [1, 2], "a set of CPUs");
        assert_eq!(to(0xff, 0xfb), [0, 1, 2]);
        assert_eq!(to(0, 1 << 18 | 0xfb), [0], "itself");
        assert_eq!(to(0, 2 << 18 | 0xfb), [0, 1, 2]);
        assert_eq!(to(0, 3 << 18 | 0xfb), [1, 2], "the others");
        assert!(to(2, 15).is_empty(), "no vector");
        assert!(to(2, 5 << 8).is_empty(), "INIT");
    }

    #[test]
    fn a_late_interrupt_arrives_by_its_targets_own_instructions_or_when_that_halts() {
        let mut at_once = three(0);
        sends(&mut at_once, 1, 0xfb);
        at_once.advance(0, 0);
        assert!(at_once.is_interrupting(CpuId(1)) && !at_once.is_interrupting(CpuId(2)));
        assert_eq!(at_once.acknowledge(CpuId(1)), Some(0xfb));
        assert!(!at_once.is_interrupting(CpuId(1)));
        let mut late = three(1_000_000);
        sends(&mut late, 1, 0xfb);
        late.take_turn(CpuId(2), 10);
        late.advance(2_000_000, 0);
        assert!(!late.is_interrupting(CpuId(1)), "another CPU ran");
        let mut ran = late.clone();
        ran.take_turn(CpuId(1), 2_000_000);
        ran.advance(4_000_000, 0);
        assert!(ran.is_interrupting(CpuId(1)));
        late.set_halted(CpuId(1), true);
        late.advance(2_000_000, 0);
        assert!(late.is_interrupting(CpuId(1)));
    }

    #[test]
    fn a_cpu_is_started_once_and_an_nmi_is_taken_once() {
        let mut several = three(0);
        assert!(sends(&mut several, 1, 6 << 8 | 0x9a).is_empty());
        assert!(several.is_started(CpuId(1)) && !several.is_started(CpuId(2)));
        sends(&mut several, 1, 6 << 8 | 0x9a);
        assert_eq!(several.take_starting(), [(1, 0x9a)]);
        assert!(several.take_starting().is_empty());
        assert_eq!(sends(&mut several, 2, 4 << 8), [2]);
        several.advance(0, 0);
        assert!(several.takes_nmi(CpuId(2)) && !several.takes_nmi(CpuId(2)));
    }

    #[test]
    fn a_timer_interrupts_at_its_deadline_unless_it_is_masked_and_a_line_where_it_leads() {
        let timer = Gpa(local_apic::ADDRESS + 0x320);
        let mut several = three(0);
        several.set_deadline(CpuId(2), 50);
        several.advance(0, 50);
        assert!(!several.is_interrupting(CpuId(2)), "masked at reset");
        several.store(CpuId(2), timer, 0xec, 0);
        several.set_deadline(CpuId(2), 50);
        assert_eq!(several.next(), Some(50));
        several.advance(0, 49);
        assert!(!several.is_interrupting(CpuId(2)));
        several.advance(0, 50);
        assert_eq!((several.acknowledge(CpuId(2)), several.next()), (Some(0xec), None));
        let (index, window) = (Gpa(io_apic::ADDRESS), Gpa(io_apic::ADDRESS + 0x10));
        several.raise(4);
        assert!(!several.is_interrupting(CpuId(1)), "masked at reset");
        for (register, value) in [(0x19, 1 << 24), (0x18, 0x24)] {
            several.store(CpuId(0), index, register, 0);
            several.store(CpuId(0), window, value, 0);
        }
        several.raise(4);
        assert_eq!(several.acknowledge(CpuId(1)), Some(0x24));
    }
}
