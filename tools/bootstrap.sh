#!/bin/sh
# Makes the virtual environment named by $1 ready for work and touches nothing outside it. Further
# arguments name dependency groups, which are then all that it holds.
#
# Chooses an interpreter by running it: a python3.12 on PATH may be a launcher's shim with no
# interpreter behind it. PYTHON names one and switches the search off. The rest is bootstrap.py.
set -u
cd "$(dirname "$0")/.." || exit 1

# Exit status 0: fit. 3: another version. 4: the right version, without ensurepip (Debian's
# python3 without python3-venv): taken only when nothing better is found.
probe='
import sys
print("%d.%d.%d" % sys.version_info[:3])
if not (3, 11) <= sys.version_info[:2] <= (3, 12):
    sys.exit(3)
try:
    import ensurepip, ssl, venv
except ImportError:
    sys.exit(4)
'

found=""
chosen=""
second_best=""

try() {
    version=$("$1" -I -c "$probe" 2>/dev/null)
    case $? in
        0) chosen=$1 ;;
        4) second_best=${second_best:-$1} ;;
        3) found="$found, $1 is $version" ;;
        *) found="$found, $1 does not run" ;;
    esac
}

if [ -n "${PYTHON:-}" ]; then
    try "$PYTHON"
else
    for candidate in python3.12 python3.11 python3 python; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        try "$candidate"
        [ -z "$chosen" ] || break
    done
fi

chosen=${chosen:-$second_best}
if [ -z "$chosen" ]; then
    found=${found#, }
    echo "Python 3.11 or 3.12 is needed; found: ${found:-none}." \
        "Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2
    exit 1
fi
exec "$chosen" -I tools/bootstrap.py "$@"
