"""A witness's own keys: made on the first start, readable by nobody else, never replaced by themselves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from klyra_audit.errors import Halted
from klyra_audit.format.keys import ALGORITHM_COSIGNATURE, ALGORITHM_ML_DSA_44, SEED_SIZE, SigningKey

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_collector.seal.durable import Disk

_FILES = {ALGORITHM_COSIGNATURE: "witness.key", ALGORITHM_ML_DSA_44: "witness.mldsa"}
_OTHERS_MAY = 0o077


class WitnessKeyUnusable(Halted):
    """A key file of the witness is exposed, damaged or missing."""

    code = "witness_key_unusable"


def load_keys(disk: Disk, folder: Path, name: str, *, ml_dsa: bool, may_make: bool) -> list[SigningKey]:
    """Return the keys that a witness cosigns with, Ed25519 first.

    Args:
        disk: how files are made.
        folder: the witness's data directory.
        name: of the keys.
        ml_dsa: an ML-DSA-44 key too.
        may_make: draw keys that are not there yet; not where checkpoints were cosigned before, since a witness
            that has lost its key must be retired, not given another under the same name.

    Raises:
        WitnessKeyUnusable: names the file, and what to do.
    """
    wanted = [ALGORITHM_COSIGNATURE, *([ALGORITHM_ML_DSA_44] if ml_dsa else [])]
    keys = []
    for algorithm in wanted:
        path = folder / _FILES[algorithm]
        if not path.exists() and (may_make or algorithm == ALGORITHM_ML_DSA_44):
            disk.replace(path, os.urandom(SEED_SIZE), mode=0o600)
        keys.append(SigningKey.from_seed(name, _seed(path), algorithm))
    return keys


def _seed(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        seed = path.read_bytes()
    except OSError as error:
        raise WitnessKeyUnusable(
            f"{path} cannot be read: {error.strerror}.",
            remedy="Restore it from your backup; a witness without its key is retired and begun anew elsewhere.",
        ) from error
    if mode & _OTHERS_MAY:
        raise WitnessKeyUnusable(f"{path} can be read by others.", remedy=f"Run: chmod 600 {path}", code="key_exposed")
    if len(seed) != SEED_SIZE:
        raise WitnessKeyUnusable(
            f"{path} has {len(seed)} bytes, not {SEED_SIZE}.", remedy="Restore it from your backup."
        )
    return seed
