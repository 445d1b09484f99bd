#!/usr/bin/env bash
# Makes the Python environment in .venv and runs a command in it.
#
#   tools/bootstrap.sh demo COMMAND...   what the demo needs: tessera and its local cluster, no torch
#   tools/bootstrap.sh dev COMMAND...    everything: tests, linters, workloads
#
# Needs Python 3.11 to 3.13 and nothing else. uv is taken from the machine, or put into the cache directory by way of a
# virtual environment, because Debian and Ubuntu protect their own Python from pip (PEP 668).
set -euo pipefail
cd "$(dirname "$0")/.."

cache="${XDG_CACHE_HOME:-$HOME/.cache}/tessera"
profile="$1"
shift

say() { printf '[%6.1f s] %s\n' "$((SECONDS))" "$*" >&2; }
stop() {
    printf 'tessera: %s\n' "$*" >&2
    exit 1
}

# uv's answer to --version is "uv 0.9.2 (...)"; older ones do not read our lock file.
usable_uv() { [ -x "$1" ] && "$1" --version 2>/dev/null | grep -Eq '^uv (0\.(9|[1-9][0-9])|[1-9][0-9]*)\.'; }

find_uv() {
    local candidate
    for candidate in "$(command -v uv || true)" "$HOME/.local/bin/uv" "$HOME/.cargo/bin/uv" "$cache/uv/bin/uv"; do
        if [ -n "$candidate" ] && usable_uv "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

find_python() {
    local candidate
    for candidate in python3.11 python3.12 python3.13 python3; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    stop "Python 3.11, 3.12 or 3.13 is needed; python3 here is $(python3 --version 2>&1 || echo 'not installed')." \
        "Install it (Debian 12: apt-get install python3 python3-venv; Ubuntu 22.04: apt-get install python3.11" \
        "python3.11-venv) and run this again."
}

install_uv() { # <python>
    local log="$cache/uv-install.log" package='uv>=0.9,<1'
    mkdir -p "$cache"
    rm -rf "$cache/uv"
    say "installing uv into $cache/uv"
    if "$1" -m venv "$cache/uv" >"$log" 2>&1 && "$cache/uv/bin/pip" install --quiet "$package" >>"$log" 2>&1; then
        return
    fi
    # Debian splits venv from Python; pip into a directory of our own works without it.
    rm -rf "$cache/uv"
    if "$1" -m pip install --quiet --target "$cache/uv" "$package" >>"$log" 2>&1; then
        return
    fi
    rm -rf "$cache/uv"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        local version
        version="$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
        say "installing the Debian package python$version-venv, which uv is installed with"
        export DEBIAN_FRONTEND=noninteractive
        if apt-get update --quiet >>"$log" 2>&1 &&
            apt-get install --yes --quiet --no-install-recommends "python$version-venv" >>"$log" 2>&1 &&
            "$1" -m venv "$cache/uv" >>"$log" 2>&1 &&
            "$cache/uv/bin/pip" install --quiet "$package" >>"$log" 2>&1; then
            return
        fi
        rm -rf "$cache/uv"
    fi
    tail -n 5 "$log" >&2
    stop "uv could not be installed (log: $log). Install it (https://docs.astral.sh/uv) or python3-venv, check that this" \
        "machine reaches its package index, and run this again."
}

# uv names large downloads and, on a terminal, shows how far they are. Elsewhere a line now and then says that it still works.
# `read` with a limit from a pipe that stays empty is a sleep without a process of its own, which would outlive this one.
beat() {
    local never
    exec {never}<> <(:)
    while read -r -t "${TESSERA_HEARTBEAT_SECONDS:-15}" -u "$never" || kill -0 "$$" 2>/dev/null; do
        say "still fetching and installing Python packages"
    done
}

make_environment() { # <command...>
    local beat='' status=0
    if [ ! -t 2 ]; then
        beat &
        beat=$!
        # shellcheck disable=SC2064  # the process of now
        trap "kill $beat 2>/dev/null || true" EXIT
    fi
    "$@" || status=$?
    if [ -n "$beat" ]; then
        trap - EXIT
        kill "$beat" 2>/dev/null || true
        wait "$beat" 2>/dev/null || true
    fi
    return "$status"
}

# Each substitution is an assignment of its own: elsewhere a `stop` inside it would end only the subshell.
if ! uv="$(find_uv)"; then
    python="$(find_python)"
    install_uv "$python"
    uv="$(find_uv)" || stop "uv was installed into $cache/uv and does not run; see $cache/uv-install.log"
fi
export UV="$uv" UV_PYTHON_DOWNLOADS=never
if [ ! -x .venv/bin/python ]; then
    UV_PYTHON="$(find_python)"
    export UV_PYTHON
fi

# --inexact: the demo's smaller set must not take away what a developer has installed for the tests.
sync=("$uv" sync --frozen --inexact)
case "$profile" in
demo)
    say "Python environment for the demo (.venv)"
    sync+=(--package tessera --extra local --no-default-groups)
    ;;
dev)
    say "Python environment for development (.venv; the first time it fetches torch, about 3 GB)"
    ;;
*) stop "unknown profile '$profile': use demo or dev" ;;
esac
make_environment "${sync[@]}" || stop "uv could not make the environment; the reason stands above. It needs the package index and, for" \
    "the profile dev, 8 GB of free disk."
unset UV_PYTHON
# uv goes last: the environment that carries it has a python and a pip of its own, which nobody should meet.
export PATH="$PWD/.venv/bin:$PATH:$(dirname "$uv")"
say "ready: $*"
exec "$@"
