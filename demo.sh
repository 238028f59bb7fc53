#!/usr/bin/env bash
# The four commands on synthetic abdomens drawn here: SAMora, its control with the experts off, and SAMed.
# About seven minutes on two cores after the installation; nothing outside ./samora_demo is written.
set -euo pipefail
cd "$(dirname "$0")"
. ./environment.sh
install_here

export SAMORA_ROOT=samora_demo
export OMP_NUM_THREADS=1 # the method and its controls run side by side, a core each
results=$SAMORA_ROOT/results/Dataset090_Phantom

controls() {
    run samora_train Phantom SAMoraTrainer 10pct --precision fp32 --backbone samora_tiny --recipe none --name experts_off
    run samora_train Phantom SAMedTrainer 10pct --precision fp32 --backbone samora_tiny --name samed
}

run rm -rf "$SAMORA_ROOT"
run samora_convert -d Phantom -np 2
run samora_plan_and_preprocess -d Phantom --set input_size=192

echo
echo "the two controls run beside the next command; their output: $SAMORA_ROOT/controls.log"
controls >"$SAMORA_ROOT/controls.log" 2>&1 &
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
run samora_train Phantom SAMoraTrainer 10pct --precision fp32 --backbone samora_tiny --name samora
run samora_predict --precision fp32 -i imagesTs -o "$SAMORA_ROOT/preds" -m "$results/SAMoraTrainer__10pct__samora"
run samora_evaluate -g "$SAMORA_ROOT/raw/Dataset090_Phantom/labelsTs" -p "$SAMORA_ROOT/preds"
wait
run python benchmarks/side_by_side.py \
    SAMora="$results/SAMoraTrainer__10pct__samora" \
    "experts off"="$results/SAMoraTrainer__10pct__experts_off" \
    SAMed="$results/SAMedTrainer__10pct__samed"
echo
echo "worst, median and best case: $results/SAMoraTrainer__10pct__samora/fold_official/overlays.png"
echo "not exercised here: SAM ViT-B and its public weights, a GPU, real scans"
