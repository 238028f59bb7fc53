"""What planning says about scans that stand on both sides: copies under other names, patients shared between sides.

Planning only reports, because another fold may be clean; ``samora_train`` refuses to train on such a fold.
"""

from __future__ import annotations

from collections.abc import Mapping

from samora_pipeline.contracts.dataset import RawDataset
from samora_pipeline.contracts.fingerprint import CaseFingerprint, Fingerprint
from samora_pipeline.contracts.leakage import Leak, copies, protected_names, training_leaks
from samora_pipeline.contracts.splits import ALL, Splits

_SHOWN = 5


def copy_texts(cases: Mapping[str, CaseFingerprint]) -> list[str]:
    """A sentence for each scan that a dataset has under several names, whatever its files are called or look like."""
    return [
        f"the same scan under {len(names)} names: {', '.join(f'{name} ({cases[name].subset})' for name in names)}"
        for names in copies(cases)
    ]


def leak_notes(dataset: RawDataset, fingerprint: Fingerprint, splits: Splits) -> tuple[str, ...]:
    """A sentence for each fold whose training cases show a scan or a patient of its scored cases or of the test set."""
    notes = []
    for name, fold in splits.folds.items():
        if name == ALL:
            continue
        protected = protected_names(splits, fold, fingerprint.cases)
        leaks = training_leaks(fold.train, protected, fingerprint.cases, dataset.patient)
        if leaks:
            notes.append(
                f"fold {name} trains on {len(leaks)} cases that it must not know ({_shown(leaks)}); "
                "samora_train needs --exclude-leaks or --allow-leak for it"
            )
    return tuple(notes)


def _shown(leaks: tuple[Leak, ...]) -> str:
    more = f", and {len(leaks) - _SHOWN} more" if len(leaks) > _SHOWN else ""
    return "; ".join(leak.text for leak in leaks[:_SHOWN]) + more
