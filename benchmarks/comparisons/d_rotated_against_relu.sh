#!/bin/sh
# Is the rotated network sometimes better than ReLU, with nothing penalized? ResNet-20, 100 epochs, three seeds: ReLU,
# rotated with published (random) and with unit initial slopes. Then means and deviations, on test images.
. "$(dirname "$0")/common.sh"
for seed in 0 1 2; do
    for kind in relu published ones; do
        case $kind in
            relu) slopes="--relu" ;;
            *) slopes="--rotated --slope-init $kind" ;;
        esac
        run="$OUT/rotated_against_relu/$kind-seed$seed"
        # shellcheck disable=SC2086
        rotated-relu train resnet20_cifar10_short $slopes --seed $seed --epochs 100 --data "$DATA" --compile --out "$run"
        [ -f "$run/evaluation.json" ] || rotated-relu evaluate "$run" --weights trained --split test
    done
done
python "$(dirname "$0")/summarize.py" "$OUT/rotated_against_relu"
