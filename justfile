# Daily commands: `just` lists them, CONTRIBUTING.md explains them.

# List the recipes
default:
    @just --list

# Run every test, or those that the arguments name
test *args:
    scripts/test {{ args }}

# Start the private servers of the tests and print how to reach them
servers:
    scripts/test --servers-only

# Check that everything compiles
check:
    cargo check --workspace --all-targets

# Format, and lint with warnings as errors
lint:
    cargo fmt --all && cargo clippy --workspace --all-targets -- -D warnings

# Rewrite snapshots, help texts and generated files
generate *args:
    UPDATE_GENERATED=1 INSTA_UPDATE=always TRYCMD=overwrite scripts/test {{ args }}

# Show everything in one process, with pages
demo:
    cargo run -- demo --keep

# Run the last release, or another revision, beside this version
upgrade *args:
    scripts/test-upgrade {{ args }}

# Search the API for answers that its document does not allow
api *args:
    scripts/schemathesis {{ args }}

# Check the manifests, alerts, dashboard and unit for deployment
deploy:
    scripts/check-deploy

# Build the image and run all of Compose, as root
containers *args:
    scripts/test-containers {{ args }}

# Check dependencies for known vulnerabilities, and record it
advisories:
    cargo fetch --locked && scripts/advisories --record

# Measure what a run costs inside the process
micro *args:
    bench/micro {{ args }}

# Measure how the cost of a run grows
growth *args:
    bench/growth/run {{ args }}

# Compare with other job queues
peers *args:
    bench/peers/run {{ args }}

# Run everything that a change has to pass
ci:
    .ci/run
