#!/bin/sh
# Makes the virtual environment $1 ready for work, or leaves it alone when it is: the three
# distributions, editable, and the tools. Further arguments name dependency groups, and then it
# holds these alone. PYTHON names the interpreter. Touches nothing outside the environment.
set -u
cd -P "$(dirname "$0")/.." || exit 1
case $1 in /*) venv=$1 ;; *) venv=$PWD/$1 ;; esac
shift
log=$venv/install.log

say() { printf '%s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }
# The minor version of a Python that can make environments. Debian's python3 has no ensurepip.
version() { "$1" -I -c 'import ensurepip, ssl, sys; print("%d.%d" % sys.version_info[:2])'; }
fits() { case $1 in 3.11 | 3.12) ;; *) false ;; esac; }

# Sets `python` to the interpreter that PYTHON names, or else to the first one that fits. Each is
# run: a python3.12 on PATH may be a launcher's shim with no interpreter behind it.
choose() {
    found=''
    if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3.12 python3.11 python3 python; fi
    for python; do
        command -v "$python" >/dev/null || [ -n "${PYTHON:-}" ] || continue
        said=$(version "$python" 2>&1) && fits "$said" && return
        found="$found, $python ($(printf %s "$said" | tail -n 1))"
    done
    fail "Python 3.11 or 3.12 with ensurepip is needed; found: ${found#, }." \
        "Install it (Debian, Ubuntu: apt-get install python3-venv)," \
        "or name another: make PYTHON=/path/to/python3.12 ..."
}

# An environment of any Python that fits may stay, unless PYTHON names another.
right_python() {
    here=$(version "$venv/bin/python")
    if [ -n "${PYTHON:-}" ]; then [ "$here" = "$(version "$PYTHON")" ]; else fits "$here"; fi
} 2>/dev/null

# An environment cannot be moved: its scripts name the folder that it was made in.
usable() {
    grep -qF -- "$venv" "$venv/bin/activate" && "$venv/bin/python" -I -m pip --version && right_python
} >/dev/null 2>&1

# The stamp is written last, so an interrupted installation does not look finished.
inputs() {
    echo "$venv" "$@"
    cksum pyproject.toml */pyproject.toml constraints.txt tools/bootstrap.sh
}
ready() { [ "$(cat "$venv/installed-from" 2>/dev/null)" = "$(inputs "$@")" ] && right_python; }

requirements() {
    if [ $# = 0 ]; then
        printf '%s\n' '-e ./common' '-e ./producer[embedded,gateway,otel]' '-e ./consumer[cpu,s3,otel]'
        set -- test lint
    fi
    # ensurepip's pip is older than `pip install --group`.
    "$venv/bin/python" -I -c 'import sys, tomllib
groups = tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]
print(*(one for name in sys.argv[1:] for one in groups[name]), sep="\n")' "$@"
}

install() {
    requirements "$@" >"$venv/requirements.txt" || return
    # A user's pip may be told to install elsewhere.
    unset PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_NO_DEPS
    # `-c` does not reach the environments that packages are built in; the variables do (the
    # second one with pip 25.3). They are split at spaces, so they hold a relative path.
    export PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
    "$venv/bin/python" -I -m pip install --no-input --disable-pip-version-check \
        --progress-bar off -c constraints.txt -r "$venv/requirements.txt" 2>&1
}

# pip's output goes into the log. The step it is at is shown on one line of a terminal; elsewhere
# only the longest silent one is.
progress() {
    while IFS= read -r line; do
        printf '%s\n' "$line"
        step=${line#"${line%%[! ]*}"}
        case $step in
            Installing\ collected*) step='Installing collected packages' ;;
            Collecting\ * | Downloading\ * | Building\ *) [ -t 2 ] || continue ;;
            *) continue ;;
        esac
        if [ -t 2 ]; then printf '\r\033[K  %.70s' "$step" >&2; else say "  $step"; fi
    done >"$log"
    if [ -t 2 ]; then printf '\r\033[K' >&2; fi
}

ready "$@" && exit
trap 'say "interrupted: the same command goes on from here"; exit 130' INT
# Two terminals: the second one waits, and then finds the work done. (macOS has no flock.)
exec 9<constraints.txt
if command -v flock >/dev/null; then flock 9; ready "$@" && exit; fi
rm -f "$venv/installed-from"

if ! usable; then
    if [ -n "$(ls -A "$venv" 2>/dev/null)" ] && [ ! -f "$venv/pyvenv.cfg" ]; then
        fail "$venv is in the way and is no virtual environment:" \
            "move it, or name another folder: make VENV=.venv-2 ..."
    fi
    choose
    say "making $venv with $(command -v "$python")"
    "$python" -I -m venv --clear "$venv" || exit
fi
say "installing into $venv (this can take some minutes; log: $log)"
{ install "$@" && inputs "$@" >"$venv/installed-from"; } | progress
if [ ! -e "$venv/installed-from" ]; then
    if grep -q 'Retrying (' "$log"; then
        fail "The package index cannot be reached: check the network," \
            "or name a mirror: PIP_INDEX_URL=https://... make setup (all of pip's output: $log)"
    fi
    tail -n 15 "$log" >&2
    fail "pip could not install what is needed; all of its output: $log"
fi
say "$venv is ready"
