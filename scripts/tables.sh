#!/usr/bin/env bash
# All tables and figures in one sweep, then results.md. Settings: docs/running_sweeps.md
set -euo pipefail

source "$(dirname "$0")/lib/sweep.sh"

plan() {
    local script
    for script in scripts/table[1-8].sh scripts/fig[1-6].sh scripts/text_numbers.sh; do LAUNCH=print bash "$script"; done
}
launch all
