//! Events: numbered, put in order where the processor leaves it open, and shown to the observer.

use super::{Interceptor, Kernel, Machine};
use crate::arch::addr::{CpuId, Gva};
use crate::arch::core::{Done, Log, Logged, Memory};
use crate::arch::happened::Happened;
use crate::arch::op::decode;
use crate::arch::walk::{Start, walk};
use crate::event::{Announcement, Event, Kind, Observer};
use iced_x86::{Formatter, IntelFormatter};

impl<K: Kernel, I: Interceptor> Machine<K, I> {
    /// Emits an event of the current CPU that no operation of a processor made.
    pub(crate) fn publish(&mut self, observer: &mut dyn Observer, injected: bool, kind: Kind) {
        let vcpu = self.vcpu();
        self.publish_of(observer, vcpu.id, vcpu.rip(), injected, kind);
    }

    /// The current CPU's kernel has said something, by no store.
    pub(crate) fn announce(
        &mut self,
        observer: &mut dyn Observer,
        rip: Gva,
        announcements: Vec<Announcement>,
    ) {
        let kind = Kind::Announced { announcements, word: None };
        self.publish_of(observer, self.vcpu().id, rip, false, kind);
    }

    /// Emits what the processors did; the instruction was at `rip`.
    pub(super) fn publish_log(&mut self, observer: &mut dyn Observer, rip: Gva, log: Log) {
        for Logged { cpu, what, injected } in log.entries {
            let kind = match what {
                Done::Happened(happened) => Kind::Cpu(happened),
                Done::Stored(store) => {
                    let said = self.kernel.stored(&self.memory, &store);
                    Kind::Announced { announcements: said.announcements, word: Some(said.word) }
                }
            };
            self.publish_of(observer, cpu, rip, injected, kind);
        }
    }

    fn publish_of(
        &mut self,
        observer: &mut dyn Observer,
        cpu: CpuId,
        rip: Gva,
        injected: bool,
        kind: Kind,
    ) {
        let holds =
            matches!(kind, Kind::Cpu(Happened::Fill { .. } | Happened::AccessedDirty { .. }));
        let event = Event { seq: self.seq, cpu, rip, injected, kind };
        if self.probe == Some(self.seq) {
            self.probed = Some((Box::new(self.vcpu().clone()), self.disassemble(rip)));
        }
        self.seq += 1;
        let same = self.held.last().is_none_or(|held| held.rip == rip);
        if holds && same {
            self.held.push(event);
            return;
        }
        self.release(observer);
        if let Some(instructions) = self.executor.instructions() {
            observer.completed(instructions);
        }
        if holds {
            self.held.push(event);
        } else {
            observer.event(&event);
        }
    }

    /// Emits what is held back.
    pub(crate) fn release(&mut self, observer: &mut dyn Observer) {
        let mut held = std::mem::take(&mut self.held);
        let first = held.first().map_or(0, |event| event.seq);
        held.sort_by_key(|event| match event.kind {
            Kind::Cpu(Happened::AccessedDirty { slot, .. }) => (0, slot.0, event.cpu),
            Kind::Cpu(Happened::Fill { page, .. }) => (1, page.0, event.cpu),
            _ => (2, 0, event.cpu),
        });
        for (index, event) in held.iter_mut().enumerate() {
            event.seq = first + index as u64;
            observer.event(event);
        }
    }

    /// The instruction at `rip`, as the current root maps it.
    fn disassemble(&self, rip: Gva) -> Option<String> {
        let walked = walk(&self.memory, Start::root(self.vcpu().root()), rip, self.vcpu().paging());
        let at = walked.result.ok()?.at(rip);
        let mut bytes = [0; 15];
        let bytes = &mut bytes[..(4096 - (at.0 & 0xfff) as usize).min(15)];
        self.memory.read(at, bytes).then(|| {
            let instruction = decode(bytes, rip.0);
            let mut text = String::new();
            IntelFormatter::new().format(&instruction, &mut text);
            text
        })
    }
}
