//! A run's events as an observer keeps them.

use super::{Event, Observer, TraceHeader};

/// The events of a run, to be judged or drawn later.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The state that the first event meets.
    pub header: Option<TraceHeader>,
    /// The events.
    pub events: Vec<Event>,
    /// For each event the instructions completed when it happened, where the executor counts
    /// them and the event marks a place in the program; else the last count before it.
    pub completed: Vec<u64>,
    /// The last count.
    last: u64,
}

impl Observer for Trace {
    fn begin(&mut self, header: &TraceHeader) {
        *self = Self { header: Some(header.clone()), ..Self::default() };
    }

    fn event(&mut self, event: &Event) {
        self.events.push(event.clone());
        self.completed.push(self.last);
    }

    fn completed(&mut self, instructions: u64) {
        self.last = instructions;
    }
}

impl Trace {
    /// A trace that begins with these events.
    #[must_use]
    pub fn opened(header: TraceHeader, events: Vec<Event>) -> Self {
        let completed = vec![0; events.len()];
        Self { header: Some(header), events, completed, last: 0 }
    }

    /// Shows the trace to another observer.
    pub fn replay(&self, observer: &mut dyn Observer) {
        let Some(header) = &self.header else { return };
        observer.begin(header);
        for (event, &completed) in self.events.iter().zip(&self.completed) {
            observer.completed(completed);
            observer.event(event);
        }
    }
}
