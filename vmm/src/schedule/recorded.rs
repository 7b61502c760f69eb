//! A recorded schedule: who ran how far, as a string that another process can repeat.
//!
//! `s1-CHECK-PARTS`: the check is of the program and the configuration that it was recorded from. A part
//! is a CPU's number, `i` behind it where the CPU first takes an interrupt that waits, and how far it
//! then gets: so many events, and after a dot so many instructions that completed natively. Both are
//! counted from the part's beginning, so that what is visible to other CPUs need not be known to repeat it.

use crate::arch::addr::CpuId;
use std::fmt;
use std::str::FromStr;

/// How far one CPU gets before another one's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// The CPU.
    pub cpu: CpuId,
    /// It first takes an interrupt that waits.
    pub interrupt: bool,
    /// Instructions that complete natively; those that trap are not counted.
    pub instructions: u64,
    /// Events.
    pub events: u64,
}

/// A recorded schedule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Recorded {
    /// What it was recorded from.
    pub check: u32,
    /// Who ran how far.
    pub segments: Vec<Segment>,
}

/// The version of the string.
const VERSION: &str = "s1";
/// Parts at most.
const MOST_SEGMENTS: usize = 1 << 16;

impl Recorded {
    /// Adds what a CPU did next; to the last part where that CPU goes on.
    pub fn push(&mut self, segment: Segment) {
        let Segment { interrupt, instructions, events, .. } = segment;
        // A CPU that only looked in vain is where it was.
        if (interrupt, instructions, events) == (false, 0, 0) {
            return;
        }
        match self.segments.last_mut() {
            Some(last) if last.cpu == segment.cpu && !segment.interrupt => {
                last.instructions += segment.instructions;
                last.events += segment.events;
            }
            _ => self.segments.push(segment),
        }
    }
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}-{:08x}", self.check)?;
        for Segment { cpu, interrupt, instructions, events } in &self.segments {
            let taken = if *interrupt { "i" } else { "" };
            write!(f, "-{}{taken}:{events}.{instructions}", cpu.0)?;
        }
        Ok(())
    }
}

impl FromStr for Recorded {
    type Err = String;

    /// Reads the string.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('-');
        let version = parts.next().unwrap_or_default();
        if version != VERSION {
            let known = version.strip_prefix('s').is_some_and(|rest| rest.parse::<u32>().is_ok());
            return Err(match known {
                true => format!(
                    "`{version}` is another version of recorded schedules than `{VERSION}`; explore again \
                     with this program"
                ),
                false => format!("a recorded schedule begins with `{VERSION}-`"),
            });
        }
        let check = parts.next().unwrap_or_default();
        let digits = check.len() == 8 && check.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u32::from_str_radix(check, 16).ok().filter(|_| digits);
        let check = number.ok_or_else(|| {
            format!(
                "`{check}` are not the eight hexadecimal digits that `stalemate explore` prints"
            )
        })?;
        let segments = parts.map(segment).collect::<Result<Vec<_>, _>>()?;
        if segments.is_empty() || segments.len() > MOST_SEGMENTS {
            return Err(format!("a recorded schedule has 1 to {MOST_SEGMENTS} parts"));
        }
        Ok(Self { check, segments })
    }
}

fn segment(text: &str) -> Result<Segment, String> {
    let parsed = || {
        let (cpu, counts) = text.split_once(':')?;
        let (events, instructions) = counts.split_once('.')?;
        let interrupt = cpu.ends_with('i');
        let number = |text: &str| {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u32>().ok().filter(|_| plain)
        };
        let cpu = u8::try_from(number(cpu.trim_end_matches('i'))?).ok()?;
        Some(Segment {
            cpu: CpuId(cpu),
            interrupt,
            instructions: number(instructions)?.into(),
            events: number(events)?.into(),
        })
    };
    parsed().ok_or_else(|| {
        format!("`{text}` is no part of a recorded schedule; one is like `0:12.340` or `1i:3.20`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(cpu: u8, interrupt: bool, events: u64, instructions: u64) -> Segment {
        Segment { cpu: CpuId(cpu), interrupt, instructions, events }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut recorded = Recorded { check: 0x1f, segments: Vec::new() };
        let all = [(0, false, 1, 0), (0, false, 2, 30), (1, true, 1, 0), (1, false, 0, 7)];
        for (cpu, interrupt, events, instructions) in all {
            recorded.push(segment(cpu, interrupt, events, instructions));
        }
        let text = recorded.to_string();
        assert_eq!(text, "s1-0000001f-0:3.30-1i:1.7");
        assert_eq!(text.parse(), Ok(recorded));
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_what_would_be_right() {
        for (text, says) in [
            ("", "begins with `s1-`"),
            ("s2-0000001f-0:1.1", "another version"),
            ("s1-1f-0:1.1", "eight hexadecimal digits"),
            ("s1-0000001f", "1 to"),
            ("s1-0000001f-0", "is like"),
            ("s1-0000001f-0:1.-1", "is like"),
            ("s1-0000001f-999:1.1", "is like"),
            ("s1-0000001f-0:99999999999.1", "is like"),
        ] {
            let error = text.parse::<Recorded>().expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
