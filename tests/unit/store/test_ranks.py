"""Who a process is: by argument, else by its launcher's variables, else alone."""

from __future__ import annotations

import pytest

from advlog_fast.store.ranks import rank_identity


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, (3, 8)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (1, 2)),
        ({"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "6"}, (5, 6)),
        ({"PMI_RANK": "2", "PMI_SIZE": "4"}, (2, 4)),
        ({"RANK": "3", "WORLD_SIZE": "8", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (3, 8)),
        ({"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "6", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (5, 6)),
        ({"PMI_RANK": "2", "PMI_SIZE": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, (2, 4)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "2"}, (1, 2)),
        ({"RANK": "3"}, (3, 4)),
        ({"RANK": "", "WORLD_SIZE": "2"}, (0, 2)),
        # Lightning's own launcher, on its first machine.
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1234"}, (1, 2)),
        ({"LOCAL_RANK": "1"}, (1, 2)),
        ({"LOCAL_RANK": "1", "NODE_RANK": "2", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "16"}, (9, 16)),
        # A batch script and an interactive step of SLURM, which no srun started, and a step of srun.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "4294967291", "SLURM_LOCALID": "0"}, (0, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEPID": "4294967290"}, (0, 1)),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"}, (3, 4)),
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
        (
            None,
            None,
            {"LOCAL_RANK": "1", "NODE_RANK": "1", "WORLD_SIZE": "4"},
            (
                "rank: expected RANK beside LOCAL_RANK and NODE_RANK, as torchrun sets it; Lightning's own launcher "
                "does not: pass rank=, got NoneType None"
            ),
        ),
        (None, None, {"RANK": "-1"}, "RANK: expected a number from 0 on in the environment, got int -1"),
    ],
)
def test_what_cannot_be_names_what_came(rank, world_size, environ, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole message is compared
        rank_identity(rank, world_size, environ)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("environ", "local_rank"),
    [
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "SLURM_LOCALID": "0"}, 1),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}, 1),
        ({"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "6", "OMPI_COMM_WORLD_LOCAL_RANK": "2"}, 2),
        ({"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0"}, 0),
        ({"RANK": "5", "WORLD_SIZE": "8"}, None),
        ({}, None),
    ],
)
def test_the_rank_on_this_host_is_known_where_the_launcher_says_it(environ, local_rank):
    assert rank_identity(None, None, environ).local_rank == local_rank


TORCHRUN = {
    "RANK": "0",
    "WORLD_SIZE": "8",
    "TORCHELASTIC_RUN_ID": "none",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RESTART_COUNT": "0",
}
SLURM = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0"}


def key(environ, **changed):
    return rank_identity(None, None, {**environ, **changed}).launch_key


@pytest.mark.parametrize(("environ", "rank"), [(TORCHRUN, "RANK"), (SLURM, "SLURM_PROCID")])
def test_every_rank_of_a_launch_has_its_key_after_a_restart_too(environ, rank):
    assert key(environ) == key(environ, **{rank: "3"}) == key(environ, TORCHELASTIC_RESTART_COUNT="1") is not None


@pytest.mark.parametrize(
    ("environ", "changed"),
    [
        (TORCHRUN, {"WORLD_SIZE": "4"}),
        (TORCHRUN, {"MASTER_PORT": "29501"}),
        (TORCHRUN, {"MASTER_ADDR": "node2"}),
        (TORCHRUN, {"TORCHELASTIC_RUN_ID": "mine"}),
        (TORCHRUN, {"SLURM_JOB_ID": "17"}),
        (SLURM, {"SLURM_JOB_ID": "18"}),
        (SLURM, {"SLURM_STEP_ID": "1"}),
        (SLURM, {"SLURM_RESTART_COUNT": "1"}),
    ],
)
def test_another_launch_has_another_key(environ, changed):
    assert key(environ) != key(environ, **changed)


def test_a_step_of_slurm_on_each_machine_is_one_launch_of_torchrun():
    assert key(TORCHRUN, SLURM_JOB_ID="1", SLURM_STEP_ID="0") == key(TORCHRUN, SLURM_JOB_ID="1", SLURM_STEP_ID="1")


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1", "::1"])
def test_a_local_address_names_this_machine_s_launch_only(address, monkeypatch):
    here = key(TORCHRUN, MASTER_ADDR=address)
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    assert key(TORCHRUN, MASTER_ADDR=address) != here
    assert key(TORCHRUN) == key(TORCHRUN)


def test_ranks_given_by_argument_are_one_launch_if_one_parent_started_them():
    first, second = (rank_identity(rank, 2, {}).launch_key for rank in (0, 1))
    assert first == second is not None
    assert rank_identity(0, 1, {}).launch_key is None
    assert rank_identity(None, None, {}).launch_key is None
