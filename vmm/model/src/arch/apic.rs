//! The local APIC in x2APIC mode, as far as interrupts between CPUs need it: IRR, ISR, priorities,
//! the interrupt command register and end of interrupt (SDM vol. 3, chapter 11).

use super::addr::CpuId;

/// Model-specific registers of the x2APIC (SDM vol. 3, table 11-6).
#[allow(missing_docs)]
pub mod msr {
    pub const APIC_BASE: u32 = 0x1b;
    pub const FIRST: u32 = 0x800;
    pub const LAST: u32 = 0x8ff;
    pub const ID: u32 = 0x802;
    pub const TPR: u32 = 0x808;
    pub const EOI: u32 = 0x80b;
    pub const SPURIOUS: u32 = 0x80f;
    pub const ICR: u32 = 0x830;
    pub const SELF_IPI: u32 = 0x83f;
}

/// Bit 8 of the spurious-interrupt vector register.
const ENABLED: u32 = 1 << 8;

/// A set of vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Vectors([u64; 4]);

impl Vectors {
    fn set(&mut self, vector: u8) {
        self.0[usize::from(vector >> 6)] |= 1 << (vector & 63);
    }

    fn clear(&mut self, vector: u8) {
        self.0[usize::from(vector >> 6)] &= !(1 << (vector & 63));
    }

    fn word(&self, word: usize) -> u32 {
        let half = self.0.get(word / 2).map_or(0, |both| both >> (word % 2 * 32));
        half as u32
    }

    fn highest(&self) -> Option<u8> {
        let word = (0..4).rev().find(|&word| self.0[word] != 0)?;
        Some((word * 64) as u8 + 63 - self.0[word].leading_zeros() as u8)
    }
}

/// One CPU's interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Apic {
    irr: Vectors,
    isr: Vectors,
    /// Task priority.
    pub tpr: u8,
    /// The spurious-interrupt vector register; bit 8 enables the APIC.
    pub spurious: u32,
    /// x2APIC mode: the registers are MSRs.
    pub x2apic: bool,
}

impl Apic {
    /// An interrupt arrives: it waits in IRR. An APIC that software has not enabled drops it
    /// (SDM vol. 3, 11.4.7.2).
    pub fn request(&mut self, vector: u8) {
        if self.spurious & ENABLED != 0 {
            self.irr.set(vector);
        }
    }

    /// The vector that the processor would take now: the highest in IRR whose class is above that
    /// of TPR and of every vector in service (SDM vol. 3, 11.8.3).
    #[must_use]
    pub fn deliverable(&self) -> Option<u8> {
        let class = |vector: u8| vector >> 4;
        let in_service = self.isr.highest().map_or(0, class);
        self.irr.highest().filter(|&vector| class(vector) > in_service.max(class(self.tpr)))
    }

    /// Whether anything waits, deliverable or not.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.irr.highest().is_some()
    }

    /// The processor takes `vector`: from IRR to ISR.
    pub fn take(&mut self, vector: u8) {
        self.irr.clear(vector);
        self.isr.set(vector);
    }

    /// 32 bits of IRR, from vector 32 × `word` on.
    #[must_use]
    pub fn requested(&self, word: usize) -> u32 {
        self.irr.word(word)
    }

    /// 32 bits of ISR, likewise.
    #[must_use]
    pub fn in_service(&self, word: usize) -> u32 {
        self.isr.word(word)
    }

    /// End of interrupt: the highest in service is done.
    pub fn end_of_interrupt(&mut self) {
        if let Some(vector) = self.isr.highest() {
            self.isr.clear(vector);
        }
    }
}

/// What a write of the interrupt command register asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// The vector; of no matter for an NMI.
    pub vector: u8,
    /// An NMI, not a fixed interrupt.
    pub nmi: bool,
    destination: Destination,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Destination {
    Physical(u32),
    Logical(u32),
    Itself,
    All,
    Others,
}

/// Destination of every APIC.
const BROADCAST: u32 = u32::MAX;
/// The lowest vector that may be sent.
const FIRST_VECTOR: u8 = 16;

impl Command {
    /// Reads ICR (SDM vol. 3, 11.12.9). None for a delivery mode that is not modelled (SMI, INIT,
    /// start-up, lowest priority).
    #[must_use]
    pub fn read(icr: u64) -> Option<Self> {
        let nmi = match icr >> 8 & 7 {
            0 => false,
            4 => true,
            _ => return None,
        };
        let field = (icr >> 32) as u32;
        let destination = match icr >> 18 & 3 {
            0 if icr >> 11 & 1 == 0 => Destination::Physical(field),
            0 => Destination::Logical(field),
            1 => Destination::Itself,
            2 => Destination::All,
            _ => Destination::Others,
        };
        Some(Self { vector: icr as u8, nmi, destination })
    }

    /// An interrupt to the CPU that sends it.
    #[must_use]
    pub fn to_itself(vector: u8) -> Self {
        Self { vector, nmi: false, destination: Destination::Itself }
    }

    /// Vectors below 16 cannot be sent; the APIC notes an error and drops them.
    #[must_use]
    pub fn is_legal(&self) -> bool {
        self.nmi || self.vector >= FIRST_VECTOR
    }

    /// Whether `cpu` is meant, where `from` sends. A logical x2APIC id is the cluster in the upper
    /// half, a bit for each of its 16 members in the lower.
    #[must_use]
    pub fn reaches(&self, from: CpuId, cpu: CpuId) -> bool {
        match self.destination {
            Destination::Physical(BROADCAST) | Destination::Logical(BROADCAST) => true,
            Destination::Physical(id) => id == u32::from(cpu.0),
            Destination::Logical(set) => {
                set >> 16 == u32::from(cpu.0 >> 4) && set >> (cpu.0 & 15) & 1 != 0
            }
            Destination::Itself => from == cpu,
            Destination::All => true,
            Destination::Others => from != cpu,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_class_above_what_is_in_service_comes_first() {
        let mut apic = Apic { spurious: ENABLED, ..Apic::default() };
        apic.request(0x31);
        apic.request(0x45);
        assert_eq!(apic.deliverable(), Some(0x45));
        apic.take(0x45);
        assert_eq!(apic.deliverable(), None, "a lower class waits");
        apic.request(0x4f);
        assert_eq!(apic.deliverable(), None, "so does the same class");
        apic.end_of_interrupt();
        assert_eq!(apic.deliverable(), Some(0x4f));
        apic.tpr = 0x40;
        assert_eq!(apic.deliverable(), None);
        assert!(apic.is_pending());
    }

    #[test]
    fn an_interrupt_that_waits_is_one_however_often_it_is_sent() {
        let mut apic = Apic { spurious: ENABLED, ..Apic::default() };
        apic.request(0x21);
        apic.request(0x21);
        apic.take(0x21);
        assert!(!apic.is_pending());
    }

    #[test]
    fn destinations_are_those_of_the_manual() {
        let to = |icr: u64, cpu: u8| {
            Command::read(icr).is_some_and(|command| command.reaches(CpuId(1), CpuId(cpu)))
        };
        let reached = |icr| (0..4).filter(|&cpu| to(icr, cpu)).collect::<Vec<_>>();
        assert_eq!(reached(2 << 32 | 0x21), [2]);
        assert_eq!(reached(0xffff_ffff << 32 | 0x21), [0, 1, 2, 3]);
        assert_eq!(reached(0b1010 << 32 | 1 << 11 | 0x21), [1, 3]);
        assert_eq!(reached(1 << 18 | 0x21), [1]);
        assert_eq!(reached(2 << 18 | 0x21), [0, 1, 2, 3]);
        assert_eq!(reached(3 << 18 | 0x21), [0, 2, 3]);
        assert_eq!(Command::read(5 << 8), None, "INIT is not modelled");
    }
}
