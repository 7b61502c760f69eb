//! The same work on many items, on several threads.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The results of `work` on each of `items`, in the order of the items. Each of the `threads` has a
/// `state` of its own, and takes one item after another.
///
/// # Errors
/// After an error no further item is begun; of several errors it is the first item's.
///
/// # Panics
/// As `state` or `work` does.
pub fn parallel<I: Sync, S, T: Send, E: Send>(
    items: &[I],
    threads: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &I) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let thread = || {
        let mut state = state();
        let mut done = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(number) else { break };
            let result = work(&mut state, item);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            done.push((number, result));
        }
        done
    };
    let mut done: Vec<(usize, Result<T, E>)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(thread)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        };
        threads.into_iter().flat_map(join).collect()
    });
    // Items are taken in their order, so that all before one that failed are done.
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_items() {
        let items: Vec<u64> = (0..1000).collect();
        for threads in [0, 1, 3] {
            let doubled = parallel(&items, threads, || (), |(), item| Ok::<_, ()>(item * 2));
            assert_eq!(doubled, Ok(items.iter().map(|item| item * 2).collect()));
        }
    }

    #[test]
    fn the_first_error_counts_and_ends_the_work() {
        let items: Vec<u64> = (0..1000).collect();
        let begun = AtomicUsize::new(0);
        let failed = parallel(
            &items,
            2,
            || (),
            |(), &item| {
                begun.fetch_add(1, Ordering::Relaxed);
                if item >= 10 { Err(item) } else { Ok(()) }
            },
        );
        assert_eq!(failed, Err(10));
        assert!(begun.into_inner() <= 12);
    }

    #[test]
    fn a_panic_is_carried_on() {
        let work = |(): &mut (), item: &u64| -> Result<(), ()> { panic!("at {item}") };
        let caught = std::panic::catch_unwind(|| parallel(&[7], 2, || (), work));
        let panic = caught.expect_err("a panic");
        assert_eq!(panic.downcast_ref::<String>().map(String::as_str), Some("at 7"));
    }
}
