//! The init's life: what it mounts, what it does, how it ends.

use crate::console::say;
use crate::crew::Crew;
use crate::kind::Kind;
use crate::options::Options;
use crate::reclaim::Swap;
use crate::sys::{self, File};
use crate::{advice, forks, huge, ksm, mappings, reclaim, tally, uffd};

/// Lives it.
pub fn live(mut options: Options) -> ! {
    if options.is_child {
        forks::executed();
    }
    say(format_args!("begins"));
    if !options.is_here {
        prepare(&mut options);
    }
    say(format_args!("ready"));
    work(options);
    tally::print();
    say(format_args!("done"));
    if !options.is_here {
        sys::reboot();
    }
    sys::exit(i32::from(!tally::is_right()))
}

/// Mounts what the kernel tells about itself in, and reads its command line.
fn prepare(options: &mut Options) {
    for (kind, at) in [(c"proc", c"/proc"), (c"sysfs", c"/sys")] {
        let _ = sys::make_directory(at);
        if let Err(errno) = sys::mount(kind, at) {
            say(format_args!("FAILED mount errno {}", errno.0));
        }
    }
    let mut line = [0; 2048];
    let read = File::open(c"/proc/cmdline", File::READ).and_then(|file| file.read(&mut line));
    options.command_line(&line[..read.unwrap_or(0)]);
}

fn work(options: Options) {
    let swap = if options.is_here {
        // Settings of the whole machine are nothing for an ordinary process.
        tally::absent(Kind::KsmMerge);
        tally::absent(Kind::KsmUnmerge);
        Swap::none()
    } else {
        ksm::begin();
        huge::begin();
        Swap::begin()
    };
    for round in 0..options.rounds {
        let crew = Crew::begin();
        let generation = (round * 8 % 60_000) as u16;
        mappings::round(&crew, generation + 1);
        advice::round(&crew, generation + 2, options.is_here);
        forks::round(&crew, generation + 3);
        huge::round(&crew, generation + 4);
        uffd::round(&crew, generation + 5);
        if !options.is_here {
            ksm::round(&crew);
        }
        reclaim::round(&crew, &swap, generation + 6, options.is_here);
        crew.end();
    }
    swap.end();
}
