"""The first quarter of an hour on a GPU: what teaches most comes first, and every part prints before the next starts.

    python benchmarks/gpu_first.py [--device cuda] [--parts demo,tests,losses,resume,throughput] [--out OUT] [--small]

demo        the demonstration from the command line, labelled: kNN before the first step, training, kNN at the end;
            every line with the seconds since it was started; then the median milliseconds by part of a step
tests       the tests that have a variant on a GPU
losses      20 steps of SimSiam and DINO in every precision, beside float32 on the CPU
resume      200 steps, killed half-way and resumed, with --deterministic: the weights beside those of an unbroken run
throughput  images per second with ViT-S/16 at 224 px, two views, with and without hard views, and the phases of a step

A part that fails or takes longer than its share of five minutes is reported, and the next one starts. ``--small``
rehearses all of it in small numbers, on a CPU too.
"""

import argparse
import csv
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from step import pictures

from hardviews.data.sources.shapes import Shapes
from hardviews.options.pretraining import BackboneOptions, Precision, PretrainOptions
from hardviews.setup.defaults import resolve_defaults
from hardviews.setup.fabric import create_fabric
from hardviews.setup.step import create_step
from hardviews.training.output.run_folder import RunFolder

HERE = Path(__file__).parent
LIMITS = {"demo": 80, "tests": 50, "losses": 50, "resume": 80, "throughput": 40}  # seconds
NARROW = "--backbone.channels 8,16,32,64 --method.dim 64 --method.predictor_dim 32"


def hardviews(line: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "hardviews.cli", *line.split()], process_group=0, **options)


def finished(process: subprocess.Popen[bytes], seconds: float) -> int:
    """The exit code; of a process that takes longer, 124."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return 124


def told(process: subprocess.Popen[bytes], seconds: float) -> int:
    """As ``finished``, of a process whose output is a pipe: prints each of its lines with the seconds since now."""
    begun = time.monotonic()
    limit = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
    limit.start()
    try:
        for line in process.stdout or ():
            print(f"  {time.monotonic() - begun:6.1f} s  {line.decode(errors='replace').rstrip()}", flush=True)
        code = process.wait()
    finally:
        limit.cancel()
    return 124 if code == -signal.SIGKILL else code


def demo(args: argparse.Namespace) -> int:
    small = f" --data shapes:64 --epochs 1 --batch-size 32 {NARROW}" if args.small else ""
    line = f"pretrain --accelerator {args.device.type} --out {args.out / 'demo'}{small}"
    code = told(hardviews(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT), LIMITS["demo"])
    with RunFolder(args.out / "demo").metrics_file.open(newline="") as file:
        rows = list(csv.DictReader(file))
    spent = {k: 1000 * median(float(row[k]) for row in rows) for k in rows[0] if k.startswith("seconds_")}
    print("  a step, ms: " + ", ".join(f"{k[8:]} {ms:.1f}" for k, ms in spent.items()), flush=True)
    return code


def tests(args: argparse.Namespace) -> int:
    """Those whose names say so; on a CPU they are skipped."""
    folders = ["tests/views", "tests/selection", "tests/training/test_step.py", "tests/data/test_loader.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "cuda or gpu or waits"]
    if args.small:
        command.append("--collect-only")
    process = subprocess.Popen([*command, *folders], cwd=HERE.parent, process_group=0)
    return finished(process, LIMITS["tests"])


def steps(name: str, device: torch.device, precision: Precision, count: int) -> list[float]:
    """The losses of a run's first steps; NaN where a step was skipped."""
    vit = name == "dino"
    options = PretrainOptions(
        data="shapes", method={"name": name}, image_size=64, batch_size=32, epochs=1, warmup_epochs=0.0, seed=0,
        backbone=BackboneOptions("vit_tiny_patch16_224", keywords={"patch_size": 8, "depth": 4})
        if vit else BackboneOptions("resnet18", keywords={"channels": [16, 32, 64, 128]}),
        accelerator=device.type, precision=precision, scoring="exact",
    )  # fmt: skip
    if vit:
        options = replace(options, method={"name": name, "prototypes": 1024})
    options, method = resolve_defaults(options, Shapes(count=10))
    step = create_step(options, method, create_fabric(options), steps_per_epoch=count)
    images = pictures(32, device)
    losses = []
    for number in range(count):
        step.watch.start()
        report = step(images, number)
        losses.append(report.loss.item() if not report.values["skipped"] else float("nan"))
    return losses


def losses(args: argparse.Namespace) -> int:
    count = 3 if args.small else 20
    precisions: list[Precision] = ["32-true", "bf16-mixed", "16-mixed"]
    if args.device.type == "cpu":
        precisions.remove("16-mixed")
    for name in ("simsiam", "dino"):
        truth = steps(name, torch.device("cpu"), "32-true", count)
        print(f"  {name:8} cpu  32-true    " + " ".join(f"{truth[k]:8.4f}" for k in shown(count)), flush=True)
        for precision in precisions:
            found = steps(name, args.device, precision, count)
            skipped = sum(loss != loss for loss in found)
            line = " ".join(f"{found[k]:8.4f}" for k in shown(count))
            apart = max((abs(a - b) for a, b in zip(found, truth, strict=True) if a == a), default=float("nan"))
            where = f"{args.device.type:4} {precision:10}"
            print(f"  {name:8} {where} {line}   largest difference {apart:.4f}, skipped {skipped}", flush=True)
    return 0


def shown(count: int) -> list[int]:
    return sorted({0, 1, count // 3, 2 * count // 3, count - 1})


def resume(args: argparse.Namespace) -> int:
    images, epochs = (128, 2) if args.small else (1600, 8)  # 64 images a step: 4 steps, or 200
    total = images // 64 * epochs
    line = (
        f"pretrain --data shapes:{images} --method simsiam {NARROW} --batch-size 64 --epochs {epochs} --knn-epochs 0 "
        f"--checkpoint-steps {max(total // 10, 1)} --log-steps {max(total // 50, 1)} --workers 0 "
        f"--tensorboard false --deterministic true "
        f"--accelerator {args.device.type}"
    )
    end = time.monotonic() + LIMITS["resume"]
    if finished(hardviews(f"{line} --out {args.out / 'unbroken'}"), LIMITS["resume"]):
        return 1
    killed = RunFolder(args.out / "killed")
    process = hardviews(f"{line} --out {killed.path}")
    while process.poll() is None and rows(killed) < total // 2 and time.monotonic() < end:
        time.sleep(0.05)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    print(f"  killed after {rows(killed)} of {total} steps", flush=True)
    if finished(hardviews(f"{line} --out {killed.path}"), max(end - time.monotonic(), 1)):
        return 1
    states = [RunFolder(args.out / name).checkpoints.newest()[0] for name in ("unbroken", "killed")]
    one, other = (state["method"] for state in states if state is not None)
    apart = max(float((one[name].double() - other[name].double()).abs().max()) for name in one)
    print(f"  largest difference of a weight: {apart:g}", flush=True)
    return int(apart > 0)


def rows(run: RunFolder) -> int:
    return max(len(run.metrics_file.read_text().splitlines()) - 1, 0) if run.metrics_file.exists() else 0


def throughput(args: argparse.Namespace) -> int:
    sizes = ["--batch", "4", "--size", "32", "--repeats", "1"] if args.small else ["--batch", "256", "--repeats", "10"]
    command = [sys.executable, str(HERE / "throughput.py"), "--device", args.device.type, "--no-compile", *sizes]
    command += ["--json", str(args.out / "throughput.json")]
    return finished(subprocess.Popen(command, process_group=0), LIMITS["throughput"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--parts", default=",".join(LIMITS))
    parser.add_argument("--out", type=Path, default=Path("gpu-first"))
    parser.add_argument("--small", action="store_true", help="rehearse in small numbers")
    args = parser.parse_args()
    parts = args.parts.split(",")
    unknown = sorted(set(parts) - LIMITS.keys())
    if unknown:
        parser.error(f"no part {unknown[0]}; there are {', '.join(LIMITS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    card = torch.cuda.get_device_name() if args.device.type == "cuda" else "CPU"
    print(f"{card}, torch {torch.__version__}, CUDA {torch.version.cuda}", flush=True)
    failed = []
    for name in parts:
        print(f"== {name}", flush=True)
        begun = time.monotonic()
        try:
            code = globals()[name](args)
        except Exception as error:
            print(f"  {type(error).__name__}: {error}", flush=True)
            code = 1
        print(f"== {name}: {'ok' if not code else f'FAILED ({code})'}, {time.monotonic() - begun:.0f} s", flush=True)
        failed += [name] if code else []
    print(f"failed: {', '.join(failed)}" if failed else "all parts passed", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
