#!/bin/sh
# Starts only commands of slurm-adapter, as the account that sudo has changed to.
# `slurm-adapter sudo-helper` made it from the site's configuration. Install it again after an upgrade of slurm-adapter,
# and after a change of identity.lowest_uid, clusters.NAME.path, clusters.NAME.slurm_conf, jobs.folder or
# gateway.folder_shells. It must belong to root, and only root may write it and the folders above it.
PATH=/usr/local/bin:/usr/bin:/bin
unset IFS

# SETTINGS
refuse() {
    printf 'slurm-adapter-helper: refused: %s\n' "$1" >&2
    exit 1
}

numbers() { # a shell runs commands in an arithmetic expression, so numbers must be numbers
    for value; do
        case $value in '' | *[!0-9]*) refuse "'$value' is not a number" ;; esac
    done
}

same() { [ "$1" = "$2" ] || refuse "$3 differs from the site's: install the helper again"; }

job_folder() { # FOLDER ACCOUNT
    within "${1%/*}" "$2"
    case ${1##*/} in '' | . | ..) refuse "$1 is not a job's folder" ;; esac
}

within() { # PARENT ACCOUNT: PARENT must be the folder of the account's job folders
    left=$jobs_folder parent=
    while :; do
        case $left in
            *'{user}'*) parent=$parent${left%%'{user}'*}$2 left=${left#*'{user}'} ;;
            *) break ;;
        esac
    done
    [ "$1" = "$parent$left" ] || refuse "$1 is not the folder of jobs of $2: see jobs.folder"
}

check_script() { # ACCOUNT /bin/sh -c SCRIPT sh ARGUMENTS...
    account=$1
    [ "$3" = -c ] && { [ "$#" = 4 ] || [ "$5" = sh ]; } || refuse 'this is not a command line of the adapter'
    case $4 in
        "$make")
            within "$6" "$account"
            case $7 in '' | -z) ;; *) refuse "the option $7" ;; esac
            ;;
        "$free") numbers "$6" "$7" ;;
        "$look") numbers "$6" ;;
        "$logs")
            job_folder "$6" "$account"
            numbers "$7"
            shift 7
            case $* in *[!a-z0-9.:\ -]*) refuse 'names of logs' ;; esac
            ;;
        "$check_probe") job_folder "$6" "$account" ;;
        "$submit")
            numbers "$6" "$8" "$9"
            same "$7" "$submit_some" 'the script for sbatch'
            case ${10} in *[!0-9.]*) refuse "'${10}' is not a pause" ;; esac
            ;;
        "$views") case $6 in hosts | node/peers) ;; *) refuse "the file name $6" ;; esac ;;
        "$fence" | "$close" | "$remove" | "$remove_logs" | "$check_folder" | "$check_names") ;;
        *) refuse 'this is not a script of the adapter: install the helper of its version' ;;
    esac
}

check_command() { # ACCOUNT COMMAND...
    case $2 in
        scancel) ;;
        id) [ "$# $3" = '3 -un' ] || refuse 'these arguments of id' ;;
        test) [ "$# $3" = '4 -d' ] || refuse 'these arguments of test' ;;
        xargs)
            [ "$# $3 $4 $5 $6 $8" = '8 -0 -r sh -c sh' ] || refuse 'these arguments of xargs'
            case $7 in "$paths" | "$check_folders") ;; *) refuse 'this is not a script of the adapter' ;; esac
            ;;
        /bin/sh) check_script "$@" ;;
        *) refuse "the program $2" ;;
    esac
}

check_framed() { # /bin/sh -c FRAME sh ACCOUNT clean [NAME=VALUE...] COMMAND...
    [ "$(id -u -- "$5" 2>/dev/null)" = "$uid" ] || refuse "$5 is not the account that sudo has changed to"
    account=$5
    case $6 in clean | '') ;; *) refuse 'this is not a command line of the adapter' ;; esac
    clean=$6
    shift 6
    while [ -n "$clean" ]; do
        case $1 in
            PATH=*) same "$1" "PATH=$path" PATH ;;
            SLURM_CONF=*) same "$1" "SLURM_CONF=$conf" SLURM_CONF ;;
            LC_ALL=* | TZ=* | SLURM_TIME_FORMAT=* | SLURM_BITSTR_LEN=*) ;;
            *=*) refuse "the variable ${1%%=*}" ;;
            *) break ;;
        esac
        shift
    done
    check_command "$account" "$@"
}

check_stream() { # /bin/sh -c SCRIPT sh PATH CONF ...: an interactive command
    if [ "$3" = "$check_terminal" ]; then
        [ $# = 3 ] || refuse 'this is not a command line of the adapter'
        return
    fi
    same "$5" "$path" PATH
    same "$6" "$conf" SLURM_CONF
    case $3 in
        "$attach")
            numbers "$7"
            [ "${10}" = /bin/bash ] || refuse 'this shell'
            ;;
        "$watch")
            numbers "$7"
            same "$9" "$watch_node" 'the script for nodes'
            ;;
        "$enter") [ -n "$folder_shells" ] || refuse 'gateway.folder_shells is not set' ;;
        *) refuse 'this is not a script of the adapter: install the helper of its version' ;;
    esac
}

uid=$(id -u) || exit 1
[ "$uid" -ge "$lowest" ] || refuse "the uid $uid is below $lowest (identity.lowest_uid)"
[ "$uid" != 65534 ] || refuse 'the uid 65534 (nobody) runs no jobs'
[ "$uid" != "${SUDO_UID:-}" ] || refuse "this is the adapter's own account"
[ "$1 $2" = '/bin/sh -c' ] || refuse 'this is not a command line of the adapter'
if [ "$3" = "$frame" ]; then check_framed "$@"; else check_stream "$@"; fi
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec "$@"
