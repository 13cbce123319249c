#!/bin/sh
# Runs a command where the job's names resolve. Usage: join.sh FOLDER COMMAND [ARGUMENT...]
#
# It becomes the command, so that exit codes and signals are the command's own. All that it must know stands in the
# holder's file, since a step may start with any environment.
folder=$1
shift
here=${SLURMD_NODENAME:-$(hostname)}
state=${UCLOUD_HOLDER:-$folder/node/holder-$SLURM_JOB_ID-$here}
unset UCLOUD_HOLDER

known() { sed -n "s/^$1=//p" "$state" 2>/dev/null; }

rank=$(known rank)
if [ -n "$rank" ]; then
    UCLOUD_DIR=$folder/ucloud/$rank
    export UCLOUD_DIR
fi
method=$(known method)
if [ -z "$method" ]; then
    UCLOUD_HOSTS_FILE=$(sed -n 's/^view=//p' "$folder/node/settings")
    export UCLOUD_HOSTS_FILE
    exec "$@"
fi
UCLOUD_HOSTS_FILE=$(known hosts)
export UCLOUD_HOSTS_FILE

if [ "$method" = nss_wrapper ]; then
    for library in /lib*/libnss_wrapper.so /usr/lib*/libnss_wrapper.so /usr/lib/*/libnss_wrapper.so; do
        if [ -e "$library" ]; then
            case :${LD_PRELOAD-}: in
                *:"$library":*) ;;
                *) LD_PRELOAD=$library${LD_PRELOAD:+:$LD_PRELOAD} ;;
            esac
            NSS_WRAPPER_HOSTS=$UCLOUD_HOSTS_FILE
            export LD_PRELOAD NSS_WRAPPER_HOSTS
            exec "$@"
        fi
    done
    echo "slurm-adapter: libnss_wrapper.so is not on $here; $1 runs without the job's names" >&2
    exec "$@"
fi

pid=$(known pid)
namespace=$(known namespace)
# Already inside: a namespace cannot be joined twice.
if [ "$(readlink /proc/self/ns/mnt)" = "$namespace" ]; then exec "$@"; fi
# The file is that of this run's holder, and the process is still it.
if [ "$(known run)" != "$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-$(known run | sed 's/.*\.//')}" ] ||
    [ "$(readlink "/proc/$pid/ns/mnt" 2>/dev/null)" != "$namespace" ]; then
    echo "slurm-adapter: the holder of the job's names on $here is gone; $1 runs without them" >&2
    exec "$@"
fi
# Joining gives all capabilities in the namespace; the application gets none.
exec nsenter -t "$pid" -U -m --preserve-credentials --wd="$PWD" -- \
    setpriv --inh-caps=-all --ambient-caps=-all -- "$@"
