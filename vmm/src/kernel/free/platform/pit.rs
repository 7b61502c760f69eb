//! Channel 0 of the 8254 timer (Intel 8254 data sheet), whose time is a count of instructions.

/// Its input clock, in Hz.
const INPUT_HZ: u64 = 1_193_182;

/// What the timer is programmed to do.
#[derive(Clone, Debug)]
pub(super) struct Pit {
    /// Units of time in a second, with which the processor's own clock counts.
    hz: u64,
    /// It is so many times as fast as the kernel believes.
    times: u64,
    mode: u8,
    low: Option<u8>,
    count: u64,
    /// When it was programmed.
    since: u64,
    next: Option<u64>,
    reads_high: bool,
    latched: Option<u16>,
}

impl Pit {
    /// A timer that counts in a time of which `hz` units are a second, `times` as fast as asked.
    pub(super) fn new(hz: u64, times: u64) -> Self {
        Self {
            hz,
            times: times.max(1),
            mode: 0,
            low: None,
            count: 1 << 16,
            since: 0,
            next: None,
            reads_high: false,
            latched: None,
        }
    }

    fn units(&self, counts: u64) -> u64 {
        (counts * self.hz / INPUT_HZ / self.times).max(1)
    }

    fn left(&self, now: u64) -> u16 {
        let counts = now.saturating_sub(self.since) * self.times * INPUT_HZ / self.hz;
        (self.count - counts % self.count) as u16
    }

    pub(super) fn control(&mut self, value: u8, now: u64) {
        // Channels 1 and 2 count nothing that anybody needs.
        if value >> 6 != 0 {
            return;
        }
        if value >> 4 & 3 == 0 {
            self.latched = Some(self.left(now));
            return;
        }
        (self.mode, self.low, self.next) = (value >> 1 & 7, None, None);
    }

    pub(super) fn write(&mut self, value: u8, now: u64) {
        let Some(low) = self.low.take() else {
            self.low = Some(value);
            return;
        };
        let count = u64::from(u16::from_le_bytes([low, value]));
        self.count = if count == 0 { 1 << 16 } else { count };
        self.since = now;
        self.next = Some(now + self.units(self.count));
    }

    pub(super) fn read(&mut self, now: u64) -> u8 {
        let value = self.latched.unwrap_or_else(|| self.left(now)).to_le_bytes();
        self.reads_high = !self.reads_high;
        if !self.reads_high {
            self.latched = None;
            return value[1];
        }
        value[0]
    }

    /// When it next has something to do.
    pub(super) fn next(&self) -> Option<u64> {
        self.next
    }

    /// Whether it interrupts by `now`.
    pub(super) fn tick(&mut self, now: u64) -> bool {
        let Some(next) = self.next.filter(|next| *next <= now) else { return false };
        // Mode 2, and 3 which is alike in this, go on for ever.
        let periodic = self.mode & 3 == 2 || self.mode & 3 == 3;
        let period = self.units(self.count);
        self.next = periodic.then(|| next + period * ((now - next) / period + 1));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_periodic_timer_goes_on_and_a_single_shot_does_not() {
        let mut pit = Pit::new(INPUT_HZ, 1);
        pit.control(0x34, 0);
        for byte in [0xe8, 0x03] {
            pit.write(byte, 0);
        }
        assert_eq!((pit.next(), pit.tick(999)), (Some(1000), false));
        assert!(pit.tick(1000));
        assert_eq!(pit.next(), Some(2000));
        assert!(pit.tick(5500), "what was missed is one interrupt");
        assert_eq!(pit.next(), Some(6000));
        pit.control(0x38, 6000);
        for byte in [0x10, 0] {
            pit.write(byte, 6000);
        }
        assert!(pit.tick(6016) && pit.next().is_none());
    }

    #[test]
    fn it_can_be_so_many_times_as_fast() {
        let mut pit = Pit::new(INPUT_HZ, 10);
        pit.control(0x34, 0);
        for byte in [0xe8, 0x03] {
            pit.write(byte, 0);
        }
        assert_eq!(pit.next(), Some(100));
    }

    #[test]
    fn the_count_is_read_low_byte_first() {
        let mut pit = Pit::new(INPUT_HZ, 1);
        pit.control(0x34, 0);
        for byte in [0x00, 0x10] {
            pit.write(byte, 0);
        }
        pit.control(0x00, 0x100);
        assert_eq!([pit.read(0x200), pit.read(0x200)], [0x00, 0x0f], "as it was latched");
    }
}
