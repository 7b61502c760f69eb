//! Stalemate proves, on the machine code that ran, that a guest kernel's TLB flushes are
//! sufficient.
//!
//! The program `stalemate` is a thin layer upon this library. Begin with the [`prelude`]: a
//! [`Guest`](kernel::steps::Guest) is the kernel under test, a [`Scenario`](scenario::Scenario) says
//! what it is to do and what must come of that, and a [`Runner`](runner::Runner) does it on a
//! [`Backend`](executor::Backend). What happened is [`event`]s; the [`oracle`] judges them; [`report`]
//! shows the result.
//!
//! # Run a scenario
//!
//! ```
//! use stalemate::prelude::*;
//!
//! let text = r#"
//! summary = "A remap without its flush"
//! kernel  = { pti = true }
//! steps   = """
//! map u0 red
//! user read u0 -> red
//! remap u0 blue
//! user read u0 -> blue
//! """
//! "#;
//! let scenario = parse("forgotten", "forgotten.toml", text)?;
//! let runs = scenario.runs(&Selection::of(&["pcid".parse()?]));
//!
//! let mut runner = Runner::new(&Guest::builtin(), &Backend::interp());
//! let result = runner.run(&runs[0], None)?;
//! assert_eq!(result.outcome, Outcome::Violation);
//! assert_eq!(result.violations[0].rule.to_string(), "never-flushed");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Watch it
//!
//! Whoever implements [`event::Observer`] is notified of a run's events as they happen. A
//! [`event::Trace`] is one that keeps them, and gives them to another later: one that counts, a
//! picture, or the oracle once more, which needs nothing else.
//!
//! ```
//! use stalemate::prelude::*;
//!
//! /// Counts the CR3 loads that keep what is tagged with the PCID.
//! #[derive(Default)]
//! struct Kept(usize);
//!
//! impl Observer for Kept {
//!     fn begin(&mut self, _: &TraceHeader) {}
//!     fn event(&mut self, event: &Event) {
//!         if let Kind::Cpu(Happened::LoadCr3 { value, .. }) = event.kind {
//!             self.0 += (value >> 63) as usize;
//!         }
//!     }
//! }
//!
//! let runs = builtin("unmap").expect("built in").runs(&Selection::of(&["pcid".parse()?]));
//! let mut runner = Runner::new(&Guest::builtin(), &Backend::interp());
//! let mut kept = Kept::default();
//! runner.run(&runs[0], Some(&mut kept))?;
//! assert!(kept.0 > 0);
//!
//! let mut trace = Trace::default();
//! let result = runner.run(&runs[0], Some(&mut trace))?;
//! let mut oracle = Oracle::default();
//! trace.replay(&mut oracle);
//! assert_eq!(oracle.violations(), result.violations);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Show it
//!
//! The reports of the program are functions of results: [`report::details`] and
//! [`report::summary`] for people, [`report::json`] and others for machines. A picture is made of one
//! run with its events.
//!
//! ```
//! use stalemate::prelude::*;
//! use stalemate::report::{Recorded, html, perfetto, timeline};
//!
//! let inject = vec!["drop mark#1".parse()?];
//! let selection = Selection { inject, ..Selection::of(&["pcid".parse()?]) };
//! let runs = builtin("unmap").expect("built in").runs(&selection);
//!
//! let guest = Guest::builtin();
//! let mut runner = Runner::new(&guest, &Backend::interp());
//! let mut trace = Trace::default();
//! let result = runner.run(&runs[0], Some(&mut trace))?;
//! let timeline = timeline(&Recorded {
//!     result: &result,
//!     trace: &trace,
//!     executor: runner.executor(),
//!     symbols: guest.symbols(),
//!     command: "my-program unmap",
//! });
//! let page = html(&timeline);
//! assert!(page.contains("stale-user-entry") && page.contains("my-program unmap"));
//! assert!(perfetto(&timeline)["traceEvents"].is_array());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Add a rule
//!
//! A rule sees each event with the state after it: tables, TLBs, registers, obligations. Violations
//! of it are violations like any other, in every report.
//!
//! ```
//! use stalemate::prelude::*;
//!
//! static ABOUT: About = About {
//!     name: "load-in-flush",
//!     statement: "No CR3 load in the middle of the flush of one user page.",
//!     source: "a reviewer's wish",
//!     violated_by: "unmap --cpu pcid-nopge --policy full",
//!     near_miss: "unmap --cpu pcid-nopge --policy split",
//!     hint: "use INVLPG",
//!     is_cost: false,
//! };
//!
//! #[derive(Clone)]
//! struct LoadInFlush;
//!
//! impl Rule for LoadInFlush {
//!     fn about(&self) -> &'static About {
//!         &ABOUT
//!     }
//!
//!     fn observe(&mut self, context: &Context<'_>) -> Vec<Finding> {
//!         let Kind::Cpu(Happened::LoadCr3 { .. }) = context.event.kind else {
//!             return Vec::new();
//!         };
//!         let flush = context.replica.flush_on(context.event.cpu);
//!         if flush.is_none_or(|open| open.flush.name() != "flush_tlb_one_user") {
//!             return Vec::new();
//!         }
//!         vec![Finding::new("CR3 is loaded where INVLPG would do".to_owned())]
//!     }
//! }
//!
//! let mut runner = Runner::new(&Guest::builtin(), &Backend::interp());
//! runner.add_rule(Box::new(LoadInFlush));
//! // A processor without PGE has nothing but CR3 for the big hammer.
//! let nopge = "pcid-nopge".parse()?;
//! for (policy, outcome) in [("split", Outcome::Clean), ("full", Outcome::Violation)] {
//!     let policy = Some(policy.parse()?);
//!     let runs = builtin("unmap").expect("built in").runs(&Selection { policy, ..Selection::of(&[nopge]) });
//!     assert_eq!(runner.run(&runs[0], None)?.outcome, outcome);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Build a machine
//!
//! Below the runner stands a [`Session`](kernel::steps::Session): a guest of your choice, booted once
//! on a processor of your choice, and put back for each list of steps.
//!
//! ```
//! use stalemate::inject::Injector;
//! use stalemate::kernel::steps::{Session, SessionConfig};
//! use stalemate::prelude::*;
//!
//! let run = builtin("unmap").expect("built in").runs(&Selection::of(&["pcid".parse()?])).remove(0);
//! // Like that run's, but on a processor with SMEP.
//! let mut config = SessionConfig::from(&run.config);
//! config.features.smep = true;
//! let mut session = Session::boot(config, &Guest::builtin(), &Backend::interp())?;
//!
//! let mut oracle = Oracle::default();
//! let end = session.run(&run.steps(), Injector::default(), &mut oracle)?;
//! assert!(end.stop.is_none() && oracle.violations().is_empty());
//! println!("{} traps", end.traps);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

pub use stalemate_model::{arch, event, oracle};

#[doc(hidden)]
pub mod audit;
pub mod cli;
#[doc(hidden)]
pub mod compare;
#[allow(unsafe_code)]
pub mod executor;
pub mod explore;
#[doc(hidden)]
pub mod fuzz;
pub mod inject;
pub mod ink;
mod interrupt;
pub mod kernel;
pub mod machine;
pub mod memory;
mod parallel;
pub mod report;
pub mod runner;
pub mod sandbox;
pub mod scenario;
pub mod schedule;
mod schema;
#[doc(hidden)]
pub mod score;
mod suggest;
pub mod symbols;
#[doc(hidden)]
pub mod witness;

/// What most users need.
pub mod prelude {
    pub use crate::arch::happened::Happened;
    pub use crate::event::{Announcement, Event, Kind, Observer, Trace, TraceHeader};
    pub use crate::executor::Backend;
    pub use crate::kernel::steps::Guest;
    pub use crate::oracle::rule::{Context, Finding, Rule};
    pub use crate::oracle::{About, Oracle, RuleId, Violation};
    pub use crate::runner::{Outcome, RunResult, Runner};
    pub use crate::scenario::{Run, Scenario, Selection, builtin, parse};
}
