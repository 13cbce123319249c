#!/bin/bash -p
# The batch script's process after the fence: gives the job its names, runs the application, and writes its exit record.
# Usage: batch.sh FOLDER
# Needs bash 4.4 or later: in other shells a background process cannot get the signals that the shell ignores for it
# (INT, QUIT). The content of files is data, and never evaluated.
set -u

folder=$1
node=$folder/node
started=$(date +%s)
restart=${SLURM_RESTART_COUNT:-0}
run=$SLURM_JOB_ID-$restart # every task of an array has its own id
here=${SLURMD_NODENAME:-$(uname -n)}
nodes=${SLURM_JOB_NUM_NODES:-${SLURM_NNODES:-1}}
log="$node/holders-$run.txt"
payload='' keeper='' holders='' witness='' guard='' caught='' cancelled=no

say() { printf 'slurm-adapter: %s\n' "$*" >&2; }

job_id='' names=no replicate=no cpus=1 time_limit=0 patience=600 allow_env=no address='' path=/usr/local/bin:/usr/bin:/bin
while IFS= read -r line; do
    value=${line#*=}
    case $line in
        job_id=*) job_id=$value ;;
        names=*) names=$value ;;
        replicate=*) replicate=$value ;;
        cpus=*) cpus=$value ;;
        time_limit=*) time_limit=$value ;;
        wait=*) patience=$value ;;
        allow_env=*) allow_env=$value ;;
        address=*) address=$value ;;
        path=*) path=$value ;;
    esac
done <"$node/settings" || { say "$node/settings cannot be read; nothing was run"; exit 1; }

# record EXIT_CODE [REASON]: write the whole exit record, after the application has ended, or if it never started.
record() {
    record_name=exit${SLURM_ARRAY_TASK_ID:+-$SLURM_ARRAY_TASK_ID}.json
    signal=null
    if [ "$1" -gt 128 ] && [ "$1" -le 192 ]; then signal=$(($1 - 128)); fi
    reason=null
    if [ -n "${2-}" ]; then
        reason=\"$(printf %s "$2" | tr '\n\t' '  ' | LC_ALL=C tr -d '\000-\037\177' | sed 's/[\\"]/\\&/g')\"
    fi
    {
        printf '{"format":1,"job":"%s","slurm_id":%s,' "$job_id" "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}"
        [ -z "${SLURM_JOB_SLUID-}" ] || printf '"sluid":"%s",' "$SLURM_JOB_SLUID"
        printf '"restart":%s,"task":%s,"exit_code":%s,' "$restart" "${SLURM_ARRAY_TASK_ID:-null}" "$1"
        printf '"signal":%s,"ended_at":%s,"reason":%s}\n' "$signal" "$(date +%s)" "$reason"
    } >"$folder/.$record_name.$run"
    mv -f "$folder/.$record_name.$run" "$folder/$record_name" ||
        say "the exit record $folder/$record_name could not be written"
}

give_up() { # REASON [EXIT_CODE]: the application was not started
    say "$1"
    record "${2:-1}" "$1"
    end_helpers
    exit "${2:-1}"
}

# --- Signals ---------------------------------------------------------------------------------------------------------
# Some signals reach every process of the batch step (`scancel --full`). Others reach only this process, which replaces
# the user's script (`scancel --batch`, `--signal=B:`, and in most versions a cancellation or a time limit). The witness
# dies of any signal. If it still lives, only this process got the signal, and passes it on.
#
# The guard kills the application if this process is killed. Guard and witness read from a pipe with this process as its
# only writer, so the end of this process is the end of the pipe. (setpriv --pdeathsig needs util-linux 2.33.)
signals='HUP INT QUIT ABRT ALRM TERM USR1 USR2 URG XCPU VTALRM PROF WINCH IO PWR'

open_pipe() { # READER WRITER: two descriptors of this process
    local folder
    folder=$(mktemp -d 2>/dev/null) || folder=$(mktemp -d "$node/pipe-XXXXXX") || return 1
    mkfifo -m 600 "$folder/pipe" || { rmdir "$folder" && return 1; }
    # The first open is for both directions, so that the other two do not wait.
    eval "exec 3<>\"\$folder/pipe\" $1<\"\$folder/pipe\" $2>\"\$folder/pipe\" 3>&-"
    rm -rf "$folder"
}

start_guard() {
    open_pipe 5 6 || give_up "no named pipe can be made on $here, neither in ${TMPDIR:-/tmp} nor in $node"
    (
        # shellcheck disable=SC2086 # words
        trap '' $signals
        read -r _ <&5
        kill -s KILL 0 # the process group of the batch script
    ) </dev/null >/dev/null 2>&1 6>&- 9>&- &
    guard=$!
    disown "$guard" # bash then does not report its end
}

start_witness() {
    (
        # By default a background process ignores INT and QUIT, and some signals write a core dump or have no effect.
        # shellcheck disable=SC2086 # words
        trap exit $signals
        read -r _ <&5
    ) </dev/null >/dev/null 2>&1 6>&- 9>&- &
    witness=$!
    disown "$witness"
}

alive() { # PID: the child runs, and is not a zombie
    case $(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null) in '' | Z | X) return 1 ;; esac
}

list_application() { # the application's processes without srun: Slurm sends TERM to its tasks, and srun would kill them
    # They are in this process's group. Its own helpers descend from it, but not through the payload.
    cat /proc/[0-9]*/stat 2>/dev/null | awk -v me=$$ -v payload="$payload" '
        { pid = $1; name = $0; sub(/\) [^)]*$/, "", name); sub(/^[^(]*\(/, "", name); sub(/^.*\) /, "") }
        { state[pid] = $1; parent[pid] = $2; pgrp[pid] = $3; comm[pid] = name }
        END {
            for (pid in pgrp) {
                if (pgrp[pid] != pgrp[me] || comm[pid] == "srun" || state[pid] ~ /[ZX]/) continue
                for (up = pid; up != me && up != payload && up in parent; up = parent[up]) ;
                if (up != me) print pid
            }
        }
    '
}

# shellcheck disable=SC2329 # the traps below call it
signalled() {
    if [ -z "$payload" ]; then
        case $1 in URG | WINCH) ;; *) caught=$1 ;; esac # these two have no effect by default
        return 0
    fi
    caught=$1
    for _ in 1 2 3 4 5; do
        sleep 0.1
        alive "$witness" || break
    done
    if alive "$witness"; then
        if [ "$1" = TERM ]; then
            cancelled=yes
            list_application | while read -r pid; do kill -s TERM "$pid"; done 2>/dev/null
        else
            kill -s "$1" "$payload" 2>/dev/null
        fi
    else
        start_witness # without `wait`: in a trap, bash 5.2 may wait for ever for a process that has ended
    fi
}
for name in $signals; do
    # shellcheck disable=SC2064 # the name of now
    trap "signalled $name" "$name"
done

# If a signal arrives at the moment when `wait` returns, bash forgets the ended process. It would wait for ever, and the
# exit code would be lost. So another process, the keeper, waits for the payload without `wait`. It writes the
# payload's process id and exit code into a pipe.
start_payload() { # COMMAND...
    open_pipe 4 7 || give_up "no named pipe can be made on $here, neither in ${TMPDIR:-/tmp} nor in $node"
    (
        trap - INT QUIT # as a batch script has them: a background process ignores both
        # shellcheck disable=SC2086 # words
        trap : $signals # signals are for the payload; a trap has no effect on the programs that the keeper starts
        exec 3>&2 2>/dev/null # bash reports there by which signal the payload was killed
        (
            echo "$BASHPID" >&7
            exec "$@" </dev/null 2>&3 3>&- 7>&-
        )
        echo "$?" >&7
    ) 4<&- 5<&- 6>&- 9>&- &
    keeper=$!
    exec 7>&-
    read -r payload <&4
    [ -z "$caught" ] || kill -s "$caught" "$payload" 2>/dev/null # it came before the payload started
}

wait_for_payload() { # leaves its exit code in `code`
    while :; do
        wait "$keeper" 2>/dev/null
        code=$?
        kill -0 "$keeper" 2>/dev/null || break
    done
    if read -r line <&4; then code=$line; fi # otherwise the keeper was killed
}

# --- The replicas ----------------------------------------------------------------------------------------------------
resolve() { # NAME -> its addresses, one per line, without those that only this node can use
    case $1 in
        *:*) printf '%s\n' "$1" ;;
        *[!0-9.]*) timeout 20 getent ahosts "$1" | awk '{ print $1 }' ;;
        *) printf '%s\n' "$1" ;;
    esac | awk '$1 !~ /^(127\.|0\.0\.0\.0|::1$|::$|fe80:|169\.254\.)/ && !seen[$1]++ { print $1 }'
}

list_replicas() { # in the order of ranks, a line `RANK NODE ADDRESS` for each address, or with `-` if it is not needed
    # Only names need addresses. Slurm knows them (NodeAddr): a node's name may belong to another network, or to none.
    scontrol show hostnames "${SLURM_JOB_NODELIST:-$here}" >"$node/nodes-$run" && [ -s "$node/nodes-$run" ] || return 1
    : >"$node/addresses-$run"
    if [ "$names" = yes ] && [ -z "$address" ]; then
        tries=0
        until timeout 30 scontrol -o show node "${SLURM_JOB_NODELIST:-$here}" >"$node/addresses-$run" 2>>"$log"; do
            tries=$((tries + 1))
            [ "$tries" -lt 5 ] && [ -z "$caught" ] || break
            sleep 2
        done
    fi
    rank=0
    while IFS= read -r name; do
        if [ "$names" != yes ]; then
            printf '%s %s -\n' "$rank" "$name"
            rank=$((rank + 1))
            continue
        elif [ -n "$address" ]; then
            target=$(printf %s "$address" | sed "s/{node}/$name/g")
        else
            target=$(awk -v name="$name" '$1 == "NodeName=" name {
                for (i = 2; i <= NF; i++) if ($i ~ /^NodeAddr=/) { print substr($i, 10); exit }
            }' "$node/addresses-$run")
        fi
        found=$(resolve "${target:-$name}")
        [ -n "$found" ] || say "the address of $name is not known: job-$job_id-$rank does not resolve from here"
        printf '%s\n' "${found:--}" | while IFS= read -r one; do printf '%s %s %s\n' "$rank" "$name" "$one"; done
        rank=$((rank + 1))
    done <"$node/nodes-$run" >"$node/replicas-$run.new"
    rm -f "$node/nodes-$run" "$node/addresses-$run"
    mv -f "$node/replicas-$run.new" "$node/replicas-$run"
}

write_rank_files() (
    mkdir -p "$folder/ucloud" && cd "$folder/ucloud" || exit 1
    awk '{ print $1 }' "$node/replicas-$run" | sort -un | xargs mkdir -p || exit 1
    # Every rank has a file for each replica, with the name of the replica's node.
    awk -v job="$job_id" -v nodes="$nodes" -v cpus="$cpus" '
        function put(text, file) { print text >file; close(file) }
        !seen[$1]++ { name[n++] = $2 }
        END {
            for (rank = 0; rank < n; rank++) {
                put(job, rank "/job_id.txt"); put(rank, rank "/rank.txt")
                put(cpus, rank "/cores.txt"); put(nodes, rank "/number_of_nodes.txt")
                for (other = 0; other < n; other++) put(name[other], rank "/node-" other ".txt")
            }
        }' "$node/replicas-$run"
)

# --- The names -------------------------------------------------------------------------------------------------------
start_holders() {
    # The holders read this pipe through srun. Only this process has its other end, so the end of this process ends the
    # holders, although they ignore signals.
    open_pipe 8 9 || give_up "no named pipe can be made on $here, neither in ${TMPDIR:-/tmp} nor in $node"
    # In its own session, because `scancel --full` signals a process group, and some signals end srun.
    (
        for name in NTASKS NPROCS NTASKS_PER_NODE NTASKS_PER_CORE NTASKS_PER_SOCKET NTASKS_PER_GPU TASKS_PER_NODE \
            TRES_PER_TASK GPUS GPUS_PER_NODE GPUS_PER_SOCKET GPUS_PER_TASK CPUS_PER_GPU MEM_PER_CPU MEM_PER_GPU \
            MEM_PER_NODE DISTRIBUTION HOSTFILE ARBITRARY_NODELIST THREADS_PER_CORE CPU_BIND RESV_PORTS EXCLUSIVE \
            EXACT NETWORK; do
            unset "SLURM_$name"
        done
        exec setsid "$srun" --quiet --overlap --mem=0 --gres=none -N "$nodes" -n "$nodes" --ntasks-per-node=1 \
            --cpus-per-task=1 --cpu-bind=none --mpi=none --wait=0 --kill-on-bad-exit=0 --job-name=names \
            --export=ALL --chdir=/ --input=all \
            /bin/sh "$node/holder.sh" "$folder" "$run" <&8 8<&- >>"$log" 2>&1
    ) 5<&- 6>&- 9>&- &
    holders=$!
    exec 8<&-
}

end_helpers() {
    # shellcheck disable=SC2086 # two numbers, or one, or none
    [ -z "$guard$witness" ] || kill -s KILL $guard $witness 2>/dev/null
    [ -n "$holders" ] || return 0
    (trap '' PIPE && printf 'end\n' >&9) 2>/dev/null
    exec 9>&-
    tries=0
    while alive "$holders" && [ "$tries" -lt 100 ]; do # 10 s
        tries=$((tries + 1))
        sleep 0.1
    done
    kill -s KILL "$holders" 2>/dev/null
    wait "$holders" 2>/dev/null
    holders=
    rm -rf "$node/holder-$run-"* "$node/ready-$run-"* "$node/waiting-$run-"* "$node/etc-$run-"*
}

waits_for() { # NODE KEY: a value of its holder about the first missing peer
    sed -n "s/^$2=//p" "$node/waiting-$run-$1" 2>/dev/null
}

explain() { # NODE: the reason why the names of some peers are missing there
    local peer name why own all
    peer=$(waits_for "$1" peer) name=$(waits_for "$1" name) why=$(waits_for "$1" why)
    if [ -z "$name" ] || ! all=$(timeout 30 squeue -h -a -t all -n "$name" -o '%U %T %N' 2>>"$log"); then
        case $why in
            'reads '*) printf '%s never started' "$peer" ;;
            *) printf '%s never started, or: %s %s' "$peer" "$1" "$why" ;;
        esac
        return
    fi
    # Only jobs of this account count, because any user can give their job this name.
    own=$(printf '%s\n' "$all" | sed -n "s/^$(id -u) //p")
    if [ -n "$all" ] && [ -z "$own" ]; then
        printf '%s never started, or: %s %s' "$peer" "$1" "$why"
        return
    fi
    case $(printf '%s\n' "$own" | sed 's/ .*//') in
        *RUNNING* | *SUSPENDED* | *STOPPED*)
            own=$(printf '%s\n' "$own" | sed -n 's/^[RS][A-Z]* //p' | head -n 1)
            printf '%s runs on %s, but %s %s' "$peer" "$own" "$1" "$why"
            ;;
        '' | *PENDING* | *REQUEUE* | *CONFIGURING*) printf '%s never started' "$peer" ;;
        *) printf '%s ended before this job saw its name (%s)' "$peer" "${own%% *}" ;;
    esac
}

await_names() {
    left=$patience
    if [ "$time_limit" -gt 0 ] && [ $((time_limit - 30)) -lt "$left" ]; then left=$((time_limit - 30)); fi
    limit=$((started + left))
    holder_limit=$((started + 120))
    [ "$holder_limit" -le "$limit" ] || [ ! -s "$node/peers" ] || holder_limit=$limit
    awaited=
    while :; do
        [ -z "$caught" ] || give_up "ended by SIG$caught before the application started" $((128 + $(kill -l "$caught")))
        unheld='' unready='' broken=''
        while IFS= read -r name; do
            if [ ! -e "$node/holder-$run-$name" ]; then
                unheld="$unheld $name"
            elif [ ! -e "$node/ready-$run-$name" ]; then
                unready="$unready $name"
            fi
            if grep -q '^method=none$' "$node/holder-$run-$name" 2>/dev/null; then
                broken="$broken${broken:+; }$name: $(sed -n 's/^why=//p' "$node/holder-$run-$name")"
            fi
        done <<EOF
$(awk '!seen[$2]++ { print $2 }' "$node/replicas-$run")
EOF
        if [ -n "$broken" ] && [ "$allow_env" != yes ]; then
            give_up "no method works that gives the job its names on $broken"
        fi
        [ -n "$unheld$unready" ] || return 0
        if [ -n "$unheld" ] && ! alive "$holders"; then
            give_up "the step that holds this job's names did not start: $(tail -n 1 "$log" 2>/dev/null)"
        fi
        # srun still runs the holders of the other nodes.
        if [ -n "$unheld" ] && ended=$(grep -E '^srun: error: [^ ]+: tasks? [0-9,-]+: ' "$log" 2>/dev/null); then
            why=$(sed -n 's/^slurm-adapter: //p' "$log" | tail -n 1)
            give_up "the step that holds this job's names ended on a node: ${why:-$(printf %s "$ended" | tail -n 1)}"
        fi
        now=$(date +%s)
        if [ -n "$unheld" ] && [ "$now" -ge "$holder_limit" ]; then
            give_up "names did not come to$unheld in $((now - started)) seconds: $(tail -n 1 "$log" 2>/dev/null)"
        fi
        if [ -z "$unheld" ] && [ "$now" -ge "$limit" ]; then
            unready=${unready# }
            give_up "$(explain "${unready%% *}")"
        fi
        if [ -z "$unheld" ] && [ -z "$awaited" ]; then
            awaited=$(unready=${unready# } && waits_for "${unready%% *}" peer)
            [ -z "$awaited" ] || say "waiting for $awaited, at most $((limit - now)) seconds"
        fi
        sleep 0.2
    done
}

# --- The environment -------------------------------------------------------------------------------------------------
# Slurm runs `su - ACCOUNT -c env` on the node to get the job's environment (sbatch(1), --export=NONE). If the account's
# shell or its start-up files fail or take too long, Slurm starts the job without an environment.
complete_environment() {
    local account name home shell
    case ${HOME:+home}$(declare -p PATH) in 'homedeclare -x'*) return 0 ;; esac
    account=$(getent passwd "$(id -u)")
    IFS=: read -r name _ _ _ _ home shell <<EOF
$account
EOF
    home=${HOME:-$home}
    [ -n "$home" ] || give_up "Slurm could not read the login environment of this account on $here, and \`getent passwd $(id -u)\` shows no home folder there"
    case $(declare -p PATH) in 'declare -x'*) ;; *) export PATH="$path" ;; esac
    export HOME="$home" USER="${USER:-$name}" LOGNAME="${LOGNAME:-$name}" SHELL="${SHELL:-$shell}"
    say "Slurm could not read the login environment of $USER on $here: does \`su - $USER -c env\` work there, and within seconds? The job has HOME=$HOME and PATH=$PATH instead"
}

# --- The run ---------------------------------------------------------------------------------------------------------
complete_environment
missing=
for tool in awk cat date getent grep head id mkdir mkfifo mktemp mv rm rmdir scontrol sed setsid sleep sort tail timeout \
    tr uname xargs; do
    command -v "$tool" >/dev/null || missing="$missing $tool"
done
[ -z "$missing" ] || give_up "$here lacks programs that every job needs, or PATH=$PATH does not lead to them:$missing"
rm -rf "$node/holder-$SLURM_JOB_ID-"* "$node/ready-$SLURM_JOB_ID-"* "$node/waiting-$SLURM_JOB_ID-"* \
    "$node/etc-$SLURM_JOB_ID-"* # leftovers of runs before a requeue
rm -f "$folder/exit${SLURM_ARRAY_TASK_ID:+-$SLURM_ARRAY_TASK_ID}.json" # of a run before a requeue
# Slurm's unique id of this run (from 26.05 on). Other jobs may have the same Slurm id before or after this one.
[ -z "${SLURM_JOB_SLUID-}" ] || [ -n "${SLURM_ARRAY_TASK_ID-}" ] || ln -sfn "$SLURM_JOB_SLUID" "$folder/.sluid"
list_replicas || give_up "the nodes of this job could not be listed: $(tail -n 1 "$log" 2>/dev/null)"
write_rank_files || give_up "the files of the ranks could not be written to $folder/ucloud"

srun=
rest=$PATH:
while [ -n "$rest" ]; do # the real srun, not the wrapper of a job from which this one was submitted
    directory=${rest%%:*}
    rest=${rest#*:}
    if [ -x "$directory/srun" ] && [ ! -e "$directory/join.sh" ]; then
        srun=$directory/srun
        break
    fi
done

if [ "$names" = yes ]; then
    [ -n "$srun" ] || give_up "there is no srun in $PATH"
    start_holders
    await_names
    for file in "$node/holder-$run-"*; do
        method=$(sed -n 's/^method=//p' "$file")
        name=${file#"$node/holder-$run-"}
        if [ "$method" = none ]; then
            say "no method gives the job its names on $name ($(sed -n 's/^why=//p' "$file")); they are in \$UCLOUD_HOSTS_FILE only"
        else
            say "names on $name by $method"
        fi
    done
    export PATH="$node:$PATH"
    set -- /bin/sh "$node/join.sh" --run "$run"
    [ ! -x /bin/bash ] || set -- /bin/bash -p "$node/join.sh" --run "$run"
else
    set --
fi

start_guard
start_witness
if [ "$replicate" = yes ] && [ "$nodes" -gt 1 ]; then
    pattern=$(printf %s "$folder" | sed 's/%/%%/g')
    case $folder in *\\*) pattern=. ;; esac # after a backslash srun replaces no %t
    set -- "$srun" -N "$nodes" -n "$nodes" --ntasks-per-node=1 --cpus-per-task="$cpus" --kill-on-bad-exit=1 \
        --open-mode=append --input=none -o "$pattern/stdout-%t.txt" -e "$pattern/stderr-%t.txt" "$@"
fi
start_payload "$@" /bin/bash "$folder/job.sbatch" payload
wait_for_payload
record "$code"
# After TERM other processes of the application may still clean up. Slurm kills those that do not end.
while [ "$cancelled" = yes ] && [ -n "$(list_application | head -n 1)" ]; do sleep 0.2; done
end_helpers
exit "$code"
