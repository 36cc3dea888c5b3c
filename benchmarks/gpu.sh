#!/bin/sh
# What is to be run on a machine with a GPU, in parts of under nine minutes:  benchmarks/gpu.sh PART [OUT]
# (first takes options of gpu_first.py after OUT)
#
#   first      what teaches most, in five minutes: demo, tests, losses by precision, kill and resume, images per second
#   tests      the tests that have a variant on a GPU, and those that look for waits
#   step       steps with and without hard views, peak memory, selection
#   rendering  views, beside torchvision and kornia (needs a folder of pictures in $PICTURES)
#   pipeline   files to weights, beside lightly (needs a Parquet table in $TABLE)
#   vit        images per second of a two-view method with ViT-S/16, operations, share of the peak ($PEAK, per second)
#   cifar      200 epochs of SimSiam with hard views, beside lightly's modules (tables in $CIFAR_TRAIN, $CIFAR_TEST)
#
# PYTHON is the interpreter, of an environment where hardviews and its test extra are installed. Figures go to OUT.
set -eu
part=${1:?usage: benchmarks/gpu.sh first|tests|step|rendering|pipeline|vit|cifar [OUT]}
out=${2:-.}
python=${PYTHON:-python}
here=$(dirname "$0")
mkdir -p "$out"
case $part in
first)
    shift
    [ $# -eq 0 ] || shift
    "$python" "$here/gpu_first.py" --out "$out/first" "$@"
    ;;
tests) "$python" -m pytest "$here/../tests/views" "$here/../tests/selection" "$here/../tests/methods" \
    "$here/../tests/training" "$here/../tests/data/test_loader.py" ;;
step)
    "$python" "$here/step.py" --device cuda --batch 128 --json "$out/step.json"
    "$python" "$here/memory.py" --device cuda --batch 64 --json "$out/memory.json"
    "$python" "$here/selection.py" --device cuda --json "$out/selection.json"
    ;;
rendering) "$python" "$here/rendering.py" "${PICTURES:?a folder of pictures}" --device cuda --images 128 \
    --json "$out/rendering.json" ;;
pipeline) "$python" "$here/pipeline.py" "${TABLE:?a Parquet table}" --device cuda --batch 256 --workers 8 \
    --json "$out/pipeline.json" ;;
vit) "$python" "$here/throughput.py" --device cuda --peak "${PEAK:-989e12}" --json "$out/throughput.json" ;;
cifar) "$python" "$here/cifar.py" "${CIFAR_TRAIN:?a Parquet table}" "${CIFAR_TEST:?a Parquet table}" --device cuda \
    --json "$out/cifar.json" ;;
*)
    echo "gpu.sh: no part $part; first, tests, step, rendering, pipeline, vit or cifar" >&2
    exit 2
    ;;
esac
