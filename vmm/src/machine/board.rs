//! What the board answers that the kernel under test runs on: ports, the clock, and the
//! model-specific registers that the processor has not.

use super::trap::Ran;
use super::{Director, Halt, Interceptor, Kernel, Machine};
use crate::arch::op::Op;

impl<K: Kernel, I: Interceptor> Machine<K, I> {
    /// IN or OUT at CPL 0: the kernel's call, where the port is its own, or a device's answer.
    pub(super) fn port(
        &mut self,
        director: &mut dyn Director,
        op: Op,
        next: u64,
    ) -> Result<Ran, Halt> {
        let instructions = self.instructions();
        match op {
            Op::In { port, size } => {
                if let Some(value) = self.kernel.port_in(port, size, instructions) {
                    self.with_core(director, |core| core.input(size, value, next))?;
                    return Ok(Ran::On);
                }
            }
            Op::Out { port, size, value } => {
                if let (1, Ok(port)) = (size, u8::try_from(port))
                    && let Some(ran) = self.output(director, port, next)?
                {
                    return Ok(ran);
                }
                if self.kernel.port_out(port, size, value, instructions).is_some() {
                    self.with_core(director, |core| core.output(next))?;
                    return Ok(Ran::On);
                }
            }
            _ => {}
        }
        self.operation(director, op, next).map(|()| Ran::On)
    }

    /// RDMSR and WRMSR of a register that the processor has not: the board's, or none.
    pub(super) fn board_msr(
        &mut self,
        director: &mut dyn Director,
        op: Op,
        next: u64,
    ) -> Result<(), Halt> {
        let cpu = self.vcpu().id;
        match op {
            Op::Rdmsr(msr) => {
                if let Some(value) = self.kernel.read_msr(cpu, msr) {
                    return self.with_core(director, |core| core.read_msr(value, next));
                }
            }
            Op::Wrmsr { msr, value } if self.kernel.write_msr(cpu, msr, value).is_some() => {
                return self.with_core(director, |core| core.written_msr(next));
            }
            _ => {}
        }
        self.operation(director, op, next)
    }

    /// RDTSC: the board's time.
    pub(super) fn read_time(&mut self, director: &mut dyn Director, next: u64) -> Result<(), Halt> {
        match self.kernel.time(self.instructions()) {
            Some(now) => self.with_core(director, |core| core.read_time(now, next)),
            None => self.operation(director, Op::Rdtsc, next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Call, KernelWords, Moment, NullDirector, Plan, Scheduled, Site, Statement, Stop,
    };
    use super::*;
    use crate::arch::addr::{CpuId, Gpa};
    use crate::arch::core::Memory;
    use crate::arch::features::CpuFeatures;
    use crate::arch::happened::WordStore;
    use crate::arch::tlb::{Fill, TlbModel};
    use crate::arch::vcpu::Vcpu;
    use crate::arch::vcpu::gpr::{RAX, RBX, RCX, RDI, RDX, RSI};
    use crate::event::Announcement;
    use crate::executor::interp::InterpExecutor;
    use crate::memory::GuestMemory;
    use std::collections::BTreeSet;

    /// A kernel on a board with one port, one register and a clock; what was written there.
    #[derive(Clone, Debug, Default)]
    struct OnBoard {
        nothing: BTreeSet<Gpa>,
        port: u32,
        register: u64,
        quiet: u64,
    }

    impl Kernel for OnBoard {
        fn watched(&self) -> &BTreeSet<Gpa> {
            &self.nothing
        }

        fn stored(&self, _: &GuestMemory, _: &WordStore) -> Statement {
            unreachable!("nothing is watched")
        }

        fn state(&self, _: &GuestMemory) -> Vec<Announcement> {
            Vec::new()
        }

        fn store_for(&self, _: &GuestMemory, _: &Announcement) -> Option<WordStore> {
            None
        }

        fn output(
            &mut self,
            _: u8,
            _: &mut Vcpu,
            _: u64,
            _: &GuestMemory,
        ) -> Option<Result<Call, Stop>> {
            None
        }

        fn port_in(&mut self, port: u16, size: u8, _: u64) -> Option<u32> {
            (port == 0x3f8).then_some(self.port << 8 | u32::from(size))
        }

        fn port_out(&mut self, port: u16, size: u8, value: u32, _: u64) -> Option<()> {
            self.port = value << 8 | u32::from(size);
            (port == 0x3f8).then_some(())
        }

        fn read_msr(&mut self, _: CpuId, msr: u32) -> Option<u64> {
            (msr == 0x48).then_some(self.register)
        }

        fn write_msr(&mut self, _: CpuId, msr: u32, value: u64) -> Option<()> {
            self.register = value;
            (msr == 0x48).then_some(())
        }

        fn time(&self, instructions: u64) -> Option<u64> {
            Some(instructions + (5 << 32))
        }

        fn quiet(&self, _: u64) -> Option<u64> {
            (self.quiet != 0).then_some(self.quiet)
        }
    }

    /// Alters nothing.
    #[derive(Clone, Debug)]
    struct Nobody;

    impl Interceptor for Nobody {
        fn operation(&mut self, _: &Site, op: Op, _: &dyn KernelWords) -> Plan {
            Plan::unaltered(op)
        }

        fn word(
            &mut self,
            _: CpuId,
            store: &WordStore,
            _: &[Announcement],
            _: &dyn KernelWords,
        ) -> Vec<u64> {
            vec![store.new]
        }

        fn moment(&mut self, _: CpuId, _: Moment, _: &dyn KernelWords) -> Vec<Scheduled> {
            Vec::new()
        }

        fn due(&mut self, _: CpuId) -> Vec<Scheduled> {
            Vec::new()
        }

        fn done(&mut self, _: &Scheduled) {}
    }

    fn machine(code: &[u8]) -> Machine<OnBoard, Nobody> {
        let memory = GuestMemory::new(0x10_0000).expect("memory");
        for (at, entry) in [(0x1000, 0x2063), (0x2000, 0x3063), (0x3000, 0xe3)] {
            memory.write_word(Gpa(at), entry);
        }
        memory.write(Gpa(0x8000), code);
        let vcpu = Vcpu::long_mode(CpuId(0), CpuFeatures::default(), 0x8000, 0x1000);
        let model = TlbModel { fill: Fill::OnDemand, structure_caches: true, seed: 0 };
        let executor = Box::new(InterpExecutor::new(&memory, 1000));
        Machine::new(vcpu, model, executor, memory, OnBoard::default(), Nobody)
    }

    /// Runs to HLT.
    fn run(machine: &mut Machine<OnBoard, Nobody>) {
        while machine.run(&mut NullDirector, false).expect("all of it has an answer") == Ran::On {}
        assert!(machine.vcpu().halted);
    }

    #[test]
    fn what_a_board_has_is_answered() {
        // mov edx, 0x3f8; mov eax, 0x12345678; out dx, ax; in eax, dx; mov ebx, eax;
        // mov ecx, 0x48; mov eax, 9; mov edx, 7; wrmsr; xor eax, eax; rdmsr; mov esi, eax;
        // mov edi, edx; rdtsc; hlt
        let code = [
            &[0xba, 0xf8, 3, 0, 0, 0xb8, 0x78, 0x56, 0x34, 0x12, 0x66, 0xef, 0xed, 0x89, 0xc3][..],
            &[0xb9, 0x48, 0, 0, 0, 0xb8, 9, 0, 0, 0, 0xba, 7, 0, 0, 0, 0x0f, 0x30],
            &[0x31, 0xc0, 0x0f, 0x32, 0x89, 0xc6, 0x89, 0xd7, 0x0f, 0x31, 0xf4],
        ];
        let mut machine = machine(&code.concat());
        run(&mut machine);
        let gpr = machine.vcpu().gpr;
        assert_eq!(gpr[RBX], 0x5678_0204, "two bytes were written, and four are read");
        assert_eq!((gpr[RSI], gpr[RDI], gpr[RCX]), (9, 7, 0x48));
        // The instructions that no trap carries out.
        assert_eq!((gpr[RAX], gpr[RDX]), (9, 5));
    }

    #[test]
    fn the_clock_goes_back_with_a_snapshot() {
        // rdtsc; nop; nop; hlt, thrice
        let mut machine = machine(&[0x0f, 0x31, 0x90, 0x90, 0xf4].repeat(3));
        let next = |machine: &mut Machine<OnBoard, Nobody>| {
            machine.vcpu_mut().halted = false;
            run(machine);
            machine.vcpu().gpr[RAX]
        };
        assert_eq!(next(&mut machine), 0);
        let snapshot = machine.snapshot().expect("a snapshot");
        assert_eq!((next(&mut machine), next(&mut machine)), (2, 4));
        machine.restore(&snapshot).expect("a restored machine");
        assert_eq!((next(&mut machine), next(&mut machine)), (2, 4));
    }

    /// What shadow pages lack, or whether the machine stops for a while, is nothing that a kernel may see.
    #[test]
    fn each_element_of_a_string_takes_its_time_whatever_traps() {
        const ELEMENTS: u64 = 0x3000;
        // mov edi, 0x20000; mov ecx, ELEMENTS; rdtsc; mov esi, eax; rep stosb; rdtsc; sub eax, esi; hlt
        let code = [
            &[0xbf, 0, 0, 2, 0, 0xb9, 0, 0x30, 0, 0, 0x0f, 0x31, 0x89, 0xc6][..],
            &[0xf3, 0xaa, 0x0f, 0x31, 0x29, 0xf0, 0xf4],
        ];
        let mut machine = machine(&code.concat().repeat(3));
        for limit in [1000, 1000, 7] {
            machine.kernel.quiet = limit;
            machine.vcpu_mut().halted = false;
            run(&mut machine);
            // The MOV between the first RDTSC and the string.
            assert_eq!(machine.vcpu().gpr[RAX], ELEMENTS + 1, "stopped each {limit} instructions");
        }
    }

    #[test]
    fn what_a_board_has_not_is_named() {
        // in al, 0x60
        let mut machine = machine(&[0xe4, 0x60]);
        let ran = (0..10).find_map(|_| machine.run(&mut NullDirector, false).err());
        let Some(Halt::Stop(stop)) = ran else { panic!("{ran:?}") };
        assert_eq!(stop.to_string(), "IN from port 0x60, where no device is");
    }
}
