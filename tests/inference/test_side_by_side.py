"""Slices worked on side by side: the order, the bound, the threads, and what is raised."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from samora_pipeline.inference.side_by_side import side_by_side


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    late = threading.Event()

    def square(number: int) -> int:
        # The first item ends after the second one, which only another worker can have begun.
        if workers > 1 and number == 0:
            assert late.wait(10)
        if number == 1:
            late.set()
        return number**2

    assert list(side_by_side(square, range(9), workers)) == [number**2 for number in range(9)]


def test_threads_are_divided_among_the_workers_and_given_back() -> None:
    own = list(side_by_side(lambda _: (threading.current_thread(), torch.get_num_threads()), range(6), 2))
    assert {threads for _, threads in own} == {2}
    assert threading.main_thread() not in {thread for thread, _ in own}
    assert torch.get_num_threads() == 4


def test_one_worker_works_in_the_calling_thread() -> None:
    assert set(side_by_side(lambda _: threading.current_thread(), range(3), 1)) == {threading.main_thread()}


def test_items_are_drawn_only_as_they_are_needed() -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            drawn.append(number)
            yield number

    results = side_by_side(lambda number: number, items(), 2)
    assert next(results) == 0
    assert len(drawn) == 4
    results.close()
    assert len(drawn) == 4
    assert torch.get_num_threads() == 4


def test_an_error_is_raised_at_its_turn() -> None:
    def fail_at_two(number: int) -> int:
        if number == 2:
            raise RuntimeError("two")
        return number

    results = side_by_side(fail_at_two, range(6), 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(RuntimeError, match="two"):
        next(results)
    assert torch.get_num_threads() == 4
