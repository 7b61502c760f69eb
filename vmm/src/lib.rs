//! Stalemate proves, on the machine code that ran, that a guest kernel's TLB flushes are
//! sufficient.
//!
//! The program `stalemate` is a thin layer upon this library. [`scenario`] says what to do and what
//! must come of it; a [`runner::Runner`] boots a guest on an [`executor::Backend`] and does it; what
//! happened is [`event`]s; the [`oracle`] judges them; [`report`] shows the result.
//!
//! # Run a scenario
//!
//! ```
//! use stalemate::boot::{Image, Symbols, guest_image};
//! use stalemate::executor::Backend;
//! use stalemate::runner::{Outcome, Runner};
//! use stalemate::scenario::{self, Selection};
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
//! let scenario = scenario::parse("forgotten", "forgotten.toml", text)?;
//!
//! let image = Image::parse(guest_image())?;
//! let symbols = Symbols::new(guest_image());
//! let backend = Backend::interp();
//! let mut runner = Runner::new(&image, &symbols, &backend);
//!
//! let runs = scenario.runs(0, &Selection::of(&["pcid".parse()?]));
//! let result = runner.run(&scenario, &runs[0], None)?;
//! assert_eq!(result.outcome, Outcome::Violation);
//! assert_eq!(result.violations[0].rule.to_string(), "never-flushed");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Watch it
//!
//! Whoever implements [`event::Observer`] is told of a run's events as they happen. A
//! [`event::Trace`] is one that keeps them, and gives them to another later: one that counts, a
//! picture, or the oracle once more, which needs nothing else.
//!
//! ```
//! use stalemate::boot::{Image, Symbols, guest_image};
//! use stalemate::arch::happened::Happened;
//! use stalemate::event::{Event, Kind, Observer, Trace, TraceHeader};
//! use stalemate::executor::Backend;
//! use stalemate::oracle::Oracle;
//! use stalemate::runner::Runner;
//! use stalemate::scenario::{self, Selection};
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
//! let scenarios = scenario::builtin()?;
//! let scenario = scenarios.iter().find(|one| one.name == "unmap").expect("a scenario");
//! let image = Image::parse(guest_image())?;
//! let symbols = Symbols::new(guest_image());
//! let backend = Backend::interp();
//! let mut runner = Runner::new(&image, &symbols, &backend);
//! let runs = scenario.runs(0, &Selection::of(&["pcid".parse()?]));
//!
//! let mut kept = Kept::default();
//! runner.run(scenario, &runs[0], Some(&mut kept))?;
//! assert!(kept.0 > 0);
//!
//! let mut trace = Trace::default();
//! let result = runner.run(scenario, &runs[0], Some(&mut trace))?;
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
//! use stalemate::boot::{Image, Symbols, guest_image};
//! use stalemate::executor::Backend;
//! use stalemate::report::{Recorded, html, perfetto, timeline};
//! use stalemate::event::Trace;
//! use stalemate::runner::Runner;
//! use stalemate::scenario::{self, Selection};
//!
//! let scenarios = scenario::builtin()?;
//! let scenario = scenarios.iter().find(|one| one.name == "unmap").expect("a scenario");
//! let image = Image::parse(guest_image())?;
//! let symbols = Symbols::new(guest_image());
//! let backend = Backend::interp();
//! let mut runner = Runner::new(&image, &symbols, &backend);
//! let inject = vec!["drop mark#1".parse()?];
//! let runs = scenario.runs(0, &Selection { inject, ..Selection::of(&["pcid".parse()?]) });
//!
//! let mut trace = Trace::default();
//! let result = runner.run(scenario, &runs[0], Some(&mut trace))?;
//! let timeline = timeline(&Recorded {
//!     scenario,
//!     result: &result,
//!     trace: &trace,
//!     executor: runner.executor(),
//!     symbols: &symbols,
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
//! use stalemate::boot::{Image, Symbols, guest_image};
//! use stalemate::arch::happened::Happened;
//! use stalemate::event::Kind;
//! use stalemate::executor::Backend;
//! use stalemate::oracle::About;
//! use stalemate::oracle::rule::{Context, Finding, Rule};
//! use stalemate::runner::{Outcome, Runner};
//! use stalemate::scenario::{self, Selection};
//!
//! static ABOUT: About = About {
//!     name: "load-in-flush",
//!     statement: "No CR3 load in the middle of the flush of one user page.",
//!     source: "a reviewer's wish",
//!     violated_by: "unmap --cpu pcid --policy full",
//!     near_miss: "unmap --cpu pcid --policy split",
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
//! let scenarios = scenario::builtin()?;
//! let scenario = scenarios.iter().find(|one| one.name == "unmap").expect("a scenario");
//! let image = Image::parse(guest_image())?;
//! let symbols = Symbols::new(guest_image());
//! let backend = Backend::interp();
//! let mut runner = Runner::new(&image, &symbols, &backend);
//! runner.add_rule(Box::new(LoadInFlush));
//!
//! // A processor without PGE has nothing but CR3 for the big hammer.
//! let nopge = "pcid-nopge".parse()?;
//! for (policy, outcome) in [("split", Outcome::Clean), ("full", Outcome::Violation)] {
//!     let policy = Some(policy.parse()?);
//!     let runs = scenario.runs(0, &Selection { policy, ..Selection::of(&[nopge]) });
//!     let result = runner.run(scenario, &runs[0], None)?;
//!     assert_eq!(result.outcome, outcome);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Build a machine
//!
//! Below the runner stands a [`kernel::steps::Session`]: a guest of your choice, booted once on a processor
//! of your choice, and put back for each list of steps.
//!
//! ```
//! use stalemate::boot::{Image, Symbols, guest_image};
//! use stalemate::executor::Backend;
//! use stalemate::inject::{Injector, Sites};
//! use stalemate::kernel::steps::{Session, SessionConfig, StepInput};
//! use stalemate::oracle::Oracle;
//! use stalemate::scenario::{self, Selection};
//!
//! let text = "summary = \"Two reads\"\nsteps = \"\"\"\nmap u0 red\nuser read u0 -> red\n\"\"\"";
//! let scenario = scenario::parse("two-reads", "two-reads.toml", text)?;
//! let run = scenario.runs(0, &Selection::of(&scenario::CPUS)).remove(0);
//!
//! // Like that run's, but on a processor with SMEP.
//! let mut config = SessionConfig::from(&run.config);
//! config.features.smep = true;
//! let image = Image::parse(guest_image())?;
//! let backend = Backend::interp();
//! let mut session = Session::boot(config, &image, |memory| backend.make(memory))?;
//!
//! let steps: Vec<StepInput> = scenario.steps.iter().map(|step| step.input).collect();
//! let sites = Sites::new(&Symbols::new(guest_image()));
//! let mut oracle = Oracle::default();
//! let end = session.run(&steps, Injector::new(&[], sites), &mut oracle)?;
//! assert!(end.stop.is_none() && oracle.violations().is_empty());
//! let read = end.reports[1].expect("the second step is done");
//! println!("read {:#x}; {} traps", read.value, end.traps);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

pub mod arch;
pub mod boot;
pub mod cli;
pub mod compare;
pub mod event;
#[allow(unsafe_code)]
pub mod executor;
pub mod fuzz;
pub mod inject;
pub mod ink;
pub mod kernel;
pub mod machine;
pub mod memory;
pub mod oracle;
mod parallel;
pub mod report;
pub mod runner;
pub mod scenario;
pub mod schedule;
mod schema;
pub mod score;
pub mod symbols;
