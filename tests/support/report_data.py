"""Plausible data for reports, made up for tests of the page; nothing here was measured."""

import math
import random


def full_report():
    """Every part, about the size of a small residual network's run."""
    dice = random.Random(3)
    widths = [16, 16, 16, 16, 16, 16, 16, 32, 32, 32, 32, 32, 32, 64, 64, 64, 64, 64, 64]
    alive = [16, 9, 14, 5, 13, 0, 12, 22, 30, 14, 29, 17, 25, 41, 58, 22, 31, 12, 20]
    names = ["relu", *(f"layer{s}.{b}.act{a}" for s in (1, 2, 3) for b in (0, 1, 2) for a in (1, 2))]
    layers = ["conv1", *(f"layer{s}.{b}.conv{c}" for s in (1, 2, 3) for b in (0, 1, 2) for c in (1, 2)), "fc"]
    chain, kept, sides = [3, *widths, 10], [3, *alive, 10], [32] * 7 + [16] * 6 + [8] * 6 + [1]
    kernel = [9] * 19 + [1]
    full = {n: k * i * o for n, k, i, o in zip(layers, kernel, chain, chain[1:], strict=False)}
    small = {n: k * i * o for n, k, i, o in zip(layers, kernel, kept, kept[1:], strict=False) if i * o}
    area = dict(zip(layers, (side**2 for side in sides), strict=True))
    macs = [{n: count * area[n] for n, count in counts.items()} for counts in (full, small)]
    sums = [sum(full.values()), sum(small.values()), *(sum(counts.values()) for counts in macs)]
    return {
        "title": "ResNet-20 on CIFAR-10",
        "reference": "relu",
        "final": "finetuned",
        "networks": [
            network("relu", "ReLU", 90.21, 90.6, 269_722, sums[2], sums[0]),
            network("rotated", "rotated ReLU", 89.94, 90.5, 270_394, sums[2], sums[0]),
            network("compact", "compacted", 89.71, 90.4, sums[1] + 1_350, sums[3], sums[1]),
            {
                "key": "finetuned",
                "label": "compacted, fine-tuned",
                "test_accuracy": 90.12,
                "validation_accuracy": 90.62,
                "same_cost_as": "compact",
            },
        ],
        "threshold": threshold(),
        "slopes": slopes(dice, widths, alive, names),
        "alive": [
            {"name": name, "total": total, "alive": left}
            for name, total, left in zip(names, widths, alive, strict=True)
        ],
        "paths": path_lengths_part(widths, alive),
        "layer_weights": {"relu": full, "rotated": full, "compact": small},
        "layer_macs": {"relu": macs[0], "rotated": macs[0], "compact": macs[1]},
        "curves": [curve(dice, "relu", "ReLU", 91.0), curve(dice, "rotated", "rotated ReLU", 90.7, 9)],
        "latency": [
            latency(dice, 1, 0.8, 1.35),
            latency(dice, 64, 47.0, 2.28) | layer_times(macs, 47.0),
        ],
        "engine": "onnxruntime 1.32.0",
        "paper_count": {
            "full_weights": sums[0],
            "alive_weights": sums[1],
            "full_flops": 2 * sums[2],
            "alive_flops": 2 * sums[3],
            "memory_saved": 1 - sums[1] / sums[0],
            "flops_saved": 1 - sums[3] / sums[2],
        },
        "held": [
            {
                "name": "layer2.0",
                "channels": 7,
                "reason": "the zero-padded shortcut reads them (pad in layer2.0)",
            },
            {
                "name": "layer3.0",
                "channels": 12,
                "reason": "the zero-padded shortcut reads them (pad in layer3.0)",
            },
            {"name": "layer3.1.conv1", "channels": 3, "reason": "widths are rounded up to a multiple of 4"},
        ],
        "certificate": {
            "max_relative_difference": 3.1e-15,
            "max_absolute_difference": 4.4e-14,
            "inputs": [[[2, 3, 32, 32]], [[5, 3, 32, 32]], [[1, 3, 32, 32]]],
            "dtype": "float64",
            "tolerance": 1e-9,
        },
        "attack": attack(),
        "made": made(),
    }


def layer_times(macs, whole_ms):
    """Time per layer, after its multiply-accumulates: with a profiler, and by a table that says ten percent more."""
    rate = whole_ms / sum(macs[0].values())
    measured = {
        key: {layer: count * rate for layer, count in counts.items()}
        for key, counts in zip(("relu", "rotated", "compact"), (macs[0], *macs), strict=True)
    }
    estimated = {
        key: {layer: 1.1 * time for layer, time in times.items()}
        for key, times in measured.items()
        if key != "relu"
    }
    return {"measured_layer_ms": measured, "estimated_layer_ms": estimated | {"relu": estimated["rotated"]}}


def trained_report():
    """A run that has only been trained."""
    data = full_report()
    return {
        "title": data["title"],
        "networks": [{"key": "rotated", "label": "rotated ReLU", "validation_accuracy": 90.5}],
        "slopes": data["slopes"],
        "curves": data["curves"][1:],
        "made": data["made"],
    }


def network(key, label, test, validation, parameters, macs, weights):
    return {
        "key": key,
        "label": label,
        "test_accuracy": test,
        "validation_accuracy": validation,
        "parameters": parameters,
        "macs": macs,
        "conv_linear_weights": weights,
        "file_bytes": 4 * parameters + 9_000,
        "peak_memory_bytes": 4 * parameters + 2 * 4 * 16 * 32 * 32,
    }


def threshold():
    sweep = []
    for step in range(24):
        zeta = 10 ** (-3.2 + 3.1 * step / 23)
        alive = round(688 * (0.64 - 0.5 / (1 + math.exp(-5 * (math.log10(zeta) + 0.7)))))
        score = 90.5 - 80 / (1 + math.exp(-9 * (math.log10(zeta) + 0.55))) + 0.06 * math.sin(7 * step)
        sweep.append({"threshold": zeta, "score": score, "alive": alive, "cost": {}})
    chosen = sweep[14]
    return {
        "value": chosen["threshold"],
        "score": chosen["score"],
        "baseline_score": 90.5,
        "alive": chosen["alive"],
        "total": 688,
        "tolerance": 0.2,
        "budget": None,
        "kept": {},
        "sweep": sweep,
    }


def slopes(dice, widths, alive, names):
    start, end = {}, {}
    for name, width, left in zip(names, widths, alive, strict=True):
        start[name] = [dice.choice((-1, 1)) * dice.uniform(0.7, 1.43) for _ in range(width)]
        end[name] = [
            dice.choice((-1, 1)) * dice.gauss(0.75, 0.28) if place < left else dice.gauss(0, 0.003)
            for place in range(width)
        ]
    return {"start": start, "end": end}


def curve(dice, key, label, best, pace=6):
    rows = []
    for epoch in range(30):
        rise = 1 - math.exp(-epoch / pace)
        rows.append(
            {
                "epoch": epoch,
                "train_loss": 1.9 - 1.65 * rise + dice.gauss(0, 0.01),
                "train_accuracy": 30 + (best + 5 - 30) * rise,
                "validation_loss": 1.8 - 1.5 * rise + dice.gauss(0, 0.03),
                "validation_accuracy": 35 + (best - 35) * rise + dice.gauss(0, 0.8) * (30 - epoch) / 30,
                "lr": 0.1,
            }
        )
    return {"key": key, "label": label, "rows": rows}


def latency(dice, batch_size, reference, speedup):
    def times(base):
        return [base * (1 + abs(dice.gauss(0, 0.03))) for _ in range(30)]

    milliseconds = {
        "relu": times(reference),
        "rotated": times(1.02 * reference),
        "compact": times(reference / speedup),
    }
    medians = {key: sorted(values)[15] for key, values in milliseconds.items()}
    return {
        "batch_size": batch_size,
        "milliseconds": milliseconds,
        "medians_ms": medians,
        "speedup": {"rotated": 1 / 1.02, "compact": speedup},
    }


def path_lengths_part(widths, alive):
    """Two activations per block after the stem's; a block with a dead one is only skipped."""
    sides = []
    for left in (widths, alive):
        shares, paths = [1.0], 1
        for one, two in zip(left[1::2], left[2::2], strict=True):
            if one and two:
                paths *= 2
                filled = shares + [0.0] * (one + two)
                shares = [
                    (way + past) / 2 for way, past in zip(filled, [0.0] * (one + two) + shares, strict=True)
                ]
        binned = [sum(shares[start : start + 32]) for start in range(0, len(shares), 32)]
        mean = sum(length * share for length, share in enumerate(shares))
        sides.append({"paths": paths, "mean": mean, "shares": binned})
    return {"blocks": 9, "width": 32, "before": sides[0], "after": sides[1]}


def attack():
    rows = (
        ("rotated", "rotated ReLU", 89.9, 11.2, 0.0, 812.4),
        ("compact", "compacted", 89.7, 10.4, 0.0, 790.2),
        ("finetuned", "compacted, fine-tuned", 90.1, 10.9, 0.5, 901.0),
        ("relu", "ReLU (first-relu)", 90.2, 9.1, 0.0, 1003.7),
    )
    names = ("key", "label", "clean", "fgsm", "pgd", "lipschitz")
    return {
        "networks": [dict(zip(names, row, strict=True)) for row in rows],
        "settings": {"eps": 0.031, "steps": 60, "random_start": False, "images": 1000, "pgd_images": 200},
        "library": "torchattack 1.7.2",
    }


def made():
    return {
        "command": "rotated-relu train resnet20-cifar10 --out runs/first && rotated-relu prune runs/first",
        "date": "2024-05-17",
        "seed": 0,
        "epochs": 30,
        "dataset": {"name": "cifar10", "training images": 50_000, "test images": 10_000},
        "split": "5,000 of the 50,000 training images held out for validation, seed 0",
        "environment": {
            "processor": "AMD EPYC 7R13",
            "threads": 2,
            "system": "Linux-6.1-x86_64",
            "python": "3.11.7",
            "versions": {"torch": "2.14.1", "onnxruntime": "1.32.0"},
        },
    }
