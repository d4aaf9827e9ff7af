"""Samples far from the centre of their label are listed, the farthest first."""

import csv
from pathlib import Path

import torch

from common.losses import SubcenterArcFace
from projects.product_matching.core.items.items import Items
from projects.product_matching.core.noise import FILE, write_far_samples


def test_the_mislabelled_sample_is_listed_with_its_angle(tmp_path: Path) -> None:
    loss = SubcenterArcFace(3, 3, num_centers=2)
    # Each label has its own axis as the first centre and the next label's as the second.
    axes = torch.eye(3)
    with torch.no_grad():
        loss.centers.copy_(torch.stack([axes[i] for i in (0, 1, 1, 2, 2, 0)]))
    labels = [0, 0, 0, 1, 1, 1, 2, 2, 2]
    embeddings = axes[labels] + 0.1
    embeddings[4] = axes[2] + 0.02  # item 4 says 1 and looks like 2
    names = tuple(f"item {row}" for row in range(9))
    blank = ("",) * 9
    items = Items(names, blank, tuple(map(str, labels)), None, blank, "made up")
    assert write_far_samples(tmp_path, loss, embeddings, items, labels) == 1
    with open(tmp_path / FILE, encoding="utf-8", newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["item"], line["label"]) == ("item 4", "1")
    cosine = torch.nn.functional.cosine_similarity(embeddings[4], axes[1], dim=0)
    assert abs(float(line["degrees"]) - float(cosine.acos().rad2deg())) < 0.01
