//! What of a machine the future depends on, but for its kernel and its interceptor.

use super::{Interceptor, Kernel, Machine};
use crate::arch::key::StateKey;
use crate::executor::ExecutorError;
use xxhash_rust::xxh3::xxh3_128;

impl<K: Kernel, I: Interceptor> Machine<K, I> {
    /// Adds the processors' registers, but for those that `dead` says nobody reads before they are written:
    /// a bit for each general-purpose register of a CPU.
    ///
    /// # Errors
    /// When the host fails.
    pub(crate) fn put_processors(
        &mut self,
        key: &mut StateKey,
        dead: &dyn Fn(usize) -> u16,
    ) -> Result<(), ExecutorError> {
        let fpu = self.executor.save_fpu()?;
        for (number, cpu) in self.cpus.iter().enumerate() {
            match dead(number) {
                0 => key.put(&cpu.vcpu),
                dead => {
                    let mut vcpu = cpu.vcpu.clone();
                    let registers = vcpu.gpr.iter_mut().enumerate();
                    registers.filter(|(at, _)| dead >> at & 1 != 0).for_each(|(_, of)| *of = 0);
                    key.put(vcpu);
                }
            }
            key.put(if number == self.current { &fpu } else { &cpu.fpu });
        }
        Ok(())
    }

    /// Adds what the processors have cached, and the roots whose tables are followed.
    pub(crate) fn put_tlbs(&self, key: &mut StateKey) {
        self.cpus.iter().for_each(|cpu| cpu.tlb.put(key));
        key.put(self.census.roots().collect::<Vec<_>>());
    }

    /// Adds memory, by the hash of each page that has changed. Of a page the first bytes are left out which
    /// `dead` says nobody reads before they are written.
    pub(crate) fn put_memory(&self, key: &mut StateKey, dead: &dyn Fn(u64) -> usize) {
        self.memory.each_changed(|page, bytes| {
            let from = dead(page).min(bytes.len());
            if from < bytes.len() {
                key.put((page, xxh3_128(&bytes[from..])));
            }
        });
    }
}
