"""What the program measures: an offset of all tokens counts in the first number alone."""

from __future__ import annotations

import pytest
import torch

from benchmarks.token_growth import spread


def test_an_offset_grows_the_spread_of_all_tokens_but_not_that_within_a_slice() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(4, 8, 8, 16)
    offset = 30 * torch.randn(16)
    before, after = spread(tokens), spread(tokens + offset)
    assert after[0] > 10 * before[0]
    assert after[1] == pytest.approx(before[1], rel=1e-4)


def test_what_differs_between_slices_alone_is_not_within_one() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(4, 1, 1, 16).expand(4, 8, 8, 16)
    assert spread(tokens)[1] == pytest.approx(0.0, abs=1e-6)
