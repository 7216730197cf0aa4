#!/bin/sh
# WRN-16-4 from scratch on CIFAR-10, half of the multiply-accumulates: ours, group norm and Network Slimming, one seed.
# 20 epochs, then 10 more for what was pruned and for the ReLU network.
. "$(dirname "$0")/common.sh"
# shellcheck disable=SC2046
rotated-relu compare resnet20_cifar10_short --model wrn_16_4 --data "$DATA" --out "$OUT/wrn_16_4" \
    --epochs 20 --finetune-epochs 10 --tune-epochs 4 --strength 0.67 --strength 2 --strength 6 --keep 0.5 $(levels 0.5) \
    --engine onnxruntime --engine openvino --latency-batch 1 --latency-batch 64 \
    --method budget --method group_norm --method slimming
