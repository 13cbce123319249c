#!/bin/sh
# One on each node of a job: makes the namespace in which the job's names resolve, proves it, and keeps it true.
# Usage: holder.sh FOLDER
#
# This process watches its standard input, whose end is the job's end, and tries the methods. What stays in the
# namespace, and renews its hosts file, is `holder.sh FOLDER inside METHOD PRIVATE PID`. Names must hold while the
# application cleans up, so the signals that end a job are ignored by both.
set -u
trap '' HUP INT TERM USR1 USR2
folder=$1
node=$folder/node

setting() { sed -n "s/^$1=//p" "$node/settings" | head -n 1; }

run=$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
here=${SLURMD_NODENAME:-$(hostname)}
replicas=$node/replicas-$run
state=$node/holder-$SLURM_JOB_ID-$here

# compose: the node's own file, the canary, the job's replicas, and the view less the peers whose run has ended.
compose() {
    cat "$private/own" "$private/canary"
    awk -v id="$job_id" '$3 != "-" { if ($1 == 0) print $3, "job-" id; print $3, "job-" id "-" $1 }' "$replicas"
    keep=no
    [ ! -f "$private/view" ] || while IFS= read -r line; do
        case $line in
            '# consumer '*)
                keep=yes
                peer_run=${line#* run }
                ! has_ended "${peer_run%% *}" "${line#* exit }" || keep=no
                ;;
            '#'*) keep=no ;;
            *) [ "$keep" = no ] || printf '%s\n' "$line" ;;
        esac
    done <"$private/view"
}

# has_ended SLURM_ID.RESTART PATH: the exit record can be read, and is that run's.
has_ended() {
    [ -r "$2" ] && grep -q "\"slurm_id\":${1%.*},\"restart\":${1#*.}," "$2" 2>/dev/null
}

# renew: put a complete new file in place where anything changed. The old one stays where the view cannot be read.
renew() {
    cmp -s "$view" "$private/view" || { cp "$view" "$private/view.new" && mv -f "$private/view.new" "$private/view"; }
    compose >"$private/new" || return 1
    if cmp -s "$private/new" "$private/hosts"; then return 0; fi
    if [ "$method" != nss_wrapper ]; then
        # A bind mount holds on to its file, so each change is a new file, bound on top of the last one: readers see the
        # old or the new, whole. One mount is left for each change.
        number=$((number + 1))
        cp "$private/new" "$private/bound.$number" &&
            mount --bind "$private/bound.$number" /etc/hosts || return 1
        rm -f "$private/bound.$((number - 1))"
    fi
    mv -f "$private/new" "$private/hosts"
}

if [ "${2-}" = inside ]; then
    method=$3
    private=$4
    watcher=$5
    nap=
    trap '[ -z "$nap" ] || kill -KILL "$nap" 2>/dev/null; exit 0' ALRM
    job_id=$(setting job_id)
    view=$(setting view)
    number=0
    renew || exit 1
    if [ "$method" != nss_wrapper ]; then
        # nscd would answer from its own view of /etc/hosts.
        if [ -e /run/nscd/socket ]; then
            mkdir -p "$private/empty" && mount --bind "$private/empty" /run/nscd || exit 1
        fi
        rank=$(awk -v name="$here" '$2 == name { print $1; exit }' "$replicas")
        if [ -d /etc/ucloud ]; then mount --bind "$folder/ucloud/$rank" /etc/ucloud; fi
    fi
    printf '%s\n' "$$" >"$private/pid.new" && mv -f "$private/pid.new" "$private/pid"
    while kill -0 "$watcher" 2>/dev/null; do
        # A second or a little more, so that many nodes do not ask the file system at once.
        sleep "1.$(od -An -N1 -tu1 /dev/urandom | tr -d ' ')" &
        nap=$!
        wait "$nap"
        renew 2>/dev/null
    done
    exit 0
fi

private=$(mktemp -d /tmp/ucloud-names.XXXXXX) || exit 1
inside=
leave() {
    if [ -f "$private/pid" ]; then kill -ALRM "$(cat "$private/pid")" 2>/dev/null; fi
    [ -z "$inside" ] || wait "$inside" 2>/dev/null
    rm -f "$private/pid"
}
trap 'leave; rm -rf "$private"' EXIT

canary=canary-$(od -An -N6 -tx1 /dev/urandom | tr -d ' \n').ucloud
address=$(awk -v name="$here" '$2 == name && $3 != "-" { print $3; exit }' "$replicas")
cat /etc/hosts >"$private/own"
# A last line without its end must not swallow the next.
[ -z "$(tail -c 1 "$private/own")" ] || echo >>"$private/own"
printf '%s %s\n' "${address:-192.0.2.1}" "$canary" >"$private/canary"

# publish LINES...: whole, or not at all.
publish() {
    printf '%s\n' "run=$run" "$@" >"$state.new" && mv -f "$state.new" "$state"
}

# prove METHOD: whether the canary resolves in a task that joins.
prove() {
    tries=0
    while [ ! -f "$private/pid" ] && kill -0 "$inside" 2>/dev/null && [ "$tries" -lt 100 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    [ -f "$private/pid" ] || { why="cannot start ($(tail -n 1 "$private/why"))"; return 1; }
    pid=$(cat "$private/pid")
    namespace=$(readlink "/proc/$pid/ns/mnt")
    printf '%s\n' "run=$run" "method=$1" "pid=$pid" "namespace=$namespace" "hosts=$private/hosts" >"$private/state"
    answer=$(UCLOUD_HOLDER=$private/state /bin/sh "$node/join.sh" "$folder" getent hosts "$canary" 2>"$private/why")
    case $answer in *"$canary"*) return 0 ;; esac
    why="a canary name does not resolve by it ($(tail -n 1 "$private/why"))"
    return 1
}

failures=
for method in $(setting methods); do
    case $method in
        unshare) set -- unshare -Um --map-current-user --keep-caps ;;
        bwrap) set -- bwrap --unshare-user --cap-add ALL --dev-bind / / ;;
        *) set -- ;;
    esac
    "$@" /bin/sh "$node/holder.sh" "$folder" inside "$method" "$private" "$$" </dev/null >"$private/why" 2>&1 &
    inside=$!
    if prove "$method"; then
        rank=$(awk -v name="$here" '$2 == name { print $1; exit }' "$replicas")
        publish "method=$method" "pid=$pid" "namespace=$namespace" "hosts=$private/hosts" "rank=$rank"
        failures=
        break
    fi
    failures="$failures$method: $why; "
    leave
    inside=
done
if [ -z "$inside" ]; then publish "failed=${failures%; }"; fi
cat >/dev/null
