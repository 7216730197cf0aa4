#!/bin/sh
# ResNet-20 with published weights, 30 and 50 % of the multiply-accumulates saved and 1.4 and 1.8 times as fast at batch
# 64, EPOCHS epochs for every method, with distillation. SEEDS="--seed 0 --seed 1 --seed 2" adds seeds. WEIGHTS is the
# file of weights (akamaster/pytorch_resnet_cifar10). The smallest of the comparisons.
# Its validation images were trained on: nothing is chosen by them but the strengths, and the table is of test images.
. "$(dirname "$0")/common.sh"
: "${WEIGHTS:?the file of weights, resnet20.th}"
# shellcheck disable=SC2046,SC2086
rotated-relu compare --weights "$WEIGHTS" --model resnet20 --rename linear=fc --data "$DATA" \
    --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --epochs "${EPOCHS:-10}" --tune-epochs 2 \
    --strength 0.67 --strength 2 --strength 6 --keep 0.7 --keep 0.5 $(levels 0.3 0.5) --speedup 1.4 --speedup 1.8 \
    --distill "${DISTILL:-0.9}" --engine onnxruntime --latency-batch 64 --latency-batch 1 \
    ${SEEDS:-} --out "$OUT/resnet20-published" $METHODS
