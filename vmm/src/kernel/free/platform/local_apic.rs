//! Local APICs in xAPIC mode, one for each CPU: their registers, their timers by TSC deadline, and the
//! interrupts that they send each other (SDM vol. 3, chapter 11).

use crate::arch::addr::CpuId;
use crate::arch::apic::Apic;
use crate::machine::Sent;

/// Where they are.
pub const ADDRESS: u64 = 0xfee0_0000;
/// IA32_TSC_DEADLINE.
pub const TSC_DEADLINE: u32 = 0x6e0;

/// Registers, by their offset divided by 16 (SDM vol. 3, table 11-1).
mod register {
    pub const ID: u8 = 0x02;
    pub const VERSION: u8 = 0x03;
    pub const TPR: u8 = 0x08;
    pub const EOI: u8 = 0x0b;
    pub const DFR: u8 = 0x0e;
    pub const SPURIOUS: u8 = 0x0f;
    pub const ISR: u8 = 0x10;
    pub const TMR: u8 = 0x18;
    pub const IRR: u8 = 0x20;
    pub const CMCI: u8 = 0x2f;
    pub const ICR: u8 = 0x30;
    pub const ICR_HIGH: u8 = 0x31;
    pub const LVT_TIMER: u8 = 0x32;
    pub const LVT_ERROR: u8 = 0x37;
}

/// Version 0x14, and six entries of the local vector table.
const VERSION: u32 = 0x0005_0014;
const MASKED: u32 = 1 << 16;
/// The vectors below cannot be sent.
const FIRST_VECTOR: u8 = 16;
/// The vector that events of NMIs have.
const NMI: u8 = 2;

/// What one CPU asks of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// An interrupt.
    Interrupt(u8),
    /// An NMI.
    Nmi,
    /// To begin at this page, by number.
    StartUp(u8),
}

/// The local APIC of one CPU.
#[derive(Clone, Debug)]
pub struct LocalApic {
    id: u8,
    interrupts: Apic,
    /// Registers that mean nothing here but what was last written.
    plain: [u32; 64],
    /// The time at which the timer interrupts; 0 for never.
    deadline: u64,
    pub nmi: bool,
}

impl LocalApic {
    pub fn new(id: u8) -> Self {
        let mut plain = [0; 64];
        for lvt in (register::LVT_TIMER..=register::LVT_ERROR).chain([register::CMCI]) {
            plain[usize::from(lvt)] = MASKED;
        }
        plain[usize::from(register::DFR)] = u32::MAX;
        let mut interrupts = Apic::default();
        interrupts.spurious = 0xff;
        Self { id, interrupts, plain, deadline: 0, nmi: false }
    }

    /// An interrupt arrives.
    pub fn request(&mut self, vector: u8) {
        self.interrupts.request(vector);
    }

    /// Lets the timer interrupt if it is due by `now`.
    pub fn advance(&mut self, now: u64) {
        if self.deadline != 0 && self.deadline <= now {
            self.deadline = 0;
            let timer = self.plain[usize::from(register::LVT_TIMER)];
            if timer & MASKED == 0 {
                self.interrupts.request(timer as u8);
            }
        }
    }

    /// When the timer interrupts next.
    pub fn next(&self) -> Option<u64> {
        (self.deadline != 0).then_some(self.deadline)
    }

    pub fn set_deadline(&mut self, deadline: u64) {
        self.deadline = deadline;
    }

    pub fn deadline(&self) -> u64 {
        self.deadline
    }

    /// The vector that the CPU would take now.
    pub fn deliverable(&self) -> Option<u8> {
        self.interrupts.deliverable()
    }

    /// The CPU takes it.
    pub fn take(&mut self) -> Option<u8> {
        let vector = self.interrupts.deliverable()?;
        self.interrupts.take(vector);
        Some(vector)
    }

    pub fn load(&self, offset: u64) -> u32 {
        let number = (offset >> 4 & 0x3f) as u8;
        match number {
            register::ID => u32::from(self.id) << 24,
            register::VERSION => VERSION,
            register::TPR => u32::from(self.interrupts.tpr),
            register::SPURIOUS => self.interrupts.spurious,
            register::ISR..register::TMR => {
                self.interrupts.in_service(usize::from(number - register::ISR))
            }
            register::IRR..=0x27 => self.interrupts.requested(usize::from(number - register::IRR)),
            number => self.plain[usize::from(number)],
        }
    }

    /// A store; what it has to be sent, where that is the interrupt command.
    pub fn store(&mut self, offset: u64, value: u32) -> Option<Command> {
        let number = (offset >> 4 & 0x3f) as u8;
        match number {
            register::TPR => self.interrupts.tpr = value as u8,
            register::EOI => self.interrupts.end_of_interrupt(),
            register::SPURIOUS => self.interrupts.spurious = value,
            register::ID | register::VERSION | register::ISR..=0x27 => {}
            register::ICR => {
                // Bit 12, that it is under way, is always clear by the next instruction.
                self.plain[usize::from(number)] = value;
                return Command::read(value, self.plain[usize::from(register::ICR_HIGH)]);
            }
            number => self.plain[usize::from(number)] = value,
        }
        None
    }
}

/// What a write of the interrupt command register asks for (SDM vol. 3, 11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    pub message: Message,
    shorthand: u32,
    logical: bool,
    destination: u8,
}

impl Command {
    /// None for a delivery mode that nobody here takes notice of: INIT, since a CPU that was not started
    /// waits already, SMI, and vectors that cannot be.
    fn read(low: u32, high: u32) -> Option<Self> {
        let vector = low as u8;
        let message = match low >> 8 & 7 {
            0 | 1 if vector >= FIRST_VECTOR => Message::Interrupt(vector),
            4 => Message::Nmi,
            6 => Message::StartUp(vector),
            _ => return None,
        };
        Some(Self {
            message,
            shorthand: low >> 18 & 3,
            logical: low >> 11 & 1 != 0,
            destination: (high >> 24) as u8,
        })
    }

    /// The CPUs, of `cpus`, that it is for; a logical destination has a bit for each CPU.
    pub fn targets(&self, from: u8, cpus: u8) -> impl Iterator<Item = u8> + use<> {
        let Self { shorthand, logical, destination, .. } = *self;
        (0..cpus).filter(move |&cpu| match shorthand {
            0 if destination == u8::MAX => true,
            0 if logical => destination >> cpu & 1 != 0,
            0 => destination == cpu,
            1 => cpu == from,
            2 => true,
            _ => cpu != from,
        })
    }
}

impl Message {
    /// The event of its being sent; none for one that starts a CPU.
    pub fn sent(self, to: u8) -> Option<Sent> {
        let (vector, nmi) = match self {
            Self::Interrupt(vector) => (vector, false),
            Self::Nmi => (NMI, true),
            Self::StartUp(_) => return None,
        };
        Some(Sent { to: CpuId(to), vector, nmi })
    }
}
