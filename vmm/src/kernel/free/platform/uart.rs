//! The serial port: vm-superio's 8250, as plain data.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io::Write;
use std::rc::Rc;
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

/// Says that the line went up.
#[derive(Clone, Debug, Default)]
struct Line(Rc<Cell<bool>>);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.set(true);
        Ok(())
    }
}

/// What was sent and nobody has taken.
#[derive(Clone, Debug, Default)]
struct Output(Rc<RefCell<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(super) struct Uart {
    serial: Serial<Line, NoEvents, Output>,
    line: Line,
    output: Output,
}

impl Uart {
    pub(super) fn new() -> Self {
        let (line, output) = (Line::default(), Output::default());
        Self { serial: Serial::new(line.clone(), output.clone()), line, output }
    }

    pub(super) fn read(&mut self, register: u8) -> u8 {
        self.serial.read(register)
    }

    pub(super) fn write(&mut self, register: u8, value: u8) {
        // Neither the line nor the buffer can fail.
        let _ = self.serial.write(register, value);
    }

    /// Whether it has interrupted since the last call.
    pub(super) fn interrupts(&self) -> bool {
        self.line.0.take()
    }

    pub(super) fn take_output(&mut self) -> Vec<u8> {
        self.output.0.take()
    }
}

impl Clone for Uart {
    fn clone(&self) -> Self {
        let line = Line(Rc::new(self.line.0.as_ref().clone()));
        let output = Output(Rc::new(self.output.0.as_ref().clone()));
        let state = self.serial.state();
        let restored = Serial::from_state(&state, line.clone(), NoEvents, output.clone());
        let serial = restored.unwrap_or_else(|_| Serial::new(line.clone(), output.clone()));
        Self { serial, line, output }
    }
}

impl std::fmt::Debug for Uart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uart").field("unread", &self.output).finish_non_exhaustive()
    }
}
