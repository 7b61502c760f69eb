//! A timer that kicks KVM_RUN out of a loop which never traps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// How often the watchdog looks.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
struct Shared {
    /// Rises with every KVM_RUN; odd while one is under way.
    runs: AtomicU64,
    /// The watchdog has kicked the run that is under way.
    expired: AtomicBool,
    stop: AtomicBool,
}

/// Watches the thread that made it.
#[derive(Debug)]
pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The signal's only purpose is to make KVM_RUN return EINTR.
extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Watchdog {
    /// A watchdog that gives each KVM_RUN of the calling thread `limit`.
    ///
    /// # Errors
    /// When the signal handler cannot be registered.
    pub fn new(limit: Duration) -> std::io::Result<Self> {
        register_signal_handler(SIGRTMIN(), on_kick)
            .map_err(|error| std::io::Error::from_raw_os_error(error.errno()))?;
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        // SAFETY: no preconditions.
        let target = unsafe { libc::pthread_self() };
        let thread = std::thread::spawn(move || watch(&watched, target, limit));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Marks the begin of a KVM_RUN.
    pub fn enter(&self) {
        self.shared.runs.fetch_add(1, Ordering::SeqCst);
    }

    /// Marks its end.
    pub fn leave(&self) {
        self.shared.runs.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether the run that has just returned was kicked for taking too long.
    #[must_use]
    pub fn expired(&self) -> bool {
        self.shared.expired.swap(false, Ordering::SeqCst)
    }
}

fn watch(shared: &Shared, target: libc::pthread_t, limit: Duration) {
    let mut seen = 0;
    let mut since = Instant::now();
    while !shared.stop.load(Ordering::SeqCst) {
        std::thread::park_timeout(TICK.min(limit));
        let runs = shared.runs.load(Ordering::SeqCst);
        if runs != seen || runs.is_multiple_of(2) {
            seen = runs;
            since = Instant::now();
        } else if since.elapsed() >= limit {
            shared.expired.store(true, Ordering::SeqCst);
            // Sent again at every tick until the run ends: a signal that arrives just before
            // the thread enters the kernel would be lost otherwise.
            // SAFETY: the watched thread owns this watchdog and joins this thread before it
            // ends, so `target` is alive.
            unsafe { libc::pthread_kill(target, SIGRTMIN()) };
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of the watchdog has nothing to tell that matters here.
            let _ = thread.join();
        }
    }
}
