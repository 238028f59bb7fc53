"""Seeds that depend on what is drawn and not on when, and a record of the software that ran."""

import hashlib
import platform
import random
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RECORDED_PACKAGES = ("samora_pipeline", "torch", "numpy", "scipy", "segment-anything", "sam2", "batchgenerators")


def derived_seed(*parts: int | str) -> int:
    """Return a 63-bit seed from any parts, e.g. (seed, epoch, sample); equal parts give equal seeds everywhere."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_everything(*parts: int | str) -> None:
    """Seed Python's, NumPy's and torch's global generators from ``parts``."""
    import numpy as np
    import torch

    seed = derived_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def snapshot() -> dict[str, str]:
    """Versions of the packages that shape results, of Python, the platform and the commit (where there is one)."""
    record = {"python": platform.python_version(), "platform": platform.platform()}
    for package in RECORDED_PACKAGES:
        try:
            record[package] = version(package)
        except PackageNotFoundError:
            record[package] = "not installed"
    record["commit"] = _commit()
    return record


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return result.stdout.strip() or "unknown"
