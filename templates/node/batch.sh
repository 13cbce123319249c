#!/bin/sh
# The batch script's process, from the fence on: gives the job its names, runs the application, records its end.
# Usage: batch.sh FOLDER
#
# Values are read from files and never run as shell text. Each wait has an end, and each failure a reason, on stderr
# and in the exit record.
set -u
folder=$1
node=$folder/node

say() { printf 'slurm-adapter: %s\n' "$*" >&2; }
setting() { sed -n "s/^$1=//p" "$node/settings" | head -n 1; }

restart=${SLURM_RESTART_COUNT:-0}
run=$SLURM_JOB_ID.$restart
here=${SLURMD_NODENAME:-$(hostname)}
job_id=$(setting job_id)
nodes=${SLURM_NNODES:-1}
cpus=$(setting cpus)
replicas=$node/replicas-$run
log=$node/names-$run.log
srun=$(command -v srun)
holders=
group=
caught=

# record EXIT_CODE [REASON]: whole or not at all, and only once the application was waited for, or was given up.
record() {
    task=${SLURM_ARRAY_TASK_ID-}
    name=exit${task:+-$task}.json
    signal=null
    if [ "$1" -gt 128 ] && [ "$1" -lt 193 ]; then signal=$(($1 - 128)); fi
    reason=null
    if [ -n "${2-}" ]; then
        reason=\"$(printf '%s' "$2" | tr -c '[:print:]' ' ' | sed 's/[\\"]/\\&/g')\"
    fi
    printf '{"format":1,"job":"%s","slurm_id":%s,"restart":%s,"task":%s,"exit_code":%s,"signal":%s,"ended_at":%s,"reason":%s}\n' \
        "$job_id" "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}" "$restart" "${task:-null}" "$1" "$signal" "$(date +%s)" \
        "$reason" >"$folder/.$name.$run" && mv -f "$folder/.$name.$run" "$folder/$name"
}

give_up() {
    say "$*"
    record 1 "$*"
    end_holders
    exit 1
}

# The holders end with their standard input. If their step does not, the end of the job ends it.
end_holders() {
    [ -n "$holders" ] || return 0
    exec 9>&-
    tries=0
    while kill -0 "$holders" 2>/dev/null && [ "$tries" -lt 100 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    kill -KILL "$holders" 2>/dev/null
    holders=
}

# Lines "RANK NODE ADDRESS", in the order of ranks. A node without an address that others can use is left out.
list_replicas() {
    pattern=$(setting address)
    rank=0
    scontrol show hostnames "${SLURM_JOB_NODELIST:-$here}" | while read -r name; do
        if [ -n "$pattern" ]; then
            address=$(printf '%s' "$pattern" | sed "s/{node}/$name/g")
        else
            address=$(scontrol -o show node "$name" | sed -n 's/^.* NodeAddr=\([^ ]*\).*$/\1/p' | head -n 1)
        fi
        case $address in
            *:* | *.*.*.*[0-9]) found=$address ;;
            *) found=$(getent ahosts "${address:-$name}" | awk '{ print $1 }' | sort -u) ;;
        esac
        for each in $found; do
            case $each in 127.* | ::1 | fe80:* | 0.0.0.0 | ::) continue ;; esac
            printf '%s %s %s\n' "$rank" "$name" "$each"
        done
        [ -n "$found" ] || printf '%s %s -\n' "$rank" "$name"
        rank=$((rank + 1))
    done
}

write_rank_files() {
    awk '!seen[$1]++ { print $1, $2 }' "$replicas" >"$replicas.names" || return 1
    while read -r rank _; do
        mkdir -p "$folder/ucloud/$rank" || return 1
        printf '%s\n' "$job_id" >"$folder/ucloud/$rank/job_id.txt" || return 1
        printf '%s\n' "$rank" >"$folder/ucloud/$rank/rank.txt"
        printf '%s\n' "$cpus" >"$folder/ucloud/$rank/cores.txt"
        printf '%s\n' "$nodes" >"$folder/ucloud/$rank/number_of_nodes.txt"
        while read -r other name; do
            printf '%s\n' "$name" >"$folder/ucloud/$rank/node-$other.txt"
        done <"$replicas.names"
    done <"$replicas.names"
}

# A step of ours: what the application asked Slurm for its own tasks must not count for it.
our_srun() {
    env -u SLURM_NTASKS_PER_NODE -u SLURM_NTASKS_PER_CORE -u SLURM_NTASKS_PER_SOCKET -u SLURM_NTASKS_PER_GPU \
        -u SLURM_GPUS -u SLURM_GPUS_PER_NODE -u SLURM_GPUS_PER_TASK -u SLURM_GPUS_PER_SOCKET -u SLURM_TRES_PER_TASK \
        -u SLURM_MEM_PER_CPU -u SLURM_MEM_PER_GPU -u SLURM_DISTRIBUTION -u SLURM_CPU_BIND -u SLURM_THREADS_PER_CORE \
        "$srun" -N "$nodes" -n "$nodes" --ntasks-per-node=1 "$@"
}

# One step for the holders of all nodes. Its standard input is a pipe that only this process holds open: it ends
# when this process closes it, or is gone.
start_holders() {
    pipe=$(mktemp -d /tmp/ucloud-pipe.XXXXXX) && mkfifo "$pipe/end" || return 1
    our_srun --overlap --mem=0 --gres=none --cpus-per-task=1 --input=all --quiet \
        /bin/sh "$node/holder.sh" "$folder" <"$pipe/end" >"$log" 2>&1 &
    holders=$!
    exec 9>"$pipe/end"
    rm -rf "$pipe"
}

# Until the holder of every node has proved that its names resolve, or has said why they do not.
wait_for_holders() {
    limit=$(($(date +%s) + 90))
    while :; do
        ready=0
        while read -r _ name; do
            state=$node/holder-$SLURM_JOB_ID-$name
            [ "$(sed -n 's/^run=//p' "$state" 2>/dev/null)" = "$run" ] || continue
            ready=$((ready + 1))
        done <"$replicas.names"
        [ "$ready" -lt "$nodes" ] || break
        if ! kill -0 "$holders" 2>/dev/null; then
            give_up "the step that gives the job its names ended: $(tail -n 1 "$log")"
        fi
        [ "$(date +%s)" -lt "$limit" ] || give_up "the names were not ready on $((nodes - ready)) of $nodes nodes in time"
        [ -z "$caught" ] || give_up "ended by signal $caught before the names were ready"
        sleep 0.1
    done
    while read -r _ name; do
        state=$node/holder-$SLURM_JOB_ID-$name
        failure=$(sed -n 's/^failed=//p' "$state")
        if [ -z "$failure" ]; then
            say "names on $name by $(sed -n 's/^method=//p' "$state")"
        elif [ "$(setting allow_env)" = yes ]; then
            say "no method gives the job its names on $name ($failure); they are in \$UCLOUD_HOSTS_FILE only"
        else
            give_up "no method works that gives the job its names on $name: $failure"
        fi
    done <"$replicas.names"
}

# Until the view holds every name that the job declares.
wait_for_peers() {
    [ -s "$node/peers" ] || return 0
    patience=$(setting wait)
    left=$(($(setting time_limit) - 30))
    [ "$patience" -lt "$left" ] || patience=$left
    limit=$(($(date +%s) + patience))
    view=$(setting view)
    while :; do
        missing=
        while read -r peer hostname; do
            awk -v name="$hostname" '!/^#/ && $2 == name { found = 1; exit } END { exit !found }' "$view" 2>/dev/null ||
                missing="peer $peer ($hostname)"
        done <"$node/peers"
        [ -n "$missing" ] || return 0
        [ "$(date +%s)" -lt "$limit" ] || give_up "$missing never started"
        [ -z "$caught" ] || give_up "ended by signal $caught while it waited for $missing"
        sleep 0.5
    done
}

# Slurm sends a cancel's or a time limit's TERM to this process alone: the application's processes get it from here.
# Other signals are meant for the batch script, and go to the application's.
# shellcheck disable=SC2329  # the traps below call it
pass_on() {
    caught=$1
    [ -n "$group" ] || return 0
    if [ "$1" = TERM ]; then
        kill -s TERM -- "-$group" 2>/dev/null
    else
        kill -s "$1" "$group" 2>/dev/null
    fi
}
for signal in HUP INT QUIT USR1 USR2 TERM; do
    # shellcheck disable=SC2064  # the name of this signal
    trap "pass_on $signal" "$signal"
done

# The exit code of the application, once it has ended: a signal interrupts `wait`, and says nothing of it. After TERM
# its other processes may still be cleaning up; what does not end, Slurm ends.
await() {
    while :; do
        caught_before=$caught
        caught=
        wait "$1"
        code=$?
        if [ -z "$caught" ]; then
            caught=$caught_before
            break
        fi
    done
    while [ "$caught" = TERM ] && kill -s 0 -- "-$1" 2>/dev/null; do sleep 0.1; done
    return "$code"
}

rm -f "$node/holder-$SLURM_JOB_ID-"*
if ! list_replicas >"$replicas" || [ ! -s "$replicas" ]; then give_up "the job's nodes could not be listed by scontrol"; fi
write_rank_files || give_up "the files of the ranks could not be written to $folder/ucloud"
set --
if [ "$(setting names)" = yes ]; then
    start_holders || give_up "no pipe could be made in /tmp on $here"
    wait_for_peers
    wait_for_holders
    PATH=$node:$PATH
    export PATH
    set -- /bin/sh "$node/join.sh" "$folder"
fi
[ -z "$caught" ] || give_up "ended by signal $caught before the application started"
if [ "$(setting replicate)" = yes ] && [ "$nodes" -gt 1 ]; then
    our_srun --cpus-per-task="$cpus" -o "$folder/stdout-%t.txt" -e "$folder/stderr-%t.txt" \
        "$@" /bin/bash "$folder/job.sbatch" payload </dev/null 9>&- &
else
    # A session of its own makes its processes one group, to which a signal can be passed on.
    setsid "$@" /bin/bash "$folder/job.sbatch" payload </dev/null 9>&- &
fi
group=$!
[ -z "$caught" ] || pass_on "$caught" # it came while there was nobody to tell
await "$group"
code=$?
record "$code"
end_holders
exit "$code"
