#!/usr/bin/env bash
# Everything that must hold before a change is accepted: style, types, the package layout, the tests.
set -euo pipefail
cd "$(dirname "$0")"
. ./environment.sh
install_here dev,oracles,dicom,networks,docs

run ruff check .
run ruff format --check .
run mypy
run lint-imports
# A file of tests stays with one process, which has one thread: two files at a time end sooner than one with two threads.
export OMP_NUM_THREADS=1
run python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "not slow" --listed-skips-only "$@"
