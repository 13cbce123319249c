# The checks of a probe job of `slurm-adapter check --job` on each of its nodes.
# It is the application of that job, after lines that set `shared`, `drives`, `hosts` and `stays`. Each finding is a
# line `probe<TAB>NODE<TAB>STEP<TAB>WORDS`; a good one has no words.
export LC_ALL=C
here=${SLURMD_NODENAME:-$(uname -n)}
found() { printf 'probe\t%s\t%s\t%s\n' "$here" "$1" "${2-}"; }

if [ -z "${HOME-}" ]; then
    found home 'HOME is not set'
elif cd "$HOME" 2>/dev/null && [ -w . ]; then
    found home
else
    found home "HOME is $HOME, which is not there, or cannot be written"
fi
temporary=${TMPDIR:-/tmp}
if file=$(mktemp "$temporary/probe.XXXXXX" 2>&1); then
    rm -f "$file"
    found temporary
else
    found temporary "$temporary takes no files: $file"
fi
if [ -z "$shared" ] || [ -r "$shared/hosts" ]; then
    found shared
else
    found shared "$shared/hosts cannot be read"
fi
away=
while IFS= read -r drive; do
    [ -z "$drive" ] || [ -d "$drive" ] || away="$away${away:+, }$drive"
done <<END
$drives
END
found drives "$away"

lacking=
for tool in $tools; do
    command -v "$tool" >/dev/null 2>&1 || lacking="$lacking${lacking:+, }$tool"
done
found tools "$lacking"

if [ -z "$hosts" ]; then # the first job of a probe checks its own names, if it has several nodes
    read -r id <"$UCLOUD_DIR/job_id.txt"
    read -r nodes <"$UCLOUD_DIR/number_of_nodes.txt"
    [ "$nodes" -lt 2 ] || hosts="job-$id-0 job-$id-1"
fi
# Connect to a port on which no program listens. A refusal comes from the node; any other error has another cause.
for host in $hosts; do
    addresses=$(getent ahosts "$host" | awk '!seen[$1]++ { print $1 }')
    if [ -z "$addresses" ]; then
        found name "$host does not resolve"
        continue
    fi
    found name
    for address in $addresses; do
        # shellcheck disable=SC2016 # the inner shell expands it
        words=$(timeout 5 /bin/bash -c ': <"/dev/tcp/$1/9"' bash "$address" 2>&1)
        case $?:$words in
            0:* | *refused*) found reach ;;
            124:*) found reach "$host ($address) does not answer" ;;
            *) found reach "$host ($address): ${words##*: }" ;;
        esac
    done
done
found end
[ "$stays" = no ] || sleep 300
