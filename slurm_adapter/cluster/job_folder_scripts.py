"""Shell scripts that run on the cluster as the account of a job's user: they make, read, close and remove job folders.

The helper for sudo compares each script with its own copy; see `slurm_adapter.cli.sudo_helper`.
"""

from __future__ import annotations

# $1 is the parent folder of the job folders; $2 is an option of tar, or empty. One process unpacks all folders next to
# their places and one moves them there. So 1000 folders cost little more than one, and no folder is there half made.
# The files get the present time (-m), because sites remove old files.
MAKE = r"""
umask 077
say() { printf '%s\t%s\n' "$1" "${2:-no reason given}" | head -n 1; }
refuse() { # WHY PARENT: print the system's error and a fix. A folder of another account may come back by itself.
    at=$(readlink -m -- "$2") && [ -n "$at" ] || at=$2
    whole=$at
    until [ -e "$at" ] || [ "$at" = / ]; do
        at=${at%/*}
        at=${at:-/}
    done
    case $1 in
        *'Permission denied'* | *'No such file'* | *'Not a directory'*)
            if [ ! -d "$at" ]; then
                set -- "$1; $at is not a folder"
            elif [ -O "$at" ] && [ "$at" = "$whole" ]; then
                set -- "$1; its owner must be able to write there: chmod u+rwx $at"
            elif [ -O "$at" ]; then
                set -- "$1; make it as this account: mkdir -m 700 $2"
            elif [ "$at" != "$whole" ] || [ -z "$(ls -A -- "$at" 2>&1)" ]; then
                set -- "$1; is its file system mounted?"
            else
                set -- "$1; $at must belong to this account: see jobs.folder"
            fi
            ;;
    esac
    say all "$1"
    exit 0
}
cd -P -- "$1" 2>/dev/null || refuse "$(ls -d -- "$1/." 2>&1)" "$1"
for left in ./.ucloud-new.*; do
    # Remove the leftovers of commands that were killed.
    [ ! -d "$left" ] || find . -maxdepth 1 -name '.ucloud-new.*' -mmin +60 -exec rm -rf {} + 2>/dev/null
    break
done
new=$(mktemp -d ./.ucloud-new.XXXXXX 2>&1) || refuse "$new" "$1"
trap 'rm -rf "$new"' EXIT
if ! why=$(tar -x ${2:+"$2"} -m -p -f - -C "$new" 2>&1); then
    # For a full disk GNU tar says only that it "wrote only" a part of a file.
    say all "$(printf '%s\n' "$why" | head -n 1) ($(df -P -k . | awk 'END { print $4 }') KiB are free in $1)"
    exit 0
fi
mv -n -t . -- "$new/jobs/"* 2>/dev/null # the loop below handles the folders that this could not move
while IFS='	' read -r number slurm_name name; do
    case $name in */*) continue ;; esac # the helper for sudo allows folders in $1 only
    one=$new/jobs/$name
    if [ -e "$one" ]; then
        if [ -L "./$name" ] || [ ! -O "./$name" ] || [ "$(readlink -- "./$name/.token")" != "$slurm_name" ]; then
            # An empty folder was made by an interrupted attempt.
            [ -L "./$name" ] || [ ! -O "./$name" ] || rmdir -- "./$name" 2>/dev/null
            [ -e "./$name" ] || [ -L "./$name" ] || why=$(mv -n -T -- "$one" "./$name" 2>&1)
            [ ! -e "$one" ] || { say "$number" "${why:-File exists}"; continue; }
        elif ! why=$(cp -R -P -p --remove-destination -- "$one/." "./$name/" 2>&1); then
            say "$number" "$why"
            continue
        fi
    fi
    printf '%s\tmade\n' "$number"
done <"$new/list"
"""

# Prints $2 free numbers, from $1 on. The other arguments are the parts of the folder's path around the number.
FREE = r"""
number=$1 wanted=$2 first=$3
shift 3
while [ "$wanted" -gt 0 ]; do
    folder=$first
    for part; do folder=$folder$number$part; done
    if [ ! -e "$folder" ] && [ ! -L "$folder" ]; then
        printf '%s\n' "$number"
        wanted=$((wanted - 1))
    fi
    number=$((number + 1))
done
printf 'end\n'
"""

# Each line has the maximum number of a job's exit records, and its folder; $1 is the maximum for all jobs.
LOOK = r"""
number=0
budget=$1
while IFS='	' read -r most folder; do
    if [ -d "$folder/" ] && cd -P -- "$folder" 2>/dev/null; then
        printf '%s folder\n' "$number"
        # Most folders have neither link nor file. To start a program costs a thousand times what a test costs.
        if [ -L owner ]; then
            owner=$(find owner -maxdepth 0 -printf '%Ts %l')
            since=${owner%% *} owner=${owner#* }
            case $owner in *[!0-9a-z]*) owner='?' ;; esac
            sluid=
            [ ! -L .sluid ] || sluid=$(readlink .sluid)
            case $sluid in *[!0-9a-zA-Z]*) sluid= ;; esac
            printf '%s owner %s %s %s\n' "$number" "$owner" "$since" "$sluid"
        fi
        # The user may have put anything there: pipes without a writer, millions of files, endless files. So at most one
        # file per task is opened, and only its first line is read: a record is one line.
        if [ "$most" -gt 0 ]; then
            [ "$most" -le "$budget" ] || most=$budget
            found=$(find . -maxdepth 1 -name 'exit-*.json' ! -name '*[!-.a-z0-9]*' -type f -printf '%f\n' |
                grep -a -x 'exit-[0-9]*\.json' | head -n "$((most + 1))")
        else
            found=
            [ ! -f exit.json ] || [ -L exit.json ] || found=exit.json most=1
        fi
        if [ -n "$found" ]; then
            count=$(printf '%s\n' "$found" | wc -l)
            [ "$count" -le "$most" ] || { count=$most; printf '%s more\n' "$number"; }
            budget=$((budget - count))
            printf '%s\n' "$found" | head -n "$count" | xargs head -v -c 1024 -- | awk -v number="$number" '
                /^==> exit[-0-9]*\.json <==$/ { name = $2; next }
                name != "" { print number, "exit", name, substr($0, 1, 1024); name = "" }
            '
        fi
        cd /
    elif [ -d "$folder/" ]; then
        printf '%s shut\n' "$number"
    elif [ -d "${folder%/*}" ]; then
        printf '%s missing\n' "$number"
    else
        printf '%s away\n' "$number"
    fi
    number=$((number + 1))
done
printf 'end\n'
"""

FENCE = r"""
while IFS='	' read -r target folder; do
    # -T: if the user has made a folder of this name, make no link inside it.
    if ln -sT -- "$target" "$folder/owner" 2>/dev/null; then
        printf '%s\n' "$target"
    else
        printf '%s\n' "$(readlink -n -- "$folder/owner" | tr '\n' ' ')"
    fi
done
"""

CLOSE = r"""
close_it() {
    [ -d "$1" ] || return 0
    [ ! -e "$1/.closed" ] && [ ! -L "$1/.closed" ] || rm -rf -- "$1/.closed"
    [ -L "$1/owner" ] || ! ln -sT closed "$1/owner" 2>/dev/null || return 0
    ln -sn closed "$1/.closed" && mv -fT -- "$1/.closed" "$1/owner"
}
number=0
while IFS= read -r folder; do
    why=$(close_it "$folder" 2>&1) || printf '%s\t%s\n' "$number" "$(printf '%s' "${why:-no reason given}" | head -n 1)"
    number=$((number + 1))
done
printf 'end\n'
"""

# REMOVE and REMOVE_LOGS print the numbers of the folders that are not removed, or are perhaps not removed: if the file
# system is not mounted, its mount point does not belong to the user. A folder with another Slurm name is another job's.
_LEFT = r"""
left() { # SLURM_NAME FOLDER
    [ -O "${2%/*}" ] && [ -r "${2%/*}" ] || return 0
    [ ! -e "${2%/*}/.ucloud-gone.$1" ] || return 0
    [ -e "$2" ] || [ -L "$2" ] || return 1
    found=$(readlink -- "$2/.token") || return 0
    [ "$found" = "$1" ]
}
"""

# The folder is renamed first: the removal of a large one may be interrupted, and the rest may have no Slurm name.
REMOVE = rf"""
{_LEFT}
number=0
while IFS='	' read -r slurm_name folder; do
    case $slurm_name in */*) continue ;; esac # it is a part of a path below
    if left "$slurm_name" "$folder"; then
        gone=${{folder%/*}}/.ucloud-gone.$slurm_name
        [ ! -e "$gone" ] || rm -rf -- "$gone"
        if [ "$(readlink -- "$folder/.token")" = "$slurm_name" ]; then
            mv -nT -- "$folder" "$gone" 2>/dev/null || gone=$folder
            rm -rf -- "$gone"
        fi
        ! left "$slurm_name" "$folder" || printf '%s\n' "$number"
    fi
    number=$((number + 1))
done
printf 'end\n'
"""

REMOVE_LOGS = rf"""
{_LEFT}
number=0
while IFS='	' read -r slurm_name folder; do
    if [ "$(readlink -- "$folder/.token")" != "$slurm_name" ]; then
        ! left "$slurm_name" "$folder" || printf '%s\n' "$number"
    else
        # Files with similar names are the user's own.
        find "$folder/" -maxdepth 1 -regextype posix-extended -regex '.*/std(out|err)(-[0-9]+)?\.txt' \
            ! -type d -delete || printf '%s\n' "$number"
    fi
    number=$((number + 1))
done
printf 'end\n'
"""

VIEWS = r"""
umask 077
here=$(mktemp -d /tmp/ucloud.XXXXXX) || exit 1
trap 'rm -rf "$here"' EXIT
tar -x -f - -C "$here" || exit 1
while IFS='	' read -r number folder; do
    cp --remove-destination -- "$here/$number" "$folder/.hosts" && mv -fT -- "$folder/.hosts" "$folder/$1" &&
        printf '%s\n' "$number"
done <"$here/list"
true
"""


USER_SCRIPTS = {
    "make": MAKE,
    "free": FREE,
    "look": LOOK,
    "fence": FENCE,
    "close": CLOSE,
    "remove": REMOVE,
    "remove_logs": REMOVE_LOGS,
    "views": VIEWS,
}
"""The scripts that run as the account of a user, by the helper's names for them."""
