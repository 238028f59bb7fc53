# Sourced by demo.sh and test.sh: a virtual environment with this package, made where none is active.
# Usage: . ./environment.sh [extra]

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

find_python() {
    for candidate in python3 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
    done
    echo "Python 3.11 or newer is needed and was not found." >&2
    exit 2
}

install_here() {
    local extra=${1:+[$1]}
    if [ -z "${VIRTUAL_ENV:-}" ]; then
        [ -x .venv/bin/python ] || run "$(find_python)" -m venv .venv
        # shellcheck disable=SC1091
        . .venv/bin/activate
    fi
    run python -m pip install --quiet --editable ".$extra"
}
