//! The program and its library as their users see them, a module a topic.
#![allow(missing_docs)]

#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod action;
mod audit;
mod both;
mod ci_reports;
mod cli;
mod examples;
mod explore;
mod faults;
mod fences;
mod findings;
mod fuzz;
mod harness;
mod header;
mod history;
mod hostile;
mod image;
mod init;
mod interrupts;
mod limits;
mod linux;
mod litmus;
mod matrix;
mod misbehaviour;
mod one_word;
mod policies;
mod replay;
mod rules;
mod sandbox;
mod scenario_errors;
mod schedules;
mod signals;
mod structure;
mod terminal;
mod timeline;
mod verdicts;
mod witness;
mod zoo;
