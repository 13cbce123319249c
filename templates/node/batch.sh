#!/bin/sh
# The batch script's process, from the fence on: gives the job its names, runs the application, and records its end.
# Usage: batch.sh FOLDER
set -u
folder=$1
node=$folder/node

say() { printf 'slurm-adapter: %s\n' "$*" >&2; }
setting() { sed -n "s/^$1=//p" "$node/settings" | head -n 1; }

restart=${SLURM_RESTART_COUNT:-0}
run=$SLURM_JOB_ID.$restart
here=${SLURMD_NODENAME:-$(hostname)}
job_id=$(setting job_id)
names=$(setting names)
nodes=${SLURM_NNODES:-1}
cpus=$(setting cpus)

# record EXIT_CODE [REASON]: atomically, and only once the application was waited for, or was given up.
record() {
    task=${SLURM_ARRAY_TASK_ID-}
    name=exit${task:+-$task}.json
    signal=null
    if [ "$1" -gt 128 ] && [ "$1" -lt 193 ]; then signal=$(($1 - 128)); fi
    reason=null
    if [ -n "${2-}" ]; then reason=\"$(printf %s "$2" | tr '\n\t' '  ' | sed 's/[\\"]/\\&/g')\"; fi
    printf '{"format":1,"job":"%s","slurm_id":%s,"restart":%s,"task":%s,"exit_code":%s,"signal":%s,"ended_at":%s,"reason":%s}\n' \
        "$job_id" "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}" "$restart" "${task:-null}" "$1" "$signal" "$(date +%s)" "$reason" \
        >"$folder/.$name.$run" && mv -f "$folder/.$name.$run" "$folder/$name"
}

give_up() {
    say "$*"
    record 1 "$*"
    end_holders
    exit 1
}

end_holders() {
    [ -n "${holders-}" ] || return 0
    exec 9>&- # the end of their standard input
    wait "$holders" 2>/dev/null
    holders=
}

# The replicas, in the order of ranks: lines "RANK NODE ADDRESS".
replicas() {
    pattern=$(setting address)
    scontrol show hostnames "${SLURM_JOB_NODELIST:-$here}" | {
        rank=0
        while read -r name; do
            address=
            if [ -n "$pattern" ]; then
                address=$(printf %s "$pattern" | sed "s/{node}/$name/g")
            else
                address=$(scontrol -o show node "$name" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p' | head -n 1)
            fi
            case $address in
                *[!0-9.:a-fA-F]* | '') address=$(getent ahosts "${address:-$name}" | awk '$1 !~ /^(127\.|::1$|fe80)/ { print $1; exit }') ;;
            esac
            printf '%s %s %s\n' "$rank" "$name" "${address:-unknown}"
            rank=$((rank + 1))
        done
    }
}

write_rank_files() {
    while read -r rank _ _; do
        mkdir -p "$folder/ucloud/$rank" || return 1
        printf '%s\n' "$job_id" >"$folder/ucloud/$rank/job_id.txt"
        printf '%s\n' "$rank" >"$folder/ucloud/$rank/rank.txt"
        printf '%s\n' "$cpus" >"$folder/ucloud/$rank/cores.txt"
        printf '%s\n' "$nodes" >"$folder/ucloud/$rank/number_of_nodes.txt"
        while read -r other name _; do
            printf '%s\n' "$name" >"$folder/ucloud/$rank/node-$other.txt"
        done <"$node/replicas-$run"
    done <"$node/replicas-$run"
}

# A signal ends the wait for a child; the child has got it too, from Slurm.
trap 'caught=1' TERM INT HUP USR1 USR2 CONT ALRM

await() {
    while :; do
        caught=
        wait "$1"
        code=$?
        if [ -z "$caught" ] && [ "$code" -lt 129 ]; then return "$code"; fi
        kill -0 "$1" 2>/dev/null || { [ -z "$caught" ] || { wait "$1"; code=$?; }; return "$code"; }
    done
}

wait_for_names() {
    limit=$(($(date +%s) + 60))
    while :; do
        ready=0
        for file in "$node/holder-$run-"*; do
            [ -f "$file" ] || continue
            failure=$(sed -n 's/^failed=//p' "$file")
            if [ -n "$failure" ]; then
                [ "$(setting allow_env)" = yes ] || give_up "no method works to give the job its names: $failure"
                export UCLOUD_HOSTS_FILE="$(setting view)"
            fi
            ready=$((ready + 1))
        done
        [ "$ready" -lt "$nodes" ] || return 0
        [ "$(date +%s)" -lt "$limit" ] || give_up "the names were not ready on $((nodes - ready)) of $nodes nodes after 60 seconds"
        sleep 0.1
    done
}

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
            awk -v name="$hostname" '!/^#/ && $2 == name { found = 1 } END { exit !found }' "$view" 2>/dev/null ||
                missing="peer $peer ($hostname)"
        done <"$node/peers"
        [ -n "$missing" ] || return 0
        [ "$(date +%s)" -lt "$limit" ] || give_up "$missing never started"
        [ -z "${caught-}" ] || give_up "ended while it waited for $missing"
        sleep 1
    done
}

replicas >"$node/replicas-$run" || give_up "the job's nodes could not be listed"
write_rank_files || give_up "the files of the ranks could not be written to $folder/ucloud"
real_srun=$(command -v srun)
export UCLOUD_REAL_SRUN="$real_srun"
join=
if [ "$names" = yes ]; then
    mkfifo "$node/.end-$run" || give_up "the job's folder takes no named pipe"
    "$real_srun" --overlap --mem=0 --gres=none -N "$nodes" -n "$nodes" --cpus-per-task=1 --input=all --export=ALL \
        /bin/sh "$node/holder.sh" "$folder" <"$node/.end-$run" 9>&- &
    holders=$!
    exec 9>"$node/.end-$run"
    rm -f "$node/.end-$run"
    wait_for_peers
    wait_for_names
    export PATH="$node:$PATH"
    join=$node/join.sh
fi

if [ "$(setting replicate)" = yes ] && [ "$nodes" -gt 1 ]; then
    "$real_srun" -N "$nodes" -n "$nodes" --cpus-per-task="$cpus" -o "$folder/stdout-%t.txt" -e "$folder/stderr-%t.txt" \
        ${join:+"$join" "$folder"} /bin/bash "$folder/job.sbatch" payload </dev/null 9>&- &
else
    ${join:+"$join" "$folder"} /bin/bash "$folder/job.sbatch" payload </dev/null 9>&- &
fi
await $!
code=$?
record "$code"
end_holders
exit "$code"
