from __future__ import annotations

import threading

import pytest
import torch

from pixaff.stages.batch.executors import lanes

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_photos_share_the_threads_and_the_number_is_restored():
    together = threading.Barrier(4, timeout=60)

    def work(a, b):
        together.wait()  # passes only when four are at work at a time
        return a + b, torch.get_num_threads(), torch.is_inference_mode_enabled()

    with lanes(CPU) as (spread, at_a_time):
        assert at_a_time == 4
        found = spread(work, range(8), range(0, 80, 10))
    assert found == [(11 * i, 1, True) for i in range(8)]
    assert torch.get_num_threads() == 4


def test_a_single_photo_has_one_thread_too():
    """Its last bits must not depend on what is computed beside it."""
    with lanes(CPU) as (spread, _):
        assert spread(lambda a: (torch.get_num_threads(), torch.is_inference_mode_enabled()), [1]) == [(1, True)]


def test_cuda_gets_one_photo_after_the_other():
    with lanes(torch.device("cuda", 0)) as (spread, at_a_time):
        assert at_a_time == 1
        assert len(set(spread(lambda a: threading.get_ident(), range(4)))) == 1


def test_what_a_photo_raises_is_passed_on():
    with lanes(CPU) as (spread, _), pytest.raises(ZeroDivisionError):
        spread(lambda a: 1 // a, [1, 0])


def test_a_large_network_has_the_machine_to_itself():
    large = torch.nn.Linear(4000, 2500, device="meta")
    small = torch.nn.Linear(10, 10)
    with lanes(CPU, small, large) as (spread, at_a_time):
        assert at_a_time == 1
        assert spread(lambda a: torch.get_num_threads(), range(2)) == [4, 4]
    with lanes(CPU, small) as (_, at_a_time):
        assert at_a_time == 4
