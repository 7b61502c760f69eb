//! A kernel for `stalemate run --guest` around flush code of one's own: `flush` is what is judged.

#![no_std]
#![no_main]

mod flush;
mod harness;
mod paging;
