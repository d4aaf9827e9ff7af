"""Facts about the sinusoid table of section 3.5, and what positions do at their end."""

import math

import pytest
import torch

from common.models import LearnedPositions, SinusoidalPositions, sinusoidal_table
from common.utils.errors import DataError


def test_the_table_is_the_papers_formula_entry_by_entry() -> None:
    table = sinusoidal_table(60, 10)
    for position in (0, 1, 7, 59):
        for i in range(5):
            angle = position / 10000 ** (2 * i / 10)
            assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-7)
            assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-7)


def test_wavelengths_go_from_two_pi_towards_ten_thousand_times_two_pi() -> None:
    table = sinusoidal_table(7, 512).double()
    assert table[1, 0].item() == pytest.approx(math.sin(1.0), abs=1e-7)
    slowest = math.asin(table[1, 510].item())
    assert 2 * math.pi / slowest == pytest.approx(2 * math.pi * 10000 ** (510 / 512), rel=1e-5)


def test_a_shift_is_one_rotation_for_every_position() -> None:
    # PE(pos + k) is a linear function of PE(pos): the reason the paper gives for sinusoids.
    table = sinusoidal_table(100, 8).double().view(100, 4, 2)
    angle = 5 / 10000 ** (torch.arange(0, 8, 2) / 8).double()
    sine, cosine = table[:-5].unbind(-1)
    shifted = torch.stack(
        [
            sine * angle.cos() + cosine * angle.sin(),
            cosine * angle.cos() - sine * angle.sin(),
        ],
        dim=-1,
    )
    torch.testing.assert_close(shifted, table[5:], rtol=0, atol=1e-6)


def test_an_odd_width_ends_with_a_sine() -> None:
    assert sinusoidal_table(4, 5).shape == (4, 5)


def test_sinusoids_are_neither_trained_nor_saved_and_learned_positions_are() -> None:
    assert not SinusoidalPositions(4, 6).state_dict()
    assert LearnedPositions(4, 6).state_dict()["table"].shape == (4, 6)


@pytest.mark.parametrize("kind", [SinusoidalPositions, LearnedPositions])
def test_positions_start_where_they_are_told_and_refuse_to_pass_their_end(kind: type) -> None:
    positions = kind(6, 4)
    x = torch.zeros(2, 3, 4)
    assert torch.equal(positions(x, start=3)[0], positions.table[3:])
    with pytest.raises(DataError, match="7 tokens, but there are positions for 6"):
        positions(x, start=4)
