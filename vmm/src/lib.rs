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
//! use stalemate::scenario::{self, CPUS, Selection};
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
//! let pcid = CPUS.iter().find(|cpu| cpu.name == "pcid").expect("a named CPU");
//! let runs = scenario.runs(0, &Selection::of(&[*pcid]));
//! let result = runner.run(&scenario, &runs[0], None)?;
//! assert_eq!(result.outcome, Outcome::Violation);
//! assert_eq!(result.violations[0].rule.to_string(), "never-flushed");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Look at its events
//!
//! A [`runner::Trace`] keeps the events of a run and gives them to any [`event::Observer`]: one that
//! counts, a picture, or the oracle once more. A rule of one's own is such an observer.
//!
//! ```
//! use stalemate::boot::{Image, Symbols, guest_image};
//! use stalemate::event::{Event, Kind, Observer, TraceHeader};
//! use stalemate::executor::Backend;
//! use stalemate::oracle::Oracle;
//! use stalemate::runner::{Runner, Trace};
//! use stalemate::scenario::{self, CPUS, Selection};
//!
//! /// This kernel must never load CR3 in the middle of a flush of one page.
//! #[derive(Default)]
//! struct NoLoadInFlush {
//!     flushing: bool,
//!     broken: Vec<u64>,
//! }
//!
//! impl Observer for NoLoadInFlush {
//!     fn begin(&mut self, _: &TraceHeader) {}
//!     fn event(&mut self, event: &Event) {
//!         match &event.kind {
//!             Kind::PrimitiveBegin(_) => self.flushing = true,
//!             Kind::PrimitiveEnd(_) => self.flushing = false,
//!             Kind::LoadCr3 { .. } if self.flushing => self.broken.push(event.seq),
//!             _ => {}
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
//! let runs = scenario.runs(0, &Selection::of(&CPUS));
//!
//! let mut trace = Trace::default();
//! let result = runner.run(scenario, &runs[0], Some(&mut trace))?;
//!
//! let mut rule = NoLoadInFlush::default();
//! trace.replay(&mut rule);
//! assert!(rule.broken.is_empty());
//!
//! // The oracle needs nothing but the events, either.
//! let mut oracle = Oracle::default();
//! trace.replay(&mut oracle);
//! assert_eq!(oracle.violations(), result.violations);
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
pub mod machine;
pub mod oracle;
pub mod report;
pub mod runner;
pub mod scenario;
pub mod score;
