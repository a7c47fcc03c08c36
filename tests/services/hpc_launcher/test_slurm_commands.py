"""What the forced command takes Slurm's words for: an outage is waited for, a refusal ends the start.

Against Slurm itself: `tests/real/slurm`.
"""

from __future__ import annotations

import pytest

from services.hpc_launcher.login_node import farlab_slurm

WORDS = {
    "Unable to contact slurm controller (connect failure)": "scheduler-away",
    "Unexpected message received for job 7": "scheduler-away",
    "slurm_receive_msg: Zero Bytes were transmitted or received": "scheduler-away",
    "Socket timed out on send/recv operation": "scheduler-away",
    "Batch job submission failed: Invalid account or account/partition combination specified": "refused",
    "Batch job submission failed: Requested node configuration is not available": "refused",
    "error: If munged is up, restart with --num-threads=10; Munge encode failed": "authentication",
    "slurm_kill_job error: Invalid job id specified": "no-such-job",
}


@pytest.mark.parametrize(("said", "kind"), WORDS.items(), ids=WORDS)
def test_words_on_standard_error_tell_an_outage_from_a_refusal(said: str, kind: str) -> None:
    with pytest.raises(farlab_slurm.RefusedError) as refused:
        farlab_slurm.slurm(["sh", "-c", 'echo "$0" >&2; exit 1', said])
    assert (refused.value.code, refused.value.reason) == (kind, said)


def test_a_refusal_without_a_word_names_the_command() -> None:
    with pytest.raises(farlab_slurm.RefusedError, match="sh ended with 3"):
        farlab_slurm.slurm(["sh", "-c", "exit 3"])
