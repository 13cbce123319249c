#!/bin/sh
# One for each node of a job: makes the namespace in which the job's names resolve, and keeps them true.
# Usage: holder.sh FOLDER. Ends when its standard input does.
set -u
trap '' HUP INT TERM USR1 USR2
folder=$1
node=$folder/node
setting() { sed -n "s/^$1=//p" "$node/settings" | head -n 1; }
run=$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
here=${SLURMD_NODENAME:-$(hostname)}
state=$node/holder-$run-$here

if [ "${2-}" != inside ]; then
    private=$(mktemp -d /tmp/ucloud-names.XXXXXX) || exit 1
    trap 'rm -rf "$private"' EXIT
    cp /etc/hosts "$private/own"
    failures=
    for method in $(setting methods); do
        case $method in
            unshare) set -- unshare -Um --map-current-user --keep-caps ;;
            bwrap) set -- bwrap --unshare-user --cap-add ALL --dev-bind / / ;;
            nss_wrapper) set -- env ;;
        esac
        "$@" /bin/sh "$node/holder.sh" "$folder" inside "$private" "$method"
        [ $? -eq 90 ] || exit 0
        failures="$failures $method: $(cat "$private/why" 2>/dev/null || echo refused);"
    done
    printf 'failed=%s on %s:%s\n' names "$here" "$failures" >"$state.new"
    mv -f "$state.new" "$state"
    cat >/dev/null
    exit 0
fi
private=$3
method=$4

compose() {
    cat "$private/own"
    printf '%s %s\n' "$address" "$canary"
    awk -v id="$job_id" '$3 != "unknown" { print $3, "job-" id "-" $1; if ($1 == 0) print $3, "job-" id }' "$node/replicas-$run"
    [ ! -r "$view" ] || cp "$view" "$private/view" 2>/dev/null
    [ ! -r "$private/view" ] || while IFS= read -r line; do
        case $line in
            '# consumer '*)
                keep=yes
                exit_record=${line##* exit }
                peer_run=${line#* run }
                peer_run=${peer_run%% *}
                if [ -r "$exit_record" ] &&
                    grep -q "\"slurm_id\":${peer_run%%.*},\"restart\":${peer_run##*.}," "$exit_record" 2>/dev/null; then
                    keep=no
                fi
                ;;
            '#'*) ;;
            *) [ "$keep" != yes ] || printf '%s\n' "$line" ;;
        esac
    done <"$private/view"
}

put() {
    compose >"$private/new" || return 1
    cmp -s "$private/new" "$private/hosts" && { rm -f "$private/new"; return 0; }
    case $method in
        nss_wrapper) mv -f "$private/new" "$private/hosts" ;;
        *)
            count=$((count + 1))
            mv -f "$private/new" "$private/hosts.$count" &&
                mount --bind "$private/hosts.$count" /etc/hosts &&
                cp "$private/hosts.$count" "$private/hosts"
            ;;
    esac
}

job_id=$(setting job_id)
view=$(setting view)
count=0
canary=canary-$(od -An -N6 -tx1 /dev/urandom | tr -d ' \n').ucloud
address=$(awk -v name="$here" '$2 == name { print $3 }' "$node/replicas-$run")
fail() {
    printf '%s' "$1" >"$private/why"
    exit 90
}
put 2>"$private/why" || exit 90
if [ "$method" != nss_wrapper ]; then
    for socket in /run/nscd /var/run/nscd; do
        [ ! -d "$socket" ] || [ -L "$socket" ] || { mkdir -p "$private/empty" && mount --bind "$private/empty" "$socket"; }
    done
    [ ! -d /etc/ucloud ] || [ ! -d "$folder/ucloud/${SLURM_NODEID:-0}" ] || mount --bind "$folder/ucloud/${SLURM_NODEID:-0}" /etc/ucloud
fi
{
    printf 'pid=%s\n' "$$"
    printf 'namespace=%s\n' "$(readlink /proc/self/ns/mnt)"
    printf 'method=%s\n' "$method"
    printf 'hosts=%s\n' "$private/hosts"
} >"$state.new"
cp "$state.new" "$state.try"
UCLOUD_HOLDER="$state.try" /bin/sh "$node/join.sh" "$folder" getent hosts "$canary" >/dev/null 2>&1 || { rm -f "$state.try" "$state.new"; fail "its canary does not resolve"; }
rm -f "$state.try"
mv -f "$state.new" "$state"
printf 'slurm-adapter: names on %s by %s\n' "$here" "$method" >&2
{
    while sleep "1.$(od -An -N1 -tu1 /dev/urandom | tr -d ' ')"; do
        put 2>/dev/null
    done
} </dev/null >/dev/null 2>&1 &
refresher=$!
cat >/dev/null
kill -9 "$refresher" 2>/dev/null
exit 0
