#!/bin/sh
# The paper's L1 on the slopes at its own total shrinkage of 23, ResNet-20, its optimizer and schedule, 200 epochs in
# place of 1200, one seed: how many filters die, at what accuracy? The same network without the penalty beside it.
. "$(dirname "$0")/common.sh"
for shrinkage in 23 0; do
    run="$OUT/paper_l1/shrinkage-$shrinkage"
    rotated-relu train resnet20_cifar10 --epochs 200 --total-shrinkage $shrinkage --data "$DATA" --compile --out "$run"
    [ -f "$run/compact.safetensors" ] || rotated-relu prune "$run" --tolerance 0.2 --round-to 1
    for weights in trained compact; do
        rotated-relu evaluate "$run" --weights $weights --split test
    done
    rotated-relu measure "$run"
    rotated-relu report "$run"
done
