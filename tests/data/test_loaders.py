"""Loaders: the same batches bit for bit, whatever the workers, the start and the ranks."""

import multiprocessing.forkserver
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from common.data.loaders import EpochLoader, SampleLoader, TensorLoader
from common.data.orders import BucketedBatches, ShuffledBatches
from common.utils.errors import DataError


class Augmented(Dataset):
    """Samples that draw from all three global generators and remember who was read."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.read.append(index)
        noise = [random.random(), np.random.rand(), torch.rand(()).item()]
        return {"index": torch.tensor(index), "noise": torch.tensor(noise, dtype=torch.float64)}


def noisy_collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return default_collate(samples) | {"mask": torch.rand(len(samples), 3) < 0.5}


def make(size: int = 23, workers: int = 0, seed: int = 7) -> SampleLoader:
    order = ShuffledBatches(size, 4, seed)
    dataset = Augmented(size)
    return SampleLoader(dataset, order, collate=noisy_collate, num_workers=workers, seed=seed)


def same(left: list, right: list) -> bool:
    return len(left) == len(right) and all(
        (a is None and b is None)
        or (a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a))
        for a, b in zip(left, right, strict=True)
    )


def states() -> tuple:
    name, keys, *rest = np.random.get_state()
    return random.getstate(), name, keys.tolist(), rest, torch.get_rng_state().tolist()


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(workers: int):
    assert same(list(make().batches(2)), list(make(workers=workers).batches(2)))


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_batches_do_not_depend_on_how_workers_are_started(start_method: str):
    order = ShuffledBatches(23, 4, seed=7)
    context = {"multiprocessing_context": start_method, "num_workers": 2, "seed": 7}
    loader = SampleLoader(Augmented(23), order, collate=noisy_collate, **context)
    assert same(list(make().batches(2)), list(loader.batches(2)))


@pytest.mark.slow
def test_workers_from_a_server_that_was_there_before_ignore_the_signals():
    """They inherit no blocked signals, so they have to ignore them by themselves."""
    multiprocessing.forkserver.ensure_running()
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    options = {"multiprocessing_context": "forkserver", "num_workers": 1}
    loader = SampleLoader(Slow(40), ShuffledBatches(40, 4), **options)
    batches = []
    for batch in loader.batches(0):
        batches.append(batch)
        for process in psutil.Process().children(recursive=True):
            if process.pid not in before and "forkserver" in " ".join(process.cmdline()):
                process.terminate()
    assert same(batches, list(loader.batches(0)))


@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_and_resumed_many_times_equals_uninterrupted(workers: int):
    whole = list(make().batches(1))
    generator = random.Random(0)
    pieces: list = []
    while len(pieces) < len(whole):
        torch.manual_seed(generator.randrange(1000))  # another process, in another state
        iterator = make(workers=workers).batches(1, start=len(pieces))
        pieces += [
            batch for batch, _ in zip(iterator, range(generator.randint(1, 3)), strict=False)
        ]
    assert same(pieces, whole)


def test_augmentation_differs_between_samples_epochs_and_seeds():
    def noise(loader: SampleLoader, epoch: int) -> Tensor:
        batches = list(loader.batches(epoch))
        by_index = torch.argsort(torch.cat([b["index"] for b in batches]))
        return torch.cat([b["noise"] for b in batches])[by_index]

    first = noise(make(), 0)
    assert len(first.unique()) == first.numel()
    assert not torch.isclose(first, noise(make(), 1)).any()
    assert not torch.isclose(first, noise(make(seed=8), 0)).any()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("finish", [True, False])
def test_reading_leaves_the_training_generators_alone(workers: int, finish: bool):
    before = states()
    iterator = make(workers=workers).batches(0)
    for _ in iterator:
        assert states() == before
        if not finish:
            break
    del iterator
    assert states() == before


def test_a_start_reads_nothing_of_what_lies_before():
    loader = make()
    list(loader.batches(0, start=4))
    expected = [i for batch in range(4, 6) for i in loader.indices(0, batch)]
    assert loader.dataset.read == expected


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_out_the_same_global_batches(world_size: int):
    loader = make(size=21)
    whole = list(loader.batches(3, start=1))
    ranks = [list(loader.batches(3, 1, rank, world_size)) for rank in range(world_size)]
    for number, batch in enumerate(whole):
        shares = [rank[number] for rank in ranks]
        for rank, share in enumerate(shares):
            expected = batch["noise"][rank::world_size]
            if len(expected):
                assert torch.equal(share["noise"], expected)
            else:
                assert share is None
    assert [rank[-1] is None for rank in ranks] == [False] + [True] * (world_size - 1)


def test_indices_name_the_samples_of_a_batch():
    loader = make()
    for number, batch in enumerate(loader.batches(1)):
        assert loader.indices(1, number) == batch["index"].tolist()
    assert loader.num_batches(1) == number + 1
    assert isinstance(loader, EpochLoader)


def test_a_bucketed_order_feeds_a_sample_loader():
    lengths = [3, 9, 4, 2, 8, 7, 3, 3]
    sequences = [torch.full((n,), n) for n in lengths]
    loader = SampleLoader(
        sequences,
        BucketedBatches(lengths, 12, seed=1),
        collate=lambda rows: {"x": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)},
    )
    shapes = [tuple(batch["x"].shape) for batch in loader.batches(0)]
    assert sum(rows for rows, _ in shapes) == len(lengths)
    assert all(rows * columns <= 12 for rows, columns in shapes)


@pytest.mark.parametrize("start", [7, -1])
def test_a_start_beyond_the_epoch_is_refused(start: int):
    with pytest.raises(DataError, match=f"batch {start}: epoch 0 has 6 batches"):
        next(make().batches(0, start=start))
    assert list(make().batches(0, start=6)) == []


class Broken(Augmented):
    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if index == 5:
            raise DataError("image is truncated")
        if index == 17:
            raise ZeroDivisionError("a mistake in the data set")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_sample_is_named_in_one_line(workers: int):
    order = ShuffledBatches(10, 4, shuffle=False)
    loader = SampleLoader(Broken(10), order, num_workers=workers)
    before = {p.pid for p in workers_of(psutil.Process())}
    with pytest.raises(DataError, match=r"^sample 5: image is truncated$"):
        list(loader.batches(0))
    assert {p.pid for p in workers_of(psutil.Process())} == before


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_in_a_data_set_keeps_its_traceback_and_names_the_sample(workers: int):
    order = ShuffledBatches(20, 2, shuffle=False)
    loader = SampleLoader(Broken(20), order, num_workers=workers)
    with pytest.raises(ZeroDivisionError) as caught:
        list(loader.batches(0, start=8))
    shown = str(caught.value) + "".join(getattr(caught.value, "__notes__", []))
    assert "while reading sample 17" in shown


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    return [p for p in process.children() if p.status() != psutil.STATUS_ZOMBIE]


def wait_until(condition, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_closing_an_iterator_early_leaves_no_worker():
    before = {p.pid for p in workers_of(psutil.Process())}

    def new_workers() -> set[int]:
        return {p.pid for p in workers_of(psutil.Process())} - before

    iterator = make(size=400, workers=2).batches(0)
    next(iterator)
    assert len(new_workers()) == 2
    iterator.close()
    assert not new_workers()


class Slow(Augmented):
    def __getitem__(self, index: int) -> dict[str, Tensor]:
        time.sleep(0.01)
        return super().__getitem__(index)


def test_workers_ignore_the_signals_that_stop_a_run():
    before = {p.pid for p in workers_of(psutil.Process())}
    loader = SampleLoader(Slow(40), ShuffledBatches(40, 4), num_workers=2)
    batches = []
    for batch in loader.batches(0):
        batches.append(batch)
        for worker in workers_of(psutil.Process()):
            if worker.pid not in before:
                worker.send_signal(signal.SIGTERM)
                worker.send_signal(signal.SIGINT)
    assert same(batches, list(loader.batches(0)))


def run_with_open_iterator(tmp_path: Path, then: str) -> subprocess.Popen:
    """A process that leaves an iterator with two workers open in a global, and does ``then``."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, time\n"
        "from common.data.loaders import SampleLoader\n"
        "from common.data.orders import ShuffledBatches\n"
        "loader = SampleLoader(list(range(100)), ShuffledBatches(100, 2), num_workers=2)\n"
        "iterator = loader.batches(0)\n"
        "next(iterator)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        f"{then}\n"
    )
    root = str(Path(__file__).parents[2])
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": root},
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    return parent


def test_workers_follow_a_parent_that_was_killed(tmp_path: Path):
    parent = run_with_open_iterator(tmp_path, "")
    workers = workers_of(psutil.Process(parent.pid))
    assert len(workers) == 2
    parent.kill()
    parent.communicate()
    assert wait_until(lambda: not any(w.is_running() for w in workers), seconds=20)


@pytest.mark.parametrize(("then", "code"), [("", 0), ("1 / 0", 1)])
def test_a_process_ends_at_once_with_an_iterator_open(tmp_path: Path, then: str, code: int):
    parent = run_with_open_iterator(tmp_path, then)
    workers = workers_of(psutil.Process(parent.pid))
    parent.communicate(b"go on\n", timeout=20)
    assert parent.returncode == code
    assert not any(w.is_running() for w in workers)


def tensors(size: int = 23) -> dict[str, Tensor]:
    return {"x": torch.arange(size * 3.0).reshape(size, 3), "y": torch.arange(size)}


def test_tensor_loader_gives_the_rows_its_indices_name():
    loader = TensorLoader(tensors(), 4, seed=2, shuffle=True)
    for number, batch in enumerate(loader.batches(5)):
        rows = loader.indices(5, number)
        assert batch["y"].tolist() == rows
        assert torch.equal(batch["x"], tensors()["x"][rows])
    assert number + 1 == loader.num_batches(5) == 6
    assert isinstance(loader, EpochLoader)


def test_tensor_loader_resumes_and_shares_out_with_a_random_transform():
    def jitter(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return batch | {"x": batch["x"] + torch.rand(batch["x"].shape) + random.random()}

    def loader() -> TensorLoader:
        return TensorLoader(tensors(), 4, seed=2, shuffle=True, transform=jitter)

    before = states()
    whole = list(loader().batches(1))
    assert same(list(loader().batches(1, start=4)), whole[4:])
    assert states() == before
    shares = [list(loader().batches(1, 0, rank, 4)) for rank in range(4)]
    assert [share[-1] is None for share in shares] == [False, False, False, True]
    for number, batch in enumerate(whole):
        rows = [share[number]["y"] for share in shares if share[number] is not None]
        assert sorted(torch.cat(rows).tolist()) == sorted(batch["y"].tolist())


def test_a_batch_may_be_changed_in_place_without_harm_to_the_data():
    data = tensors()
    for batch in TensorLoader(data, 4).batches(0):
        batch["x"].zero_()
    assert torch.equal(data["x"], tensors()["x"])


def test_tensors_of_unequal_length_are_refused():
    with pytest.raises(DataError, match="'x': 3, 'y': 2"):
        TensorLoader({"x": torch.zeros(3), "y": torch.zeros(2)}, 2)
