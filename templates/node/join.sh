#!/bin/bash -p
# shellcheck shell=sh
# Runs a command in the namespace in which the job's names resolve. Usage: join.sh [--run RUN] COMMAND...
# RUN is `SLURMID-RESTART`, for steps without the job's environment. The command replaces this process, so its exit
# code, signals, and standard streams are its own. (bash -p reads no start-up file and passes on all variables; dash
# loses exported functions. The text is for any POSIX shell.)
# In the namespace it runs a second time, as `join.sh --at DIRECTORY COMMAND...`.

node=${0%/*}
folder=${node%/*}
tools=/usr/bin:/bin:/usr/sbin:/sbin # the application's PATH may have other programs of these names

say() { printf 'slurm-adapter: %s\n' "$*" >&2; }

become() {
    case $1 in
        */*) ;;
        *) # like srun: a command that is not in PATH may be in the working directory
            if [ -x "./$1" ] && [ -f "./$1" ] && ! command -v "$1" >/dev/null 2>&1; then
                command=./$1
                shift
                set -- "$command" "$@"
            fi
            ;;
    esac
    exec "$@"
}

if [ "${1-}" = --at ]; then
    cd "$2" 2>/dev/null || say "$2 cannot be entered on this node; the command starts in /"
    unset OLDPWD
    shift 2
    become "$@"
fi

run=${SLURM_JOB_ID-}-${SLURM_RESTART_COUNT:-0}
state=
while :; do
    case ${1-} in
        --run) run=$2 ;;
        --state) state=$2 ;; # the state file of a holder that is being tried
        *) break ;;
    esac
    shift 2
done
[ "$#" -gt 0 ] || { say "join.sh was given no command"; exit 2; }
[ "${run%-*}" = "${SLURM_JOB_ID-}" ] || become "$@" # a step of another job

here=${SLURMD_NODENAME:-$(PATH=$tools uname -n)}
rank=
while read -r number name _; do
    if [ "$name" = "$here" ]; then rank=$number && break; fi
done 2>/dev/null <"$node/replicas-$run"
export UCLOUD_DIR="$folder/ucloud/${rank:-${SLURM_NODEID:-0}}"

if [ -z "$state" ]; then
    state="$node/holder-$run-$here"
    tries=0
    while [ ! -e "$state" ] && [ "$tries" -lt 25 ]; do # 5 s
        tries=$((tries + 1))
        PATH=$tools sleep 0.2
    done
fi
method='' pid='' namespace='' user='' hosts='' library=''
while IFS= read -r line; do
    value=${line#*=}
    case $line in
        method=*) method=$value ;;
        pid=*) pid=$value ;;
        namespace=*) namespace=$value ;;
        user=*) user=$value ;;
        hosts=*) hosts=$value ;;
        library=*) library=$value ;;
    esac
done 2>/dev/null <"$state"

case $method in
    '')
        say "no process holds this job's names on $here; $1 runs without them"
        become "$@"
        ;;
    none)
        export UCLOUD_HOSTS_FILE="$hosts"
        become "$@"
        ;;
esac
export UCLOUD_HOSTS_FILE="$hosts"
if [ "$method" = nss_wrapper ]; then
    case " ${LD_PRELOAD-} " in
        *[\ :]"$library"[\ :]*) ;;
        *) LD_PRELOAD=$library${LD_PRELOAD:+:$LD_PRELOAD} ;;
    esac
    # By default nss_wrapper supports 100 names and addresses, and none of a larger file.
    export LD_PRELOAD NSS_WRAPPER_HOSTS="$hosts" NSS_WRAPPER_MAX_HOSTENTS=20000
    become "$@"
fi

if [ "$(PATH=$tools readlink /proc/self/ns/mnt)" = "$namespace" ]; then become "$@"; fi
if [ "$(PATH=$tools readlink "/proc/$pid/ns/mnt" 2>/dev/null)" != "$namespace" ]; then
    say "the process that held this job's names on $here has ended; $1 runs without them"
    become "$@"
fi
shell=/bin/sh
set -- "$node/join.sh" --at "$PWD" "$@"
if [ -x /bin/bash ]; then shell=/bin/bash && set -- -p "$@"; fi
nsenter=$(PATH=$tools command -v nsenter) || { say "$here has no nsenter (package util-linux)"; exit 1; }
# In the first namespace the account is root. In the second, which shares its file system, it has its own uid.
exec "$nsenter" -t "$pid" -U -m --preserve-credentials -- \
    "$nsenter" --user="$user" --preserve-credentials -- "$shell" "$@"
