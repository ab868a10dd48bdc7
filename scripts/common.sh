# shellcheck shell=bash
# Shared by the scripts beside it; sourced, never run. Expects `set -euo pipefail` and bash.
#
# One step is one line with its time; failures are one sentence with the log's last lines below it.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$root/.cache
# shellcheck disable=SC2034 # used by those who source this
dist=$root/dist

# What the lab's machines and their rack are made of.
# shellcheck disable=SC2034
lab_packages=(python3 qemu-system-x86 ovmf ipxe ipxe-qemu iproute2 openssh-client e2fsprogs gdisk)

# say TEXT...: one plain line for whoever watches.
say() {
    printf '%s\n' "$*" >&2
}

# fail TEXT...: one sentence, and the end.
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# seconds: since the epoch, with milliseconds.
seconds() {
    date +%s.%3N
}

# step NAME COMMAND...: runs the command with its output in .cache/logs/NAME.log and tells how long it took.
# With VERBOSE=1 the output goes to the terminal as well.
step() {
    local name=$1 start log took
    shift
    log=$cache/logs/${name//[ \/]/-}.log
    mkdir -p "$cache/logs"
    start=$(seconds)
    if [[ -t 2 ]]; then
        printf '%-28s ...' "$name" >&2
    elif [[ ${ANNOUNCE_STEPS:-} == 1 ]]; then
        say "$name ..."
    fi
    if [[ ${VERBOSE:-} == 1 ]]; then
        "$@" 2>&1 | tee "$log" >&2 || step_failed "$name" "$log"
    else
        "$@" >"$log" 2>&1 || step_failed "$name" "$log"
    fi
    took=$(awk -v a="$start" -v b="$(seconds)" 'BEGIN { printf "%.1f", b - a }')
    [[ ! -t 2 ]] || printf '\r' >&2
    say "$(printf '%-28s %8s s' "$name" "$took")"
}

step_failed() {
    [[ ! -t 2 ]] || say
    say "error: $1 failed; the last lines of $2:"
    tail -n 40 "$2" >&2
    exit 1
}

need_root() {
    [[ $(id -u) == 0 ]] || fail "this needs root (packages, network namespaces): run it with sudo"
}

# need_packages NAME...: installs what is missing, from the host's own sources.
need_packages() {
    local missing=() name
    for name in "$@"; do
        [[ $(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null) == installed ]] || missing+=("$name")
    done
    [[ ${#missing[@]} == 0 ]] && return
    need_root
    refresh_package_lists
    step "packages" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
}

# run_in_rack MODULE ARGUMENTS...: one of the programs in scripts/rack, with what its machines need.
run_in_rack() {
    local module=$1
    shift
    case " $* " in
    *" --help "* | *" -h "*) ;;
    *)
        need_root
        need_packages "${lab_packages[@]}"
        ;;
    esac
    command -v /usr/bin/python3 >/dev/null || fail "python3 is missing: apt-get install python3"
    PYTHONPATH=$root/scripts exec /usr/bin/python3 -m "$module" "$@"
}

# unpack_package PACKAGE DIR: Debian's package, unpacked into DIR, never installed.
unpack_package() {
    local package=$1 dir=$2 deb
    mkdir -p "$dir/download"
    if ! (cd "$dir/download" && apt-get -o APT::Sandbox::User=root download "$package"); then
        # The lists may be older than the mirror.
        apt-get update
        (cd "$dir/download" && apt-get -o APT::Sandbox::User=root download "$package") || return 1
    fi
    deb=$(find "$dir/download" -name '*.deb')
    dpkg-deb -x "$deb" "$dir" || return 1
    rm -r "$dir/download"
}

# refresh_package_lists: `apt-get update`, at most once a day and run.
refresh_package_lists() {
    local stamp=$cache/apt-updated
    if [[ -z $(find "$stamp" -mmin -1440 2>/dev/null) ]]; then
        step "package lists" apt-get update
        mkdir -p "$cache" && touch "$stamp"
    fi
}
