#!/usr/bin/env bash
# The first hour on a real GPU: every chunk ends within ten minutes and can be run by itself, in any order.
#
#     bash benchmarks/first_gpu_hour.sh FOLDER [CHUNK]...
#
# CHUNK is one of those below; without any, all are run. FOLDER gets a file of JSON for each, and table.md in the end.
# Nothing is downloaded, and no reader of volumes is needed. The last chunk trains on the left atrium where
# SAMORA_ROOT has it preprocessed (samora_convert -d LA, samora_plan_and_preprocess, on any machine), and is left out
# where it has not.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=${1:?the folder that gets the results}
shift
mkdir -p "$folder"
python=${PYTHON:-python}
failed=()

chunk() {
    local name=$1
    shift
    if [ ${#wanted[@]} -gt 0 ] && [[ " ${wanted[*]} " != *" $name "* ]]; then return; fi
    echo "== $name"
    timeout "${LIMIT:-590}" "$@" || failed+=("$name")
}

hour() { local name=$1; shift; chunk "$name" "$python" -m benchmarks.gpu_hour "$@" --output "$folder" "${options[@]}"; }

la() {
    local short=(--set bootstrap.epochs=5 --set finetune.epochs=20 --device cuda --name "$1")
    shift
    # A chunk that ran into its limit goes on when it is run again.
    "$python" -m trainers.cli LA SAMedTrainer 5pct --backbone sam_vit_b --backbone-weights bootstrap "${short[@]}" "$@" -c
}

wanted=("$@")
read -ra options <<< "${OPTIONS:-}"
hour finetune stages --rows "finetune 1 x 32" finetune "finetune ViT-L"
hour teachers stages --rows teacher_image teacher_patch
hour distilled stages --rows expert_image expert_patch
hour scratch stages --rows "expert_image scratch" "expert_patch scratch" expert_pixel
hour resume resume
hour curves curves
hour volume volume
if compgen -G "${SAMORA_ROOT:-samora_data}/preprocessed/*LA*" > /dev/null; then
    chunk la la first_hour
    chunk consistency la first_hour_consistency --consistency
fi
"$python" -m benchmarks.gpu_hour table --output "$folder" | tee "$folder/table.md"
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
