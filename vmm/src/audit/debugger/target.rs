//! A run as a target of the remote protocol.

use super::registers::{Known, X86, description};
use super::session::{Session, Stopped};
use crate::arch::addr::Gva;
use crate::kernel::free::FreeError;
use crate::symbols::Symbols;
use gdbstub::common::Signal;
use gdbstub::conn::ConnectionExt;
use gdbstub::stub::SingleThreadStopReason;
use gdbstub::stub::run_blocking::{BlockingEventLoop, Event, WaitForStopReasonError};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::reverse_exec::{
    ReplayLogPosition, ReverseCont, ReverseContOps, ReverseStep, ReverseStepOps,
};
use gdbstub::target::ext::base::singlethread::{
    SingleThreadBase, SingleThreadResume, SingleThreadResumeOps, SingleThreadSingleStep,
    SingleThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, SwBreakpoint, SwBreakpointOps,
};
use gdbstub::target::ext::monitor_cmd::MonitorCmdOps;
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::{TargetError, TargetResult};
use std::marker::PhantomData;
use std::net::TcpStream;

/// The most breakpoints at once.
const MOST_BREAKPOINTS: usize = 1024;

/// What the run is to do next.
#[derive(Clone, Copy, Debug)]
enum Next {
    Step,
    StepBack,
    GoOn,
    GoOnBack,
}

/// A run.
pub(super) struct Target<'a> {
    pub(super) session: Session,
    pub(super) symbols: &'a Symbols,
    next: Next,
    description: String,
}

impl<'a> Target<'a> {
    pub(super) fn new(session: Session, symbols: &'a Symbols) -> Self {
        Self { session, symbols, next: Next::GoOn, description: description() }
    }
}

/// What happens while the run goes on.
pub(super) struct Events<'a>(PhantomData<&'a ()>);

impl<'a> BlockingEventLoop for Events<'a> {
    type Target = Target<'a>;
    type Connection = TcpStream;
    type StopReason = SingleThreadStopReason<u64>;

    fn wait_for_stop_reason(
        target: &mut Target<'a>,
        line: &mut TcpStream,
    ) -> Result<Event<Self::StopReason>, WaitForStopReasonError<FreeError, std::io::Error>> {
        let mut wants_stop = || line.peek().map_or(true, |byte| byte.is_some());
        let session = &mut target.session;
        let stopped = match target.next {
            Next::Step => session.step(),
            Next::StepBack => session.step_back(),
            Next::GoOn => session.go_on(&mut wants_stop),
            Next::GoOnBack => session.go_on_back(&mut wants_stop),
        };
        let at = |pos| SingleThreadStopReason::ReplayLog { tid: None, pos };
        let reason = match stopped.map_err(WaitForStopReasonError::Target)? {
            Stopped::Interrupted => {
                let byte = ConnectionExt::read(line);
                return byte.map(Event::IncomingData).map_err(WaitForStopReasonError::Connection);
            }
            Stopped::There => SingleThreadStopReason::DoneStep,
            Stopped::Breakpoint => SingleThreadStopReason::SwBreak(()),
            // No exception of the kernel's: SIGABRT, as a program that a sanitizer ends.
            Stopped::Finding => SingleThreadStopReason::Signal(Signal::SIGABRT),
            Stopped::End => at(ReplayLogPosition::End),
            Stopped::Begin => at(ReplayLogPosition::Begin),
        };
        Ok(Event::TargetStopped(reason))
    }

    fn on_interrupt(_: &mut Target<'a>) -> Result<Option<Self::StopReason>, FreeError> {
        Ok(Some(SingleThreadStopReason::Signal(Signal::SIGINT)))
    }
}

impl gdbstub::target::Target for Target<'_> {
    type Arch = X86;
    type Error = FreeError;

    fn base_ops(&mut self) -> BaseOps<'_, X86, FreeError> {
        BaseOps::SingleThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }

    fn support_target_description_xml_override(
        &mut self,
    ) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }
}

impl TargetDescriptionXmlOverride for Target<'_> {
    fn target_description_xml(
        &self,
        annex: &[u8],
        offset: u64,
        length: usize,
        buffer: &mut [u8],
    ) -> TargetResult<usize, Self> {
        if annex != b"target.xml" {
            return Err(TargetError::NonFatal);
        }
        let text = self.description.as_bytes();
        let rest = usize::try_from(offset).ok().and_then(|offset| text.get(offset..));
        let rest = rest.unwrap_or_default();
        let part = &rest[..rest.len().min(length).min(buffer.len())];
        buffer[..part.len()].copy_from_slice(part);
        Ok(part.len())
    }
}

impl SingleThreadBase for Target<'_> {
    fn read_registers(&mut self, registers: &mut Known) -> TargetResult<(), Self> {
        *registers = Known::from(self.session.free.vcpu());
        Ok(())
    }

    fn write_registers(&mut self, _: &Known) -> TargetResult<(), Self> {
        Err(TargetError::NonFatal)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8]) -> TargetResult<usize, Self> {
        match self.session.free.read(Gva(start), data) {
            0 if !data.is_empty() => Err(TargetError::NonFatal),
            read => Ok(read),
        }
    }

    fn write_addrs(&mut self, _: u64, _: &[u8]) -> TargetResult<(), Self> {
        Err(TargetError::NonFatal)
    }

    fn support_resume(&mut self) -> Option<SingleThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl SingleThreadResume for Target<'_> {
    fn resume(&mut self, _: Option<Signal>) -> Result<(), FreeError> {
        self.next = Next::GoOn;
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<SingleThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_reverse_step(&mut self) -> Option<ReverseStepOps<'_, (), Self>> {
        Some(self)
    }

    fn support_reverse_cont(&mut self) -> Option<ReverseContOps<'_, (), Self>> {
        Some(self)
    }
}

impl SingleThreadSingleStep for Target<'_> {
    fn step(&mut self, _: Option<Signal>) -> Result<(), FreeError> {
        self.next = Next::Step;
        Ok(())
    }
}

impl ReverseStep<()> for Target<'_> {
    fn reverse_step(&mut self, (): ()) -> Result<(), FreeError> {
        self.next = Next::StepBack;
        Ok(())
    }
}

impl ReverseCont<()> for Target<'_> {
    fn reverse_cont(&mut self) -> Result<(), FreeError> {
        self.next = Next::GoOnBack;
        Ok(())
    }
}

impl Target<'_> {
    fn add(&mut self, at: u64) -> bool {
        let breakpoints = &mut self.session.breakpoints;
        let fits = breakpoints.len() < MOST_BREAKPOINTS;
        fits && {
            breakpoints.insert(Gva(at));
            true
        }
    }

    fn remove(&mut self, at: u64) -> bool {
        self.session.breakpoints.remove(&Gva(at))
    }
}

/// Both kinds are the same here: nothing is written to memory.
impl Breakpoints for Target<'_> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Target<'_> {
    fn add_sw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.add(at))
    }

    fn remove_sw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.remove(at))
    }
}

impl HwBreakpoint for Target<'_> {
    fn add_hw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.add(at))
    }

    fn remove_hw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.remove(at))
    }
}
