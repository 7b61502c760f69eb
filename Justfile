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

# Ratios to the bare trap, traps and time per scenario, image size
bench:
    cargo bench

# The mark scenario on kvm-amd inside QEMU's TCG
svm:
    tests/svm/run
