#!/usr/bin/env bash
# The four commands on a synthetic abdomen that is drawn here: SAMora, its control without experts, and SAMed.
# Minutes on two cores, no download besides the packages, nothing outside ./samora_demo is written.
set -euo pipefail
cd "$(dirname "$0")"
. ./environment.sh
install_here

export SAMORA_ROOT=samora_demo
results=$SAMORA_ROOT/results/Dataset090_Phantom
run rm -rf "$SAMORA_ROOT"

run samora_convert -d Phantom
run samora_plan_and_preprocess -d Phantom --set input_size=128
run samora_train Phantom SAMoraTrainer 10pct --backbone samora_tiny --name samora
run samora_train Phantom SAMoraTrainer 10pct --backbone samora_tiny --recipe none --name experts_off
run samora_train Phantom SAMedTrainer 10pct --backbone samora_tiny --name samed

run samora_predict -i imagesTs -o "$SAMORA_ROOT/preds" -m "$results/SAMoraTrainer__10pct__samora"
run samora_evaluate -g "$SAMORA_ROOT/raw/Dataset090_Phantom/labelsTs" -p "$SAMORA_ROOT/preds"
run python benchmarks/side_by_side.py \
    SAMora="$results/SAMoraTrainer__10pct__samora" \
    "experts off"="$results/SAMoraTrainer__10pct__experts_off" \
    SAMed="$results/SAMedTrainer__10pct__samed"
