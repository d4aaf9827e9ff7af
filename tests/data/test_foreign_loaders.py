"""``iterate``: loaders that are not ours, continued exactly or refused."""

import random
from collections.abc import Iterator

import datasets
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)

from common.data.foreign import as_epoch_loader, iterate, keeps_state
from common.data.loaders import TensorLoader
from common.utils.errors import DataError

SIZE = 22


class Noisy(Dataset):
    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.read.append(index)
        return {"index": torch.tensor(index), "noise": torch.rand(2)}


class PythonSampler(Sampler):
    """Shuffles with Python's global generator, as homemade samplers do."""

    def __len__(self) -> int:
        return SIZE

    def __iter__(self) -> Iterator[int]:
        return iter(random.sample(range(SIZE), SIZE))


class Remembering(PythonSampler):
    """Gives another order each time it is asked, from a generator of its own."""

    def __init__(self) -> None:
        self.own = random.Random(0)

    def __iter__(self) -> Iterator[int]:
        return iter(self.own.sample(range(SIZE), SIZE))


MAKERS = {
    "in order": lambda data: DataLoader(data, 4),
    "shuffled": lambda data: DataLoader(data, 4, shuffle=True),
    "shuffled, own generator": lambda data: DataLoader(
        data, 4, shuffle=True, generator=torch.Generator()
    ),
    "drop last": lambda data: DataLoader(data, 4, shuffle=True, drop_last=True),
    "weighted": lambda data: DataLoader(
        data, 4, sampler=WeightedRandomSampler(torch.arange(1.0, SIZE + 1), SIZE)
    ),
    "homemade": lambda data: DataLoader(data, 4, sampler=PythonSampler()),
    "batch sampler": lambda data: DataLoader(
        data, batch_sampler=BatchSampler(RandomSampler(data), 4, False)
    ),
    "workers": lambda data: DataLoader(data, 4, shuffle=True, num_workers=2),
    "distributed": lambda data: DataLoader(
        data, 4, sampler=DistributedSampler(data, num_replicas=2, rank=1)
    ),
}


def read(loader: object, **where: int) -> list:
    where = {"seed": 3, "epoch": 1} | where
    return [
        batch if batch is None else {key: value.tolist() for key, value in batch.items()}
        for batch in iterate(loader, **where)
    ]


@pytest.mark.parametrize("name", MAKERS)
def test_a_plain_data_loader_is_continued_exactly(name: str):
    make = MAKERS[name]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    whole = read(make(Noisy()))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)  # another process, in another state
    for start in range(len(whole) + 1):
        assert read(make(Noisy()), start=start) == whole[start:]
    if name not in ("in order",):
        assert [b["index"] for b in read(make(Noisy()), epoch=2)] != [b["index"] for b in whole]


def test_a_plain_data_loader_reads_nothing_it_skips():
    data = Noisy()
    batches = read(DataLoader(data, 4, shuffle=True), start=4)
    assert data.read == [i for batch in batches for i in batch["index"]]


def test_workers_do_not_change_a_plain_data_loader():
    assert read(MAKERS["shuffled"](Noisy())) == read(MAKERS["workers"](Noisy()))


def test_ranks_share_out_a_plain_data_loader():
    loader = MAKERS["shuffled"](Noisy())
    shares = [read(loader, rank=rank, world_size=3) for rank in range(3)]
    for number, batch in enumerate(read(loader)):
        for rank in range(3):
            expected = batch["index"][rank::3]
            assert (shares[rank][number] or {"index": []})["index"] == expected


def test_a_sampler_for_ranks_has_shared_out_already():
    shares = []
    for rank in range(2):
        sampler = DistributedSampler(Noisy(), num_replicas=2, rank=rank, seed=0)
        loader = DataLoader(Noisy(), 4, sampler=sampler)
        shares += [i for b in read(loader, rank=rank, world_size=2) for i in b["index"]]
    assert sorted(shares) == list(range(SIZE))


def test_tuple_batches_pass_as_they_are():
    loader = DataLoader(TensorDataset(torch.arange(4), torch.arange(4)), 2)
    first = next(iterate(loader, seed=0, epoch=0))
    assert [part.tolist() for part in first] == [[0, 1], [0, 1]]


def test_tensors_in_memory_are_read_at_once_and_come_as_if_collated():
    class Ours(TensorDataset):
        """Read sample by sample, because it might be more than a ``TensorDataset``."""

    tensors = torch.randn(SIZE, 3), torch.arange(SIZE), torch.rand(SIZE) > 0.5
    for start in (0, 3):
        streams = [
            iterate(DataLoader(kind(*tensors), 4, shuffle=True), seed=1, epoch=2, start=start)
            for kind in (TensorDataset, Ours)
        ]
        for at_once, collated in zip(*streams, strict=True):
            assert type(at_once) is type(collated) is list
            assert all(map(torch.equal, at_once, collated))
            assert [t.dtype for t in at_once] == [t.dtype for t in collated]


def test_a_sampler_that_never_gives_the_same_order_is_refused_in_the_middle():
    loader = DataLoader(Noisy(), 4, sampler=Remembering())
    assert len(read(loader)) == 6
    with pytest.raises(DataError, match="another order each time"):
        read(loader, start=1)


def test_a_sampler_without_length_is_refused():
    class Endless(Sampler):
        def __iter__(self) -> Iterator[int]:
            while True:
                yield 0

    with pytest.raises(DataError, match="has no length"):
        read(DataLoader(Noisy(), 4, sampler=Endless()))


def test_a_list_of_batches_is_read_from_an_index():
    batches = [{"x": torch.arange(3) + k} for k in range(5)]
    assert read(batches, start=2) == [{"x": [2, 3, 4]}, {"x": [3, 4, 5]}, {"x": [4, 5, 6]}]
    assert read(batches, start=4, rank=1, world_size=2) == [{"x": [5]}]
    assert read(batches, start=4, rank=3, world_size=4) == [None]
    assert as_epoch_loader(batches, 0).num_batches(0) == 5


def test_our_own_loaders_pass_through():
    loader = TensorLoader({"x": torch.arange(10)}, 4, seed=9, shuffle=True)
    assert as_epoch_loader(loader, seed=1) is loader


class Shuffling(IterableDataset):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.randperm(SIZE))


class FollowsEpoch(Shuffling):
    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.epoch)
        return iter(torch.randperm(SIZE, generator=generator))


def values(loader: object, **where: int) -> list[list[int]]:
    return [batch.tolist() for batch in iterate(loader, seed=0, **where)]


def test_a_stream_that_cannot_repeat_its_order_is_refused_in_the_middle():
    loader = DataLoader(Shuffling(), 4)
    assert len(values(loader, epoch=0)) == 6
    with pytest.raises(DataError, match="batch 2 of epoch 1: nothing says that Shuffling"):
        values(loader, epoch=1, start=2)


def test_a_stream_whose_order_follows_the_epoch_is_continued():
    whole = values(DataLoader(FollowsEpoch(), 4), epoch=5)
    assert values(DataLoader(FollowsEpoch(), 4), epoch=5, start=4) == whole[4:]
    assert values(DataLoader(FollowsEpoch(), 4), epoch=6) != whole


def streamed(**options: int) -> DataLoader:
    data = datasets.Dataset.from_dict({"x": list(range(SIZE))}).to_iterable_dataset()
    return DataLoader(data.shuffle(buffer_size=8, **options).with_format("torch"), 4)


def test_a_shuffle_buffer_is_continued_with_a_seed_and_refused_without():
    whole = read(streamed(seed=1), epoch=2)
    assert read(streamed(seed=1), epoch=2, start=3) == whole[3:]
    assert read(streamed(seed=1), epoch=3) != whole
    with pytest.raises(DataError, match=r"shuffled without a seed; use shuffle\(seed=\.\.\.\)"):
        read(streamed(), epoch=2, start=3)


class Stateful:
    """Counts its own position, as a ``StatefulDataLoader`` does."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while self.position < 5:
            self.position += 1
            yield {"x": torch.tensor([self.position])}
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def test_a_loader_with_a_state_keeps_its_own_position():
    loader = Stateful()
    iterator = iterate(loader, seed=0, epoch=0)
    next(iterator), next(iterator)
    resumed = Stateful()
    resumed.load_state_dict(loader.state_dict())
    assert keeps_state(resumed)
    assert read(resumed, epoch=0, start=2) == [{"x": [3]}, {"x": [4]}, {"x": [5]}]


@pytest.mark.parametrize("once", [iter([1]), (x for x in [1]), 5, None])
def test_what_can_be_read_only_once_is_refused(once: object):
    with pytest.raises(DataError, match="cannot be iterated anew"):
        iterate(once, seed=0, epoch=0)


def test_a_batch_that_cannot_be_shared_out_is_refused():
    for batch in ([1, 2], {"x": torch.zeros(2), "y": torch.zeros(3)}, {"x": torch.zeros(())}):
        with pytest.raises(DataError, match="cannot share"):
            next(iterate([batch], seed=0, epoch=0, world_size=2))
