#!/bin/bash
# Tests wait-for-it.sh on loopback: its words, its exit codes, its time limits.
# Needs bash and python3 (for listeners). Run it from anywhere.
set -eu

cd "$(dirname "$0")/.."
export LC_ALL=C # the system's own words for an error are compared below
readonly WAIT=./wait-for-it.sh
scratch=$(mktemp -d)
listeners=()
# shellcheck disable=SC2329  # the trap calls it
clean_up() {
    [ ${#listeners[@]} = 0 ] || kill "${listeners[@]}" 2>/dev/null || true
    rm -rf "$scratch"
}
trap clean_up EXIT

passed=0 failed=0
check() { # check WHAT COMMAND…
    local what=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
        echo "ok      $what"
    else
        failed=$((failed + 1))
        echo "FAILED  $what"
        echo "        status $status after $took ms"
        sed 's/^/        out: /' "$scratch/out"
        sed 's/^/        err: /' "$scratch/err"
    fi
}

milliseconds() {
    local up _
    read -r up _ </proc/uptime
    REPLY=$((10#${up/./} * 10))
}

# Runs the script; leaves `status`, `took` (ms), $scratch/out and $scratch/err.
run() {
    local start
    milliseconds
    start=$REPLY
    status=0
    # Far above any limit under test: it only keeps a hang from hanging the suite.
    timeout -k 1 60 "$WAIT" "$@" >"$scratch/out" 2>"$scratch/err" || status=$?
    milliseconds
    took=$((REPLY - start))
}

status_is() { [ "$status" = "$1" ]; }
took_between() { [ "$took" -ge "$1" ] && [ "$took" -le "$2" ]; }
out_matches() { grep -qE -- "$1" "$scratch/out"; }
out_has() { grep -qF -- "$1" "$scratch/out"; }
out_ends() { [ "$(tail -n 1 "$scratch/out")" = "$1" ]; }
err_is() { [ "$(cat "$scratch/err")" = "$1" ]; }
err_has() { grep -qF -- "$1" "$scratch/err"; }
out_is() { [ "$(cat "$scratch/out")" = "$1" ]; }

# Starts a listener and leaves its port in `port`.
#   open ADDRESS           accepts
#   silent ADDRESS         its queue is full, so the kernel drops every SYN
#   late ADDRESS SECONDS   reserves the port, listens later
listen() {
    local file=$scratch/port.${#listeners[@]} deadline=$((SECONDS + 10))
    python3 - "$file" "$@" <<'END' &
import os, socket, sys, time

file, kind, address = sys.argv[1:4]
server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
server.bind((address, 0))
held = []
if kind == "open":
    server.listen(64)
elif kind == "silent":
    server.listen(0)
    while True:
        client = socket.socket(server.family)
        client.settimeout(0.3)
        held.append(client)
        try:
            client.connect(server.getsockname())
        except TimeoutError:
            break
with open(file + ".new", "w") as out:
    out.write(str(server.getsockname()[1]))
os.rename(file + ".new", file)
if kind == "late":
    time.sleep(float(sys.argv[4]))
    server.listen(64)
time.sleep(120)
END
    listeners+=($!)
    until [ -s "$file" ]; do
        [ $SECONDS -lt $deadline ] || { echo "the listener does not start" >&2; exit 1; }
        sleep 0.05
    done
    port=$(cat "$file")
}

# --- it waits, then becomes the command

listen open 127.0.0.1
# shellcheck disable=SC2016  # the command's own
run "127.0.0.1:$port" -- sh -c 'echo "got $1 $2"; exit 7' sh 'a b' c
check 'the messages are the documented ones' out_is "wait-for-it.sh: waiting 15 seconds for 127.0.0.1:$port
wait-for-it.sh: 127.0.0.1:$port is available after 0 seconds
got a b c"
check 'nothing is wrong' err_is ''
check 'the command gets its arguments as they were' out_ends 'got a b c'
check "the exit code is the command's" status_is 7
run "127.0.0.1:$port"
check 'without a command it only waits' status_is 0
run -t 3 "127.0.0.1:$port" -- echo --flag -t 5
check 'options after -- belong to the command' out_ends '--flag -t 5'
check '-t may stand before HOST:PORT' out_has "waiting 3 seconds for 127.0.0.1:$port"
run "localhost:$port"
check 'a name is looked up' status_is 0
run "127.0.0.1:$port" -- no-such-command
check 'a command that does not exist is 127' status_is 127

if listen=$(python3 -c 'import socket; socket.socket(socket.AF_INET6).bind(("::1", 0))' 2>&1); then
    listen open ::1
    run "[::1]:$port"
    check 'an IPv6 address goes in brackets' out_has "[::1]:$port is available after 0 seconds"
else
    echo "skipped an IPv6 address goes in brackets: no IPv6 loopback (${listen##*: })"
fi

# --- the options that people know

listen open 127.0.0.1

for options in "-t 30 --strict" "--timeout=30" "--timeout 30 -s" "--timeout=0"; do
    # shellcheck disable=SC2086  # several words
    run "127.0.0.1:$port" $options -- echo ran
    check "takes $options" out_ends ran
done
run -h 127.0.0.1 -p "$port" -- echo ran
check 'host and port may be apart' out_ends ran
run --host=127.0.0.1 "--port=$port" -q -- echo ran
check 'quiet says nothing' out_is ran
run -q "127.0.0.1:$port" -- sh -c 'exit 5'
check 'quiet keeps the exit code' status_is 5

listen late 127.0.0.1 1.5
run "127.0.0.1:$port" -t 30
check 'it goes on after a refused connection' status_is 0
check 'it counts the seconds' out_matches 'is available after [1-9][0-9]? seconds$'
listen late 127.0.0.1 1.5
run "127.0.0.1:$port" -t 0
check '-t 0 waits for as long as it takes' status_is 0
check '-t 0 says so' out_has "waiting for 127.0.0.1:$port without a timeout"

# --- it gives up in time

listen late 127.0.0.1 100
run "127.0.0.1:$port" -t 1 -- echo ran
check 'a timeout is exit code 1' status_is 1
check 'a timeout says what was wrong' err_has "wait-for-it.sh: error: 127.0.0.1:$port is not available after 1 seconds: Connection refused"
check 'a timeout does not run the command' out_ends "wait-for-it.sh: waiting 1 seconds for 127.0.0.1:$port"
check 'a timeout comes at its time' took_between 1000 2500
run -q -h 127.0.0.1 -p "$port" --timeout=1 -- echo ran
check 'without --strict the command does not run either' out_is ''
check 'quiet is not silent about an error' err_has 'is not available after 1 seconds'
check 'and the exit code is 1' status_is 1

listen silent 127.0.0.1
run "127.0.0.1:$port" -t 2 -- echo ran
check 'a host that drops packets is exit code 1' status_is 1
check 'a host that drops packets gives no answer' err_has 'is not available after 2 seconds: no answer'
check 'a host that drops packets cannot overrun the timeout' took_between 2000 3500

run no-such-host.invalid:1 -t 1
check 'a name that does not resolve is exit code 1' status_is 1
check 'a name that does not resolve cannot overrun the timeout' took_between 1000 2500

# --- signals

# Sends SIGTERM to the script, whose arguments are given, once $scratch/err or out has the line $1.
stop_after() {
    local line=$1 pid deadline=$((SECONDS + 10))
    shift
    : >"$scratch/out"
    : >"$scratch/err" # the line of the run before would do, and the signal would come before the script runs
    "$WAIT" "$@" >"$scratch/out" 2>"$scratch/err" &
    pid=$!
    until grep -qF -- "$line" "$scratch/out" "$scratch/err"; do
        [ $SECONDS -lt $deadline ] || break
        sleep 0.05
    done
    milliseconds
    took=$REPLY
    kill -TERM "$pid"
    status=0
    wait "$pid" || status=$?
    milliseconds
    took=$((REPLY - took))
}

stop_after 'waiting' "127.0.0.1:$port" -t 30 # still the silent one
check 'SIGTERM ends the wait' status_is 143
check 'SIGTERM ends the wait at once' took_between 0 1000
listen open 127.0.0.1
# shellcheck disable=SC2016  # the command's own
stop_after 'ready' "127.0.0.1:$port" -- bash -c 'trap "echo stopped; exit 9" TERM; echo ready; while :; do sleep 0.1; done'
check 'SIGTERM reaches the command' out_ends stopped
check "SIGTERM to the command ends with the command's code" status_is 9

# --- wrong usage

wrong() { # wrong ERROR ARG…
    local error=$1
    shift
    run "$@"
    check "usage: $error" err_has "wait-for-it.sh: error: $error"
    check "usage: exit code 2 for: $*" status_is 2
}
wrong 'no HOST:PORT given'
wrong 'HOST:PORT is empty' ''
wrong "'host' is not HOST:PORT" host
wrong "':1' is not HOST:PORT" :1
wrong "'a/b:1' is not HOST:PORT" a/b:1
wrong "'a b:1' is not HOST:PORT" 'a b:1'
wrong "'::1:2378' is not HOST:PORT (an IPv6 address goes in brackets" ::1:2378
wrong "'[::1]' is not HOST:PORT" '[::1]'
wrong "the port '' of 'host:' is not a number from 1 to 65535" host:
wrong "the port 'x' of 'host:x' is not" host:x
wrong "the port '0' of 'host:0' is not" host:0
wrong "the port '65536' of '[::1]:65536' is not" '[::1]:65536'
wrong "the port '99999999999999999999' of" host:99999999999999999999
wrong '-t needs a number of seconds' host:1 -t
wrong "-t 'soon' is not a whole number of seconds" host:1 -t soon
wrong "-t '-1' is not a whole number of seconds" host:1 -t -1
wrong "-t '1.5' is not a whole number of seconds" host:1 -t 1.5
wrong "unknown option '--wait'" host:1 --wait
wrong "only one HOST:PORT, but also got 'echo'" host:1 echo
wrong "no command after '--'" host:1 --
wrong '-h needs a host (for help, --help alone)' -h
wrong '-h needs -p PORT as well' -h host -- echo ran
wrong '-p needs -h HOST as well' -p 1 -- echo ran
wrong 'both HOST:PORT and -h or -p' host:1 -h host -p 1
wrong '--port needs a port' -h host --port=
wrong "--timeout 'soon' is not a whole number of seconds" host:1 --timeout=soon
wrong '--help stands alone' host:1 --help -- echo ran
run --help
check '--help is no error' status_is 0

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
