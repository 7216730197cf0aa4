# Read by the scripts beside it. DATA: the images (cifar10 takes them from the Hub). OUT: where runs go. METHODS: options
# such as "--method budget --method slimming"; empty for all that are installed.
set -eu
DATA=${DATA:-cifar10}
OUT=${OUT:-runs/comparisons}
METHODS=${METHODS:-}

# Shares to save, at each of which the pruned networks train on.
levels() {
    for level in "$@"; do printf -- '--level %s --finetune-level %s ' "$level" "$level"; done
}
