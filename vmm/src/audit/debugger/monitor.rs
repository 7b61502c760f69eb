//! Commands that GDB passes on (`monitor ...`): where a run is, and what its TLB holds.

use super::super::coverage::function;
use super::session::Position;
use super::target::Target;
use crate::arch::addr::Gva;
use crate::kernel::free::FreeError;
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd};
use std::fmt::Write;

const HELP: &str = "\
monitor where        instructions that have completed, the function, and the finding that this is
monitor findings     what rules have found, by number
monitor finding N    go to where a rule speaks
monitor at N[+TRAPS] go to where so many instructions have completed, and traps since
monitor tlb ADDRESS  what is cached of an address under the current PCID, and where the tables lead

`reverse-stepi`, `reverse-continue` and the like run the kernel again. A finding stops a run as SIGABRT.
After a command that goes somewhere, `flushregs` has GDB look at the registers again.
";

impl MonitorCmd for Target<'_> {
    fn handle_monitor_cmd(
        &mut self,
        command: &[u8],
        mut console: ConsoleOutput<'_>,
    ) -> Result<(), FreeError> {
        let command = String::from_utf8_lossy(command).into_owned();
        let words: Vec<&str> = command.split_whitespace().collect();
        let said = match words[..] {
            ["where"] => self.place(),
            ["findings"] => self.findings(),
            ["finding", number] => {
                match number.parse::<usize>().ok().and_then(|n| n.checked_sub(1)) {
                    Some(number) if self.session.seek_finding(number)? => self.place(),
                    _ => format!("there are {} findings, from 1\n", self.session.findings.len()),
                }
            }
            ["at", position] => match parse(position) {
                Some(position) => {
                    self.session.seek(position)?;
                    self.place()
                }
                None => "a number of instructions, and of traps after them: 1200000+3\n".to_owned(),
            },
            ["tlb", address] => match number(address) {
                Some(address) => self.translations(Gva(address)),
                None => "an address, in hexadecimal or decimal\n".to_owned(),
            },
            ["help"] | [] => HELP.to_owned(),
            _ => format!("there is no command `{}`\n{HELP}", crate::ink::one_line(&command)),
        };
        // What cannot be sent, the session finds out.
        let _ = console.write_str(&said);
        Ok(())
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn parse(text: &str) -> Option<Position> {
    let (instructions, traps) = text.split_once('+').unwrap_or((text, "0"));
    Some(Position { instructions: number(instructions)?, traps: number(traps)? })
}

impl Target<'_> {
    fn place(&self) -> String {
        let session = &self.session;
        let Position { instructions, traps } = session.position;
        let rip = session.free.rip();
        let mut out =
            format!("at {instructions}+{traps}: {rip} in {}\n", function(self.symbols, rip));
        for (number, place) in session.findings_here() {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "finding {}: {}", number + 1, place.key);
        }
        out
    }

    fn findings(&self) -> String {
        let mut out = String::new();
        for (number, place) in self.session.findings.iter().enumerate() {
            let _ = writeln!(out, "{}: {}", number + 1, place.key);
        }
        if out.is_empty() { "nothing was found\n".to_owned() } else { out }
    }

    fn translations(&self, address: Gva) -> String {
        let free = &self.session.free;
        let said = |found: Option<crate::arch::walk::Translation>| {
            found.map_or_else(|| "nothing".to_owned(), |found| found.to_string())
        };
        format!("cached: {}\ntables: {}\n", said(free.cached(address)), said(free.walked(address)))
    }
}
