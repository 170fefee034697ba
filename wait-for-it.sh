#!/bin/bash
# Waits until HOST:PORT accepts a TCP connection, then becomes COMMAND.
#
#   wait-for-it.sh HOST:PORT [-t SECONDS] [-q] [-s] [-- COMMAND ARG…]
#
# Takes the options of the script of this name that many compose files use. It differs in one
# point: COMMAND never runs where HOST:PORT did not become available, with --strict or without.
#
# Needs bash and coreutils, no more: a slim Debian image has both, and bash opens
# TCP connections itself. Progress goes to stdout, so that a container's log has it
# before COMMAND's first line (the order between two streams is anybody's guess);
# errors go to stderr. Exit codes: 0 available (and no COMMAND), 1 not available in
# time, 2 wrong usage; otherwise COMMAND's own. With a COMMAND it is never 0 unless COMMAND's is.
set -eu

quiet=
say() { printf 'wait-for-it.sh: %s\n' "$*"; }
tell() { [ -n "$quiet" ] || say "$@"; }

usage() {
    cat <<'END'
usage: wait-for-it.sh HOST:PORT [OPTION…] [-- COMMAND ARG…]

Waits until HOST:PORT accepts a TCP connection, then runs COMMAND. Where it does not in time,
COMMAND does not run, and the exit code is 1.

  HOST:PORT                       an IPv6 address goes in brackets: [::1]:2378
  -h HOST, --host=HOST            the same, in two parts
  -p PORT, --port=PORT
  -t SECONDS, --timeout=SECONDS   give up after this time (default 15; 0 waits for ever)
  -q, --quiet                     say nothing but errors
  -s, --strict                    as it is anyway: no COMMAND without a connection
  --help                          show this
END
}

wrong_usage() {
    say "error: $*" >&2
    usage >&2
    exit 2
}

address=
host_option=
port_option=
seconds=15
[ "$*" != --help ] || { usage && exit 0; }
while [ $# -gt 0 ]; do
    case $1 in
    --host=* | --port=* | --timeout=*)
        set -- "${1%%=*}" "${1#*=}" "${@:2}"
        continue
        ;;
    -t | --timeout)
        [ $# -ge 2 ] || wrong_usage "$1 needs a number of seconds"
        # Six digits are eleven days, and far from any overflow below.
        [[ $2 =~ ^[0-9]{1,6}$ ]] || wrong_usage "$1 '$2' is not a whole number of seconds from 0 to 999999"
        seconds=$((10#$2))
        shift 2
        ;;
    -h | --host)
        [ $# -ge 2 ] && [ -n "$2" ] || wrong_usage "$1 needs a host (for help, --help alone)"
        host_option=$2
        shift 2
        ;;
    -p | --port)
        [ $# -ge 2 ] && [ -n "$2" ] || wrong_usage "$1 needs a port"
        port_option=$2
        shift 2
        ;;
    -q | --quiet)
        quiet=yes
        shift
        ;;
    -s | --strict) shift ;;
    --help) wrong_usage "--help stands alone" ;;
    --)
        shift
        [ $# -gt 0 ] || wrong_usage "no command after '--'"
        break
        ;;
    -*) wrong_usage "unknown option '$1'" ;;
    *)
        [ -z "$address" ] || wrong_usage "only one HOST:PORT, but also got '$1' (a command comes after '--')"
        [ -n "$1" ] || wrong_usage "HOST:PORT is empty"
        address=$1
        shift
        ;;
    esac
done

if [ -n "$host_option$port_option" ]; then
    [ -z "$address" ] || wrong_usage "both HOST:PORT and -h or -p"
    [ -n "$host_option" ] || wrong_usage "-p needs -h HOST as well"
    [ -n "$port_option" ] || wrong_usage "-h needs -p PORT as well"
    case $host_option in
    \[*) address=$host_option:$port_option ;;
    *:*) address="[$host_option]:$port_option" ;;
    *) address=$host_option:$port_option ;;
    esac
fi
[ -n "$address" ] || wrong_usage "no HOST:PORT given"
# Neither pattern lets a '/' through, which would mean another path to bash.
if [[ $address =~ ^\[([0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?)\]:(.*)$ ]]; then
    host=${BASH_REMATCH[1]} port=${BASH_REMATCH[3]}
elif [[ $address == *:*:* ]]; then
    wrong_usage "'$address' is not HOST:PORT (an IPv6 address goes in brackets: [::1]:2378)"
elif [[ $address =~ ^([A-Za-z0-9._-]+):(.*)$ ]]; then
    host=${BASH_REMATCH[1]} port=${BASH_REMATCH[2]}
else
    wrong_usage "'$address' is not HOST:PORT"
fi
if ! [[ $port =~ ^[0-9]{1,5}$ ]] || ((10#$port < 1 || 10#$port > 65535)); then
    wrong_usage "the port '$port' of '$address' is not a number from 1 to 65535"
fi

# As process 1 of a container bash ignores a signal that it has no handler for,
# and it runs a handler only between foreground commands: hence `wait` below.
child=
stop() {
    [ -z "$child" ] || kill "$child" 2>/dev/null || true
    exit "$1"
}
trap 'stop 143' TERM
trap 'stop 130' INT
trap 'stop 129' HUP

# Hundredths of a second since boot: a clock that nobody sets.
now() {
    local up _
    read -r up _ </proc/uptime
    up=${up/./}
    REPLY=$((10#$up))
}

# Returns 0 if a connection opens within $1 hundredths of a second, else leaves why in `reason`.
connects_within() {
    local limit line='' status=0
    printf -v limit '%d.%02d' $(($1 / 100)) $(($1 % 100))
    # `timeout` bounds the name lookup and a host that drops packets alike.
    # shellcheck disable=SC2016  # the inner bash expands these
    exec 3< <(exec timeout "$limit" bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$host" "$port" 2>&1)
    child=$!
    wait "$child" || status=$?
    child=
    read -r line <&3 || true
    exec 3<&-
    [ "$status" = 0 ] && return
    reason=${line##*: }
    [ "$status" != 124 ] || reason='no answer'
    return 1
}

pause() {
    sleep 0.2 &
    child=$!
    wait "$child" || true
    child=
}

readonly ATTEMPT=500 # hundredths: the longest that one attempt may hold up the next

if [ "$seconds" = 0 ]; then
    tell "waiting for $address without a timeout"
else
    tell "waiting $seconds seconds for $address"
fi

reason='no answer'
now
start=$REPLY
while true; do
    now
    left=$((seconds == 0 ? ATTEMPT : start + seconds * 100 - REPLY))
    if [ "$left" -le 0 ]; then
        say "error: $address is not available after $seconds seconds: $reason" >&2
        exit 1
    fi
    if connects_within $((left < ATTEMPT ? left : ATTEMPT)); then
        break
    fi
    pause
done
now
tell "$address is available after $(((REPLY - start) / 100)) seconds"

trap - TERM INT HUP
[ $# = 0 ] || exec "$@"
