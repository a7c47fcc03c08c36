"""A small disk under the jobs of the real site's account. Fills nothing."""

from __future__ import annotations

import contextlib
import pwd
import shutil
import subprocess
from collections.abc import Iterator

from tests.real.slurm.site import ACCOUNT, RealSlurm


@contextlib.contextmanager
def small_disk(real: RealSlurm) -> Iterator[None]:
    """The jobs of the account lie on a disk of 64 KiB."""
    real.jobs.mkdir(parents=True, exist_ok=True)
    for folder in (real.jobs, real.jobs.parent):
        shutil.chown(folder, ACCOUNT, ACCOUNT)
    who, inside = pwd.getpwnam(ACCOUNT), f"/home/{ACCOUNT}/.farlab/jobs"
    options = f"size=64k,mode=700,uid={who.pw_uid},gid={who.pw_gid}"
    subprocess.run(real.view.inside("mount", "-t", "tmpfs", "-o", options, "tmpfs", inside), check=True)
    try:
        yield
    finally:
        subprocess.run(real.view.inside("umount", "--lazy", inside), check=True)
