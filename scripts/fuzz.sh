#!/bin/sh
# Fuzzes each parser of external input, one after the other:
#
#   fuzz.sh MINUTES [TARGET]      (make fuzz MINUTES=3 TARGET=frames)
#
# The targets are the tests named `fuzz_…`, which take a second of random input each in the normal run. Here
# they are built with coverage for libFuzzer, which a stable compiler supports. A finding ends the run
# and is kept in `src/…/__fuzz__/…/crashes`; the normal run repeats it. Commit it with the fix.
set -eu
cd "$(dirname "$0")/.."
minutes=$1
wanted=${2:-}
out=${CARGO_TARGET_DIR:-target}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')

# With --target, build scripts and macros are not instrumented. Overflow is a finding.
coverage='--cfg fuzzing --cfg fuzzing_libfuzzer -Cpasses=sancov-module'
for flag in level=4 inline-8bit-counters pc-table trace-compares; do
    coverage="$coverage -Cllvm-args=-sanitizer-coverage-$flag"
done
export RUSTFLAGS="$coverage -Ccodegen-units=1 -Coverflow-checks -Cdebug-assertions"
export CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=line-tables-only CARGO_TARGET_DIR="$out"
mkdir -p "$out"
if ! cargo test --target "$host" --lib --bin elect --no-run 2>"$out/build.log"; then
    cat "$out/build.log" >&2
    exit 1
fi
programs=$(sed -n 's/.*Executable .*(\(.*\))$/\1/p' "$out/build.log")

found=
for program in $programs; do
    for test in $("$program" --list 2>/dev/null | sed -n 's/^\(.*fuzz_[a-z_]*\): test$/\1/p'); do
        target=${test##*fuzz_}
        if [ -n "$wanted" ] && [ "$wanted" != "$target" ]; then continue; fi
        found=yes
        # bolero's naming: the module's directory, and the path of the test.
        case $test in
            peers::*) source=src/peers ;;
            etcd::*) source=src/etcd ;;
            status::*) source=src/bin/elect/status ;;
            config::*) source=src/bin/elect/config ;;
        esac
        kept=$source/__fuzz__/$(printf %s "${test%fuzz_*}$target" | sed 's/::/__/g')
        corpus=$out/corpus/$target
        mkdir -p "$corpus" "$kept/crashes"
        set -- "$corpus" "$kept/crashes"
        if [ -d "$kept/corpus" ]; then set -- "$@" "$kept/corpus"; fi
        echo "--- $target: $minutes minutes"
        BOLERO_LIBFUZZER_ARGS="$* -artifact_prefix=$kept/crashes/ -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -max_total_time=$((minutes * 60))" \
            "$program" --exact "$test" --nocapture --quiet --test-threads 1 >"$out/$target.log" 2>&1 || {
            tail -n 60 "$out/$target.log"
            echo "--- $target: failed; see $kept/crashes" >&2
            exit 1
        }
        grep -E 'stat::(number_of_executed_units|average_exec_per_sec|peak_rss_mb)' "$out/$target.log"
        rmdir -p --ignore-fail-on-non-empty "$kept/crashes"
    done
done
if [ -z "$found" ]; then
    echo "there is no target '$wanted'" >&2
    exit 1
fi
