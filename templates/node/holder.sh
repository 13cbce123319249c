#!/bin/sh
# Runs on each node of a job: makes the namespace in which the job's names resolve, and updates the names until the end.
# Usage: holder.sh FOLDER RUN. It ends at the end of its standard input, and by no signal except KILL, so that the names
# resolve while the application cleans up.
# The content of files is data, and never evaluated.
set -u
trap '' HUP INT QUIT TERM USR1 USR2 ALRM PIPE
umask 077
PATH=/usr/bin:/bin:/usr/sbin:/sbin:$PATH

node=${0%/*}
folder=$1
run=$2
here=${SLURMD_NODENAME:-$(uname -n)}
state="$node/holder-$run-$here"
waiting="$node/waiting-$run-$here" # the reason why this node is not ready
private="$node/etc-$run-$here" # empty for other processes: the namespace's own file system is mounted there

job_id='' view='' methods='' allow_env=no
while IFS= read -r line; do
    value=${line#*=}
    case $line in
        job_id=*) job_id=$value ;;
        view=*) view=$value ;;
        methods=*) methods=$value ;;
        allow_env=*) allow_env=$value ;;
    esac
done <"$node/settings"

missing=
for tool in awk cat chmod cmp cp cut date getent grep head id mkdir mount mv od readlink rm sed sleep stat tail timeout \
    tr umount; do
    command -v "$tool" >/dev/null || missing="$missing $tool"
done
if [ -n "$missing" ]; then
    echo "slurm-adapter: $here lacks programs that a job with names needs:$missing"
    exit 1
fi

# --- The names that are valid now ------------------------------------------------------------------------------------
ended_groups() { # the comment lines of peers with an exit record of this run
    grep '^# consumer .* run .* exit /' "$private/view" | while IFS= read -r line; do
        record=${line#* exit }
        ended=${line#* run }
        ended=${ended%% *}
        [ -r "$record" ] || continue
        tr -d ' ' <"$record" 2>/dev/null |
            grep -q "\"slurm_id\":${ended%%.*},.*\"restart\":${ended##*.}[,}]" && printf '%s\n' "$line"
    done
}

compose() { # the node's own file, the canary, the job's replicas, the view
    if [ -r "$view" ] && cat "$view" >"$private/view.new" 2>/dev/null; then # otherwise use the last one
        mv -f "$private/view.new" "$private/view"
    fi
    ended_groups >"$private/ended"
    awk -v job="$job_id" -v canary="$canary" '
        function mapping(address, name) { if (!((address, name) in said)) { said[address, name] = 1; print address, name } }
        FILENAME == ARGV[1] { print; next }
        FILENAME == ARGV[2] {
            if ($3 == "-") next
            if ($1 == 0) mapping($3, "job-" job)
            mapping($3, "job-" job "-" $1)
            next
        }
        FILENAME == ARGV[3] { ended[$0] = 1; next }
        /^#/ { dropped = ($0 in ended); next }
        NF >= 2 && !dropped { for (i = 2; i <= NF; i++) mapping($1, $i) }
        END { print "192.0.2.1", canary }
    ' "$private/own" "$node/replicas-$run" "$private/ended" "$private/view"
}

report_readiness() { # if the view of this node has had every peer; otherwise write the missing peer, and the reason
    [ ! -e "$node/ready-$run-$here" ] || return 0
    missing=
    if [ -s "$node/peers" ]; then
        missing=$(awk 'FILENAME == ARGV[1] { wanted[++n] = $2; line[n] = "peer=peer " $1 " (" $2 ")\nname=" $3; next }
            !/^#/ { for (i = 2; i <= NF; i++) there[$i] = 1 }
            END { for (i = 1; i <= n; i++) if (!(wanted[i] in there)) { print line[i]; exit } }' \
            "$node/peers" "$private/view")
    fi
    if [ -z "$missing" ]; then
        : >"$node/ready-$run-$here"
        return 0
    fi
    if [ -r "$view" ]; then
        why="reads $view of $(date -r "$view" '+%F %T') without this name: does slurm-adapter sync run, and is the file system there up to date?"
    elif [ -e "$view" ]; then
        why="may not read $view (its mode is $(stat -c %A "$view")): was it changed?"
    elif ! (cd "${view%/*}") 2>/dev/null && [ -d "${view%/*}" ]; then
        why="may not enter ${view%/*} (its mode is $(stat -c %A "${view%/*}")): was it changed?"
    elif [ -d "${view%/*}" ]; then
        why="sees no ${view##*/} in ${view%/*}: does slurm-adapter sync run, and is the same file system mounted there?"
    else
        why="does not see $view: is ${view%/*/*} mounted there?"
    fi
    if [ "$missing$why" != "${reason-}" ]; then
        reason=$missing$why
        printf '%s\nwhy=%s\n' "$missing" "$why" >"$waiting.new" && mv -f "$waiting.new" "$waiting"
    fi
}

# A new file replaces the old one at once, and the names never disappear. A mount below another one cannot be removed:
# mounts of files would pile up. Therefore /etc is mounted on itself, as the lower mount, in which this process has its
# working directory. A change either covers the lower mount by an upper one with the new file, or is made in the hidden
# lower mount, before the upper one is removed.
bind_hosts() { # FILE
    if [ "$swaps" = no ]; then
        mount -n --bind "$1" /etc/hosts
    elif [ "$upper" = no ]; then
        mount -n --rbind /etc "$private/etc" && umount -n -l "$private/etc/hosts" &&
            mount -n --bind "$1" "$private/etc/hosts" && mount -n --move "$private/etc" /etc || return 1
        upper=yes
    else
        umount -n -c -l /proc/self/cwd/hosts && mount -n -c --bind "$1" ./hosts && umount -n -l /etc || return 1
        upper=no
    fi
}

renew() {
    compose >"$private/new" && [ -s "$private/new" ] || return 1
    if ! cmp -s "$private/new" "$private/hosts"; then
        if [ "$method" = unshare ] || [ "$method" = bwrap ]; then
            count=$((count + 1))
            cp "$private/new" "$private/hosts.$count" && chmod 644 "$private/hosts.$count" || return 1
            if ! bind_hosts "$private/hosts.$count"; then
                swaps=no # the swap failed: mount the file on top of everything
                mount -n --bind "$private/hosts.$count" /etc/hosts || return 1
            fi
            # Nothing can be mounted over a removed file: without swaps the present file must remain.
            [ "$count" -lt 3 ] || rm -f "$private/hosts.$((count - 2))"
        fi
        mv -f "$private/new" "$private/hosts"
    fi
    report_readiness
}

# This process is root in its own namespace, because before util-linux 2.35 mount(8) refuses other accounts. It makes a
# second namespace inside for tasks, in which they have their own uid and no capability.
make_user_namespace() { # UID GID
    : >"$private/user"
    unshare -U sleep 60 &
    tries=0
    while [ "$(readlink "/proc/$!/ns/user")" = "$(readlink /proc/self/ns/user)" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] && kill -0 "$!" || return 1
        sleep 0.02
    done
    echo "$1 0 1" >"/proc/$!/uid_map" && echo "$2 0 1" >"/proc/$!/gid_map" &&
        mount -n --bind "/proc/$!/ns/user" "$private/user"
    made=$?
    kill -s KILL "$!"
    return "$made"
}

set_up_namespace() {
    mount -n -t tmpfs -o mode=700,size=64m tmpfs "$private" || return 1
    mkdir "$private/etc" "$private/empty" || return 1
    for socket in /run/nscd /var/run/nscd; do # nscd would answer from its own /etc/hosts
        if [ -d "$socket" ] && [ ! -L "${socket%/*}" ]; then mount -n --bind "$private/empty" "$socket" || return 1; fi
    done
    if [ -d /etc/ucloud ] && [ -d "$folder/ucloud/$rank" ]; then
        mount -n --bind "$folder/ucloud/$rank" /etc/ucloud || return 1
    fi
}

keep_until_the_end() {
    while :; do
        pause=1.$(od -An -N2 -tu2 /dev/urandom | tr -d ' ')
        { said=$(timeout -s KILL "$pause" head -n 1); } 2>/dev/null
        case $?:$said in
            *:end) return 0 ;;
            0:*) # the batch script was killed: kill the processes that it has left
                [ "$method" = none ] || kill_others
                return 0
                ;;
            12[567]:*) sleep 1 ;; # there is no timeout, or no head
        esac
        renew 2>/dev/null
    done
}

kill_others() { # kill the processes of this namespace, or those with the library's setting
    own=$(readlink /proc/self/ns/mnt)
    for process in /proc/[0-9]*; do
        [ "${process#/proc/}" != "$$" ] || continue
        if [ "$method" = nss_wrapper ]; then
            grep -q -a -F "NSS_WRAPPER_HOSTS=$private/hosts" "$process/environ" || continue
            grep -q -a -F "SLURM_JOB_ID=${run%-*}" "$process/environ" || continue # not jobs submitted from this one
        else
            [ "$(readlink "$process/ns/mnt")" = "$own" ] || continue
        fi
        kill -s KILL "${process#/proc/}"
    done 2>/dev/null
}

# --- In the namespace ------------------------------------------------------------------------------------------------
if [ "${3-}" = inside ]; then
    method=$4
    canary=$5
    count=0 upper=no swaps=no library='' user=''
    rank=$(awk -v name="$here" '$2 == name { print $1; exit }' "$node/replicas-$run")
    case $method in
        unshare | bwrap)
            set_up_namespace && make_user_namespace "$6" "$7" || exit 1
            user=$private/user
            ;;
        nss_wrapper)
            for library in /usr/lib/*/libnss_wrapper.so /usr/lib64/libnss_wrapper.so /usr/lib/libnss_wrapper.so \
                /lib/*/libnss_wrapper.so /lib64/libnss_wrapper.so; do
                [ ! -e "$library" ] || break
            done
            [ -e "$library" ] || { echo "libnss_wrapper.so is not installed"; exit 1; }
            ;;
    esac
    cp /etc/hosts "$private/own" && : >"$private/view" || exit 1
    if [ "$method" = unshare ] || [ "$method" = bwrap ]; then
        # The first file covers the node's own in the lower mount. From then on files can be swapped.
        renew || exit 1
        umount -n -l /etc/hosts
        if mount -n --rbind /etc /etc && cd / && cd /etc && mount -n --bind "$private/hosts.1" /etc/hosts; then
            swaps=yes
        else
            mount -n --bind "$private/hosts.1" /etc/hosts || exit 1
        fi
    else
        renew || exit 1
    fi
    {
        printf 'pid=%s\nnamespace=%s\nuser=%s\n' "$$" "$(readlink /proc/self/ns/mnt)" "$user"
        printf 'method=%s\nhosts=%s\nlibrary=%s\n' "$method" "$private/hosts" "$library"
    } >"$state.new.part" && mv -f "$state.new.part" "$state.new" || exit 1
    keep_until_the_end
    exit 0
fi

# --- Outside the namespace: find a method that works -----------------------------------------------------------------
exec 3<&0 </dev/null
cd / || exit 1
canary=canary-$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n').invalid
failures=

works() { # as a task of the application does: join, resolve the canary, and have no capability
    tries=0
    while [ ! -e "$state.new" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 150 ] && kill -0 "$inside" 2>/dev/null || return 1 # 15 s
        sleep 0.1
    done
    # shellcheck disable=SC2016 # the inner shell expands it
    answer=$(timeout -s KILL 20 /bin/sh "$node/join.sh" --run "$run" --state "$state.new" \
        /bin/sh -c 'getent hosts "$1" && grep "^CapEff:" /proc/self/status' sh "$canary" 2>&1)
    case $answer in
        *192.0.2.1*CapEff:*[1-9a-f]*) echo "the application would have capabilities" >>"$why" ;;
        *192.0.2.1*CapEff:*) return 0 ;;
        *) echo "a test name does not resolve${answer:+: }$answer" >>"$why" ;;
    esac
    return 1
}

for method in $methods; do
    rm -rf "$private" "$state.new"
    mkdir -m 700 "$private" || exit 1
    why=$private/why
    case $method in
        unshare) set -- unshare -Urm ;;
        bwrap) set -- bwrap --die-with-parent --unshare-user --uid 0 --gid 0 --cap-add ALL --dev-bind / / ;;
        nss_wrapper) set -- ;;
        *)
            failures="$failures${failures:+, }$method: not known"
            continue
            ;;
    esac
    "$@" /bin/sh "$0" "$folder" "$run" inside "$method" "$canary" "$(id -u)" "$(id -g)" <&3 >"$why" 2>&1 3<&- &
    inside=$!
    if works; then
        mv -f "$state.new" "$state"
        wait "$inside"
        rm -rf "$state" "$private" "$node/ready-$run-$here" "$waiting"
        exit 0
    fi
    kill -s KILL "$inside" 2>/dev/null
    wait "$inside" 2>/dev/null
    [ ! -e "$state.new" ] || sleep 2 # until no other process reads from the standard input
    words=$(tail -n 1 "$why" | cut -c 1-200)
    failures="$failures${failures:+, }$method: ${words:-failed}"
done

rm -rf "$private" "$state.new"
mkdir -m 700 "$private" || exit 1
method=none
printf 'method=none\nhosts=%s\nwhy=%s\n' "$view" "${failures:-no method is allowed}" >"$state.new" &&
    mv -f "$state.new" "$state"
if [ "$allow_env" = yes ]; then # the application itself reads the names from the view; it still waits for its peers
    cp /etc/hosts "$private/own"
    : >"$private/view"
    renew
    keep_until_the_end <&3
fi
cat <&3 >/dev/null
rm -rf "$state" "$private" "$node/ready-$run-$here" "$waiting"
