//! Each rule is pinned by what only it catches: every wrong choice makes the test fail that its row
//! of `table.txt` names.
#![allow(missing_docs)]

extern crate stalemate_wrong as stalemate_model;

#[path = "../model/legality/mod.rs"]
mod legality;
#[path = "../model/memory.rs"]
mod memory;
#[path = "../model/pins/mod.rs"]
mod pins;
#[path = "../model/rules.rs"]
mod rules;
mod scan;
#[path = "../model/stale.rs"]
mod stale;
#[path = "../model/story.rs"]
mod story;
mod table;
#[path = "../model/tlb_rules.rs"]
mod tlb_rules;
