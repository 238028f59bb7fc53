#!/usr/bin/env bash
# Everything that must hold before a change is accepted: style, types, the shape of the house, the tests.
set -euo pipefail
cd "$(dirname "$0")"
. ./environment.sh
install_here dev,oracles,dicom

run ruff check .
run ruff format --check .
run mypy
run lint-imports
run python -m pytest -m "not slow" --listed-skips-only "$@"
