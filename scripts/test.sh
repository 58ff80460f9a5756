#!/usr/bin/env bash
# Sets up like quickstart.sh and runs the tests; arguments go to pytest. TEST_DATA=DIR (docs/data_and_flags.md) adds the
# tests on real pictures.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
# in the order of tests/conftest.py: files with few tests are among the longest
python -m pytest -n auto --dist loadfile --no-loadscope-reorder "$@"
