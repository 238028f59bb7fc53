"""The label orders in which Synapse is distributed, and how that of a copy is found: by the volumes of organs.

Two of the orders share all label values. They are distinguished by the gallbladder, at 2 in one and at 4 in the other,
and a kidney, at 4 in the one and at 2 in the other; the liver is at 5 in both.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from dataset_conversion.scans import LabelMap
from samora_pipeline.errors import DataError

ORGANS = ("spleen", "right_kidney", "left_kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas")
"""The eight organs of Synapse, in the order of their labels."""


def _order(*values: int, background: tuple[int, ...] = ()) -> LabelMap:
    """The label map of an order in which the organs have these ``values``."""
    organs = {organ: (value,) for organ, value in zip(ORGANS, values, strict=True)}
    return LabelMap({**organs, "background": background} if background else organs)


ORDERS: Mapping[str, LabelMap] = {
    # The values of the raw label maps; kept by preprocessed copies with all 13 organs.
    "btcv": _order(1, 2, 3, 4, 6, 7, 8, 11, background=(0, 5, 9, 10, 12, 13)),
    # The table of the evaluation script of SAMed and H-SAM.
    "samed": _order(1, 2, 3, 4, 5, 6, 7, 8),
    # The order of the columns of TransUNet's tables.
    "transunet": _order(7, 4, 3, 2, 5, 8, 1, 6),
}

ENOUGH_CASES = 3
"""Cases after which a clear ratio is taken for settled."""

# A kidney has four to ten times the volume of a gallbladder; a distended gallbladder may come close in one patient.
_CLEAR = 2.0


@dataclass(frozen=True)
class FoundOrder:
    """A label order and the sentence that says how it was found."""

    order: str
    why: str


def find_order(counts: Iterable[Callable[[], Mapping[int, int]]], where: str) -> FoundOrder:
    """Find the label order from voxels per value of case after case, until the volumes are clear.

    ``counts`` yields what counts the voxels of a case; a case whose files are damaged is passed over.

    Raises:
        DataError: ``E-LABEL-11`` when the volumes fit no order, or two of them.
    """
    total: Counter[int] = Counter()
    seen = 0
    for count in counts:
        try:
            total.update(count())
        except DataError:
            continue
        seen += 1
        if seen >= ENOUGH_CASES and _fitting(total):
            break
    order = _fitting(total)
    if order is None:
        shown = ", ".join(f"{value}: {total[value]}" for value in sorted(total) if value)
        raise DataError("E-LABEL-11", where=where, found=f"voxels per value {shown or 'none'} in {seen} readable cases")
    evidence = (
        "values up to 13 occur and 6 (liver) is the largest"
        if order == "btcv"
        else f"value 2 has {total[2]} voxels, value 4 has {total[4]}: the kidney is the larger one"
    )
    return FoundOrder(order, f"label order {order} in {where}: {evidence} ({seen} cases)")


def _fitting(total: Counter[int]) -> str | None:
    organs = Counter({value: count for value, count in total.items() if value})
    if not organs or max(organs) > 13:
        return None
    largest = organs.most_common(1)[0][0]
    if max(organs) > 8:
        return "btcv" if largest == 6 else None
    if largest != 5:
        return None
    second, fourth = organs[2], organs[4]
    if second >= _CLEAR * fourth and second:
        return "samed"
    return "transunet" if fourth >= _CLEAR * second and fourth else None
