#!/bin/sh
# ResNet-56 with published weights, 2.1 times fewer multiply-accumulates, 60 epochs for every method: all methods with one
# seed, then the two best and ours with three. WEIGHTS is the file of weights (akamaster/pytorch_resnet_cifar10).
# Its validation images were trained on: nothing is chosen by them but the strengths, and the table is of test images.
. "$(dirname "$0")/common.sh"
: "${WEIGHTS:?the file of weights, resnet56.th}"
compared() {
    rotated-relu compare --weights "$WEIGHTS" --model resnet56 --rename linear=fc --data "$DATA" \
        --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --epochs 60 --tune-epochs 6 \
        --strength 0.67 --strength 2 --strength 6 --keep 0.476 --level 0.524 --finetune-level 0.524 \
        --engine onnxruntime --engine openvino --latency-batch 1 --latency-batch 64 "$@"
}
# shellcheck disable=SC2086
compared --distill "${DISTILL:-0.9}" --out "$OUT/resnet56" $METHODS
# The two best rivals of the first command's table, by name: BEST="depgraph group_sparse".
if [ -n "${BEST:-}" ]; then
    # The second command's tables hold its own methods alone: those of all methods with one seed are kept beside them.
    mkdir -p "$OUT/resnet56/one_seed"
    [ -f "$OUT/resnet56/one_seed/compare.json" ] || cp "$OUT/resnet56"/compare.* "$OUT/resnet56/one_seed/"
    chosen="--method budget"
    for name in $BEST; do chosen="$chosen --method $name"; done
    # shellcheck disable=SC2086
    compared --distill "${DISTILL:-0.9}" --seed 0 --seed 1 --seed 2 --out "$OUT/resnet56" $chosen
fi
