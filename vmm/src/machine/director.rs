//! Who decides what is left open in a run, and sees what happens.

use crate::arch::choice::{Chooser, First, Point};
use crate::event::{Event, NullObserver, Observer, TraceHeader};

/// Decides what the architecture and the scheduler leave open, and sees the events.
pub trait Director: Observer + Chooser {}

impl<T: Observer + Chooser> Director for T {}

/// Takes the first option each time and discards events; used while booting.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NullDirector;

impl Observer for NullDirector {
    fn begin(&mut self, header: &TraceHeader) {
        NullObserver.begin(header);
    }

    fn event(&mut self, event: &Event) {
        NullObserver.event(event);
    }
}

impl Chooser for NullDirector {
    fn choose(&mut self, point: Point<'_>) -> usize {
        First.choose(point)
    }
}
