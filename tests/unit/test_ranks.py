"""Who a process is: by argument, else by its launcher's variables, else alone."""

from __future__ import annotations

import pytest

from advlog_fast.ranks import rank_identity


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, (3, 8)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (1, 2)),
        ({"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "6"}, (5, 6)),
        ({"PMI_RANK": "2", "PMI_SIZE": "4"}, (2, 4)),
        ({"RANK": "3", "WORLD_SIZE": "8", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (3, 8)),
        ({"RANK": "3"}, (3, 4)),
        ({"RANK": "", "WORLD_SIZE": "2"}, (0, 2)),
    ],
)
def test_the_launchers_variables_say_who_a_process_is(environ, found):
    identity = rank_identity(None, None, environ)
    assert (identity.rank, identity.world_size) == found


def test_an_argument_wins_over_the_launcher():
    identity = rank_identity(1, 2, {"RANK": "3", "WORLD_SIZE": "8"})
    assert (identity.rank, identity.world_size) == (1, 2)


def test_a_rank_alone_makes_the_world_large_enough():
    assert rank_identity(5, None, {}).world_size == 6


@pytest.mark.parametrize(
    ("rank", "world_size", "environ", "message"),
    [
        (2, 2, {}, "rank: expected a rank below the world size, 2, got int 2"),
        (None, None, {"RANK": "8", "WORLD_SIZE": "8"}, "rank: expected a rank below the world size, 8, got int 8"),
        (None, None, {"RANK": "one"}, "RANK: expected a number in the environment, got str 'one'"),
        (None, None, {"RANK": "-1"}, "RANK: expected a number from 0 on in the environment, got int -1"),
    ],
)
def test_what_cannot_be_names_what_came(rank, world_size, environ, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole message is compared
        rank_identity(rank, world_size, environ)
    assert str(raised.value) == message


def test_ranks_of_one_launch_share_a_key_and_another_launch_has_another():
    launch = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500", "TORCHELASTIC_RESTART_COUNT": "0"}
    first, second = (rank_identity(rank, 2, launch).launch_key for rank in (0, 1))
    restarted = rank_identity(0, 2, {**launch, "TORCHELASTIC_RESTART_COUNT": "1"}).launch_key
    assert first == second != restarted
    assert rank_identity(0, 2, {}).launch_key is None
