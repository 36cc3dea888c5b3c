"""Several processes measure a run on the way: they come to the figures of one, and leave together."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
LIMIT = 240  # seconds after which processes are taken to hang


def found_by(processes: int, out: Path) -> list[dict[str, Any]]:
    """What every process has found."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        port = opened.getsockname()[1]
    torchrun = f"-m torch.distributed.run --nproc-per-node {processes} --master-addr 127.0.0.1 --master-port {port}"
    command = [sys.executable, *torchrun.split(), "-m", "tests.training.distributed_measuring", str(out)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(Path(f"{out}-{number}.json").read_text()) for number in range(processes)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    [found] = found_by(1, tmp_path_factory.mktemp("alone") / "found")
    return found


FULL = pytest.mark.endure


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=FULL)])
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return found_by(request.param, tmp_path_factory.mktemp("several") / "found")


def test_several_processes_measure_what_one_does(alone: dict[str, Any], several: list[dict[str, Any]]) -> None:
    """Though they read different numbers of images, and some have no batch of the test images."""
    for name in alone:
        assert several[0][name] == pytest.approx(alone[name], abs=1e-5), name
        assert not any(other[name] for other in several[1:])


def test_figures_are_of_a_sample_of_both_sets(alone: dict[str, Any]) -> None:
    whole, sample, held_out, few = (alone[name] for name in ("whole", "sample", "held out", "sample of one set"))
    assert (whole["knn_train_images"], whole["knn_test_images"], whole["knn_k"]) == (91, 20, 5)
    assert (whole["knn_train_images_unreadable"], whole["knn_test_images_unreadable"]) == (9, 1)
    assert sum(held_out.get(f"knn_{part}_images_unreadable", 0) for part in ("train", "test")) == 9
    assert not {"knn_train_images_of", "knn_test_images_of"} & whole.keys()
    assert sample["knn_train_images_of"] == 100
    assert sample["knn_test_images_of"] == 21
    assert 12 <= sample["knn_train_images"] <= 15  # of the 15 some can't be read
    assert sample["knn_test_images"] in (14, 15)
    assert held_out["knn_train_images"] + held_out["knn_test_images"] == 91
    each = alone["each"]
    assert (each["knn_train_images"], each["knn_test_images"], each["knn_test_images_unreadable"]) == (90, 91, 9)
    assert "knn_train_images_unreadable" not in each  # they are the same images
    assert (few["knn_train_images_of"], few["knn_test_images_of"]) == (90, 10)
    assert few["knn_k"] == few["knn_train_images"] <= 4  # though 5 are asked for


def test_what_one_process_lacks_is_said_once_and_all_leave_together(several: list[dict[str, Any]]) -> None:
    *others, last = several
    number = len(others)
    assert last["missing at first"] == "InputError: the images are gone"
    for name, said in (("missing later", "1 step: not measured (process {}: the images are gone)"),
                       ("memory", "0 steps: not measured (process {}: out of memory on cpu)"),
                       ("memory for copies", "0 steps: not measured (process {}: out of memory on cpu)")):  # fmt: skip
        assert last[name] == f"after {said.format(number)}; training continues"
    for other in others:
        assert other["missing at first"] == f"PeerError: process {number} failed and prints the reason"
        assert other["missing later"] == other["memory"] == other["memory for copies"] == ""


def test_a_signal_to_one_process_stops_all_in_the_same_round(several: list[dict[str, Any]]) -> None:
    assert {found["stopped"] for found in several} == {" after 3 looks"}


def test_one_process_that_reads_a_long_stream_again_is_waited_for(several: list[dict[str, Any]]) -> None:
    assert {found["reading again"] for found in several} == {"all went on from step 5 to step 7"}
