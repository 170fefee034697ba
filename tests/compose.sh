#!/bin/bash
# Walks through a failover on the real thing: etcd and three servers under Compose.
#
#   tests/compose.sh                     compiles in the image's build stage, where a container reaches crates
#   ELECT_BINARY=PATH tests/compose.sh   packs that binary instead, through the same Dockerfile
#   COMPOSE='docker compose' …           with this Compose rather than the first one found
#   KILLS=200 …                          kills the leader so many times more, and prints what the failovers took
#
# Needs a Docker engine and Compose, 1.29 or 2; prints `skipped: …` without. Every
# wait is for a condition and has a deadline. Takes everything down at the end but
# the base images (scripts/base-images.sh --remove).
set -eu

cd "$(dirname "$0")/.."
export LC_ALL=C

readonly TTL=3 # seconds, as in docker-compose.yaml
readonly SERVERS="server1 server2 server3"

if ! reason=$(docker info 2>&1 >/dev/null); then
    echo "skipped: no Docker engine"
    echo "${reason:-docker is not installed}" >&2
    exit 0
fi
if [ -z "${COMPOSE:-}" ]; then
    if docker compose version >/dev/null 2>&1; then
        COMPOSE="docker compose"
    elif command -v docker-compose >/dev/null; then
        COMPOSE="docker-compose"
    else
        echo "skipped: no Docker Compose"
        exit 0
    fi
fi
readonly COMPOSE
echo "with $($COMPOSE version | head -n 1), engine $(docker version -f '{{.Server.Version}}')"

readonly PROJECT=leader-election-test-$$
export ELECT_IMAGE=$PROJECT
export ETCD_PORT=0 PAGE1_PORT=0 PAGE2_PORT=0 PAGE3_PORT=0 # free ones: a developer's own etcd may have 2378
scratch=$(mktemp -d)
declare -A id=() mark=()
more_kills= # lines of a time and a server, as the history has them
passed=0 failed=0 finished=no

servers_file() { $COMPOSE -p "$PROJECT" -f docker-compose.yaml "$@"; }
etcd_file() { $COMPOSE -p "$PROJECT" -f docker-compose-etcd.yaml "$@"; }
cluster_file() { $COMPOSE -p "$PROJECT" -f docker-compose-etcd-cluster.yaml "$@"; }
quietly() { # a command's output only if it fails; orphans are expected
    "$@" >"$scratch/log" 2>&1 || {
        cat "$scratch/log" >&2
        return 1
    }
}

# shellcheck disable=SC2329  # the trap calls it
tear_down() {
    local name
    if [ "$failed" != 0 ] || [ $finished = no ]; then
        for name in etcd_server $SERVERS; do
            [ -n "${id[$name]:-}" ] || continue
            echo "--- $name: $(docker inspect -f '{{.State.Status}}, exit code {{.State.ExitCode}}{{if .State.Health}}, {{.State.Health.Status}}: {{json .State.Health.Log}}{{end}}' "${id[$name]}" | cut -c -2000)"
            # It may be gone already, which must not end this.
            docker logs --tail "$([ "$name" = etcd_server ] && echo 5 || echo 60)" "${id[$name]}" 2>&1 || true
        done
    fi
    servers_file down -t 1 --volumes --remove-orphans >/dev/null 2>&1 || true
    etcd_file down -t 1 --volumes --remove-orphans >/dev/null 2>&1 || true
    cluster_file down -t 1 --volumes --remove-orphans >/dev/null 2>&1 || true
    docker image rm -f "$ELECT_IMAGE" >/dev/null 2>&1 || true
    # What the classic builder leaves of the build stage; the label is the Dockerfile's.
    docker container prune -f --filter label=leader-election.stage=build >/dev/null 2>&1 || true
    docker image prune -f --filter label=leader-election.stage=build >/dev/null 2>&1 || true
    rm -rf "$scratch"
}
trap tear_down EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

check() { # check WHAT COMMAND…
    local what=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
        echo "ok      $what"
    else
        failed=$((failed + 1))
        echo "FAILED  $what ($*)"
    fi
}
# Without this one the rest makes no sense.
require() {
    local before=$failed
    check "$@"
    if [ "$failed" != "$before" ]; then
        summary
        exit 1
    fi
}
summary() {
    finished=yes
    echo "$passed passed, $failed failed"
}

milliseconds() { date +%s%3N; }
within() { # within SECONDS COMMAND…: polls until it succeeds
    local deadline=$(($(milliseconds) + $1 * 1000))
    shift
    until "$@"; do
        [ "$(milliseconds)" -lt "$deadline" ] || return 1
        sleep 0.1
    done
}
not() { ! "$@"; }
is() { [ "$1" = "$2" ]; }
at_most() { [ "$1" -le "$2" ]; }

# --- reading containers

state() { docker inspect -f "{{.State.$2}}" "${id[$1]}"; }
runs() { is "$(state "$1" Running)" true; }
exited() { not runs "$1"; }
healthy() { is "$(state "$1" Health.Status)" healthy; }
unhealthy() { is "$(state "$1" Health.Status)" unhealthy; }
running_servers() {
    local name
    for name in $SERVERS; do
        if runs "$name"; then echo "$name"; fi
    done
}

# What a server printed since `mark_logs`.
lines() { docker logs "${id[$1]}" 2>&1 | tail -n "+$((${mark[$1]:-0} + 1))"; }
mark_logs() {
    local name
    for name in $SERVERS; do
        mark[$name]=$(docker logs "${id[$name]}" 2>&1 | wc -l)
    done
}
printed() { lines "$1" | grep -qxF -- "$2"; }
times_printed() { lines "$1" | grep -cxF -- "$2" || true; }
printed_times() { [ "$(times_printed "$1" "$2")" -ge "$3" ]; }
# These lines, in this order; others may stand between.
printed_in_order() {
    local name=$1
    shift
    lines "$name" | awk -v wanted="$(printf '%s\n' "$@")" '
        BEGIN { n = split(wanted, want, "\n"); i = 1 }
        $0 == want[i] { i++ }
        END { exit i <= n }'
}
# The last thing that a server said of itself.
role() {
    docker logs "${id[$1]}" 2>&1 | awk '
        /^Starting the server/ || $0 == "LEADERSHIP CHANGE REQUIRED" { role = "none" }
        $0 == "I am the leader." { role = "leader" }
        $0 == "I am a follower." { role = "follower" }
        END { print role }'
}
has_role() { runs "$1" && is "$(role "$1")" "$2"; }
leaders() {
    local name
    for name in $(running_servers); do
        if has_role "$name" leader; then echo "$name"; fi
    done
}
# One running server leads and each other one follows.
settled() {
    local name leads=0
    for name in $(running_servers); do
        case $(role "$name") in
        leader) leads=$((leads + 1)) ;;
        follower) ;;
        *) return 1 ;;
        esac
    done
    [ $leads = 1 ]
}
# How many ms after time $1 a server first printed a line; nothing if it did not.
printed_after() {
    local at
    at=$(docker logs -t --since "$(date -u -d "@$(($1 / 1000)).$(printf %03d $(($1 % 1000)))" +%Y-%m-%dT%H:%M:%S.%NZ)" "${id[$2]}" 2>&1 |
        grep -F -- " $3" | head -n 1 | cut -d ' ' -f 1) || true
    [ -z "$at" ] || echo $(($(date -d "$at" +%s%3N) - $1))
}
# How many terms of leadership the logs tell of, and by how many ms two of them overlap at most.
terms_and_overlap() {
    local name
    for name in $SERVERS; do
        docker logs -t "${id[$name]}" >"$scratch/times" 2>&1
        paste -d ' ' <(cut -d ' ' -f 1 "$scratch/times" | date -f - +%s%3N) <(cut -d ' ' -f 2- "$scratch/times") |
            sed "s/ / $name /"
    done >"$scratch/history"
    # A killed or frozen server can't print that its term has ended.
    printf '%s LEADERSHIP CHANGE REQUIRED\n' "$killed_at $killed" "$frozen_at $frozen" >>"$scratch/history"
    printf '%s' "$more_kills" >>"$scratch/history"
    sort -s -n -k 1,1 "$scratch/history" | awk '
        function close_term(name, at) {
            if (name in since) { n++; who[n] = name; from[n] = since[name]; to[n] = at; delete since[name] }
        }
        { name = $2; at = $1; $1 = $2 = ""; line = substr($0, 3) }
        line == "I am the leader." { since[name] = at }
        line == "LEADERSHIP CHANGE REQUIRED" || line ~ /^Starting/ || line == "I am a follower." { close_term(name, at) }
        END {
            for (name in since) close_term(name, at)
            for (i = 1; i <= n; i++)
                for (j = 1; j < i; j++) {
                    both = (to[i] < to[j] ? to[i] : to[j]) - (from[i] > from[j] ? from[i] : from[j])
                    if (who[i] != who[j] && both > most) most = both
                }
            print n + 0, most + 0
        }'
}

# Everything that a server may print in plain format: exactly these lines on the standard output, and wait-for-it.sh's before
# it. On the standard error a lasting problem, at most once a minute.
only_known_lines() {
    local errors
    errors=$(docker logs "${id[$1]}" 2>&1 >/dev/null | grep -vE '^wait-for-it\.sh: ')
    ! docker logs "${id[$1]}" 2>/dev/null | grep -vxE \
        -e 'wait-for-it\.sh: waiting 15 seconds for etcd_server:2378' \
        -e 'wait-for-it\.sh: etcd_server:2378 is available after [0-9]+ seconds' \
        -e "Starting the server '$1'" -e "Connecting to etcd at 'etcd_server:2378'" \
        -e 'New leader election happening\.' -e 'I am the leader\.' -e 'I am a follower\.' \
        -e 'Refreshing lease; still the leader\.' -e 'LEADERSHIP CHANGE REQUIRED' -e 'new election' &&
        ! grep -vxE "(elect: warning: .*'etcd_server:2378'.*)?" <<<"$errors" &&
        at_most "$(grep -c '^elect: warning' <<<"$errors")" 3
}

# --- the images

crates_reached() {
    timeout 60 docker run --rm "$1" cargo info --registry crates-io itoa >/dev/null 2>&1
}
pack() { # pack BINARY: the image from a binary built outside, as `make image` does
    DEBIAN_IMAGE=$debian_image quietly scripts/image.sh "$1" "$ELECT_IMAGE"
}
debian_image=${DEBIAN_IMAGE:-$(sed -n 's/^ARG DEBIAN_IMAGE=//p' Dockerfile)}
rust_image=${RUST_IMAGE:-$(sed -n 's/^ARG RUST_IMAGE=//p' Dockerfile)}

scripts/base-images.sh debian etcd
if [ -n "${ELECT_BINARY:-}" ]; then
    echo "image: the binary $ELECT_BINARY, built outside, through the same Dockerfile"
    require "the image takes a binary that was built outside" pack "$ELECT_BINARY"
else
    scripts/base-images.sh rust
    if crates_reached "$rust_image"; then
        echo "image: compiled in the build stage (minutes; ELECT_BINARY=PATH skips it)"
        require "the image compiles in its build stage" quietly servers_file build \
            --build-arg "RUST_IMAGE=$rust_image" --build-arg "DEBIAN_IMAGE=$debian_image" server1
    else
        echo "image: no container reaches crates here, so the binary is built outside and goes through the same Dockerfile"
        cargo build --release --locked
        require "the image takes a binary that was built outside" pack "${CARGO_TARGET_DIR:-target}/release/elect"
    fi
fi
echo "image size: $(docker image inspect -f '{{.Size}}' "$ELECT_IMAGE" | awk '{ printf "%.1f MB", $1 / 1e6 }'), of which the base $(docker image inspect -f '{{.Size}}' "$debian_image" | awk '{ printf "%.1f MB", $1 / 1e6 }')"
check "the image's user is not root" is "$(docker image inspect -f '{{.Config.User}}' "$ELECT_IMAGE")" 10001:10001
check "the image has a health check" not is "$(docker image inspect -f '{{.Config.Healthcheck}}' "$ELECT_IMAGE")" '<nil>'

# --- wait-for-it.sh inside the image

in_image() { docker run --rm --read-only --network none --entrypoint /wait-for-it.sh "$ELECT_IMAGE" "$@"; }
status=0
said=$(in_image 127.0.0.1:1 -t 1 -- elect --version 2>&1) || status=$?
check "in the image, wait-for-it.sh fails at its timeout" is "$status" 1
check "and does not run the command" is "$said" "wait-for-it.sh: waiting 1 seconds for 127.0.0.1:1
wait-for-it.sh: error: 127.0.0.1:1 is not available after 1 seconds: Connection refused"

# --- etcd in one terminal

quietly etcd_file up -d
id[etcd_server]=$(etcd_file ps -q etcd_server)
require "etcd becomes healthy" within 60 healthy etcd_server
check "etcd is published on this machine only" not grep -qv '^127\.0\.0\.1:' \
    <(docker port "${id[etcd_server]}" 2378/tcp)

# --- the servers in another

quietly servers_file up -d --no-build
for name in $SERVERS; do
    id[$name]=$(servers_file ps -q "$name")
done
require "one server leads and the others follow" within 30 settled
for name in $SERVERS; do
    check "$name prints the lines of a start" printed_in_order "$name" \
        "wait-for-it.sh: waiting 15 seconds for etcd_server:2378" \
        "wait-for-it.sh: etcd_server:2378 is available after $(lines "$name" | sed -n 's/.*is available after \([0-9]*\) seconds$/\1/p') seconds" \
        "Starting the server '$name'" \
        "Connecting to etcd at 'etcd_server:2378'" \
        "New leader election happening." \
        "$(has_role "$name" leader && echo 'I am the leader.' || echo 'I am a follower.')"
    check "$name is not root" is "$(docker exec "${id[$name]}" id -u)" 10001
    check "$name is process 1, so signals reach it" is "$(docker exec "${id[$name]}" cat /proc/1/comm)" elect
done
leader=$(leaders)
echo "the leader is $leader"
# Asked from inside, as the port outside is any.
says() { docker exec "${id[$1]}" bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080 && printf "GET %s HTTP/1.0\r\n\r\n" '"$2"' >&3 && cat <&3'; }
check "the leader's page is served" grep -q '<title>Election' <(says "$leader" /)
check "and published on this machine only" grep -q '^127\.0\.0\.1:' <(docker port "${id[$leader]}" 8080/tcp)
check "the leader refreshes its lease each second" within 10 printed_times "$leader" 'Refreshing lease; still the leader.' 4
for name in $SERVERS; do
    check "$name becomes healthy" within 60 healthy "$name"
    check "$name sees the leader" quietly docker exec "${id[$name]}" elect status
done
check "the leader is still $leader" is "$(leaders)" "$leader"

# --- the leader is killed

mark_logs
killed=$leader
killed_at=$(milliseconds)
docker kill "${id[$killed]}" >/dev/null
echo "killed $killed"
check "the killed leader exited" within 5 exited "$killed"
check "with code 137" is "$(state "$killed" ExitCode)" 137
survivors=$(running_servers)
for name in $survivors; do
    check "$name prints LEADERSHIP CHANGE REQUIRED" within $((TTL + 10)) printed "$name" 'LEADERSHIP CHANGE REQUIRED'
done
require "one survivor leads and the other follows" within 10 settled
leader=$(leaders)
for name in $survivors; do
    check "$name holds a new election" printed_in_order "$name" \
        'LEADERSHIP CHANGE REQUIRED' 'new election' 'New leader election happening.' \
        "$(has_role "$name" leader && echo 'I am the leader.' || echo 'I am a follower.')"
    check "$name sees the new leader" within 5 quietly docker exec "${id[$name]}" elect status
done
failover=$(printed_after "$killed_at" "$leader" 'I am the leader.')
echo "the new leader is $leader, ${failover:-?} ms after the kill (TTL ${TTL}000 ms)"
# The kernel tells of a server that was killed, through a volume that they share. The lease tells after two thirds of a TTL at the earliest.
check "it did not wait for the lease of the killed one" at_most "${failover:-999999}" $((TTL * 1000 / 2))
check "the new leader refreshes its lease" within 10 printed_times "$leader" 'Refreshing lease; still the leader.' 2
check "exactly one leads" is "$(leaders)" "$leader"

# --- the killed one comes back

mark_logs
docker start "${id[$killed]}" >/dev/null
require "the killed server follows when it is back" within 30 has_role "$killed" follower
check "and starts like a new one" printed_in_order "$killed" \
    "Starting the server '$killed'" "Connecting to etcd at 'etcd_server:2378'" \
    'New leader election happening.' 'I am a follower.'
check "its return changes nothing" is "$(leaders)" "$leader"

# --- the leader is stopped

mark_logs
stopped=$leader
stopped_at=$(milliseconds)
docker stop "${id[$stopped]}" >/dev/null
echo "stopped $stopped, which took $(($(milliseconds) - stopped_at)) ms"
check "the stopped leader's exit code is 0" is "$(state "$stopped" ExitCode)" 0
check "the stopped leader says that it stops leading" printed "$stopped" 'LEADERSHIP CHANGE REQUIRED'
check "the stopped leader claims no more leadership" not printed "$stopped" 'I am the leader.'
require "another one leads" within 10 settled
leader=$(leaders)
handoff=$(printed_after "$stopped_at" "$leader" 'I am the leader.')
echo "the next leader is $leader, ${handoff:-?} ms after the stop"
# Waiting for the lease to expire would take at least a TTL less a renewal interval.
check "it did not wait for the lease to expire" at_most "${handoff:-999999}" $((TTL * 1000 * 2 / 3 - 1))
for name in $(running_servers); do
    check "$name printed the change" printed_in_order "$name" \
        'LEADERSHIP CHANGE REQUIRED' 'new election' 'New leader election happening.'
done
docker start "${id[$stopped]}" >/dev/null
require "the stopped server follows when it is back" within 30 has_role "$stopped" follower

# --- the leader is frozen

mark_logs
frozen=$leader
frozen_at=$(milliseconds)
docker kill --signal STOP "${id[$frozen]}" >/dev/null
echo "froze $frozen"
another_leads() { leaders | grep -qvx "$frozen"; }
require "another one leads while the leader is frozen" within $((TTL + 10)) another_leads
# That there is a leader does not make this container healthy.
check "the frozen container becomes unhealthy" within 60 unhealthy "$frozen"
thawed_log=$(docker logs "${id[$frozen]}" 2>&1 | wc -l)
docker kill --signal CONT "${id[$frozen]}" >/dev/null
require "thawed it follows" within 30 has_role "$frozen" follower
mark[$frozen]=$thawed_log
check "thawed it prints the change first" is "$(lines "$frozen" | head -n 1)" 'LEADERSHIP CHANGE REQUIRED'
check "thawed it refreshes nothing" not printed "$frozen" 'Refreshing lease; still the leader.'
check "thawed it becomes healthy" within 60 healthy "$frozen"
require "one leads and the others follow" within 10 settled
leader=$(leaders)

# --- the leader is killed, again and again

another_printed_that_it_leads() {
    local name
    for name in $SERVERS; do
        if [ "$name" != "$victim" ] && printed "$name" 'I am the leader.'; then
            leader=$name
            return
        fi
    done
    return 1
}
: >"$scratch/failovers"
for ((round = 1; round <= ${KILLS:-0}; round++)); do
    mark_logs
    victim=$leader
    process_1=$(state "$victim" Pid)
    kill_at=$(milliseconds)
    # `docker kill` itself would take most of the time.
    kill -9 "$process_1" 2>/dev/null || docker kill "${id[$victim]}" >/dev/null
    more_kills+="$kill_at $victim LEADERSHIP CHANGE REQUIRED"$'\n'
    within $((TTL + 10)) another_printed_that_it_leads || break
    printed_after "$kill_at" "$leader" 'I am the leader.' >>"$scratch/failovers"
    within 10 exited "$victim" && docker start "${id[$victim]}" >/dev/null
    within 30 has_role "$victim" follower || break
done
if [ "${KILLS:-0}" -gt 0 ]; then
    check "each of $KILLS kills was followed" is "$(wc -l <"$scratch/failovers")" "$KILLS"
    sort -n "$scratch/failovers" | awk '{ all[NR] = $1 }
        END { printf "the next leader, after a kill: median %d ms, p99 %d, at most %d\n", all[int((NR + 1) / 2)], all[int(NR * 0.99 + 0.99)], all[NR] }'
fi

# --- etcd goes away and comes back

mark_logs
quietly docker stop -t 5 "${id[etcd_server]}"
check "without etcd the leader steps down" within $((TTL + 5)) printed "$leader" 'LEADERSHIP CHANGE REQUIRED'
check "without etcd there is no leader" is "$(leaders)" ''
for name in $SERVERS; do
    check "without etcd $name becomes unhealthy" within 60 unhealthy "$name"
    check "without etcd $name goes on" runs "$name"
done
docker start "${id[etcd_server]}" >/dev/null
require "with etcd back one leads and the others follow" within 60 settled
for name in $SERVERS; do
    check "with etcd back $name becomes healthy" within 60 healthy "$name"
    check "$name printed nothing else in all this" only_known_lines "$name"
done
check "exactly one leads at the end" is "$(leaders | wc -w)" 1

read -r terms overlap <<<"$(terms_and_overlap)"
echo "$terms terms of leadership, by the times of their log lines"
# The engine stamps a line when it reads it, which on a busy machine is a little later.
check "at no time did two lead (overlap: $overlap ms)" at_most "$overlap" 100

# --- three members of etcd in place of one

quietly servers_file down -t 5 --remove-orphans # the one etcd is an orphan to it
quietly cluster_file up -d
for name in etcd1 etcd2 etcd3; do
    id[$name]=$(cluster_file ps -q "$name")
done
for name in etcd1 etcd2 etcd3; do
    require "$name becomes healthy" within 60 healthy "$name"
done
quietly servers_file up -d --no-build
for name in $SERVERS; do
    id[$name]=$(servers_file ps -q "$name") mark[$name]=0
done
require "on three members one server leads and the others follow" within 30 settled
quietly cluster_file kill etcd1
mark_logs
# It may have been the one that led etcd, and then a lease may have ended.
one_leads_on() {
    leader=$(leaders)
    [ -n "$leader" ] && printed_times "$leader" 'Refreshing lease; still the leader.' $((TTL * 2))
}
require "one leads on with one member gone" within 30 one_leads_on
quietly servers_file kill "$leader"
require "another one takes over on the two that are left" within $((TTL + 20)) settled

summary
[ "$failed" = 0 ]
