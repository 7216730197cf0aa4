#!/bin/sh
# ResNet-20 from scratch on CIFAR-10: every method at 70, 50 and 35 % of the multiply-accumulates, three seeds.
# 40 epochs, then 20 more for what was pruned and for the ReLU network. Stopped, the same command goes on.
. "$(dirname "$0")/common.sh"
for seed in 0 1 2; do  # each seed is a whole result before the next one begins
    seeds="${seeds:-} --seed $seed"
    # shellcheck disable=SC2086
    rotated-relu compare resnet20_cifar10_compare $seeds --data "$DATA" --compile --out "$OUT/resnet20" \
        --epochs 40 --finetune-epochs 20 --tune-epochs 8 --strength 0.67 --strength 2 --strength 6 \
        --keep 0.7 --keep 0.5 --keep 0.35 $(levels 0.3 0.5 0.65) \
        --engine onnxruntime --engine openvino --latency-batch 1 --latency-batch 64 $METHODS
done
