"""The label orders in which Synapse is about, and how a copy tells its own: by the volumes of organs.

Two of the orders share all label values. What sets them apart beyond doubt is that one has the gallbladder at 2 and a
kidney at 4, the other a kidney at 2 and the gallbladder at 4; the liver lies at 5 in both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from dataset_conversion.label_map import LabelMap
from samora_pipeline.errors import DataError

ORDERS: Mapping[str, LabelMap] = {
    # The values of the raw label maps; kept by preprocessed copies with all 13 organs.
    "btcv": LabelMap(
        {
            "spleen": (1,),
            "right_kidney": (2,),
            "left_kidney": (3,),
            "gallbladder": (4,),
            "liver": (6,),
            "stomach": (7,),
            "aorta": (8,),
            "pancreas": (11,),
            "background": (0, 5, 9, 10, 12, 13),
        }
    ),
    # The table of the evaluation script of SAMed and H-SAM.
    "samed": LabelMap.numbered(
        "spleen", "right_kidney", "left_kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas"
    ),
    # The order of the columns of TransUNet's tables.
    "transunet": LabelMap(
        {
            "spleen": (7,),
            "right_kidney": (4,),
            "left_kidney": (3,),
            "gallbladder": (2,),
            "liver": (5,),
            "stomach": (8,),
            "aorta": (1,),
            "pancreas": (6,),
        }
    ),
}

ENOUGH_CASES = 3
"""Cases after which a clear ratio is taken for settled."""

# A kidney has four to ten times the volume of a gallbladder; a distended gallbladder may come close in one patient.
_CLEAR = 2.0


@dataclass(frozen=True)
class ToldOrder:
    """A label order and the sentence that says how it was found."""

    order: str
    why: str


def tell_order(counts: Iterable[tuple[str, Callable[[], Mapping[int, int]]]], where: str) -> ToldOrder:
    """Tell the label order from voxels per value of case after case, until the volumes are clear.

    ``counts`` yields a case's name and what counts its voxels; a case whose files are damaged is passed over.

    Raises:
        DataError: ``E-LABEL-11`` when the volumes fit no order, or two of them.
    """
    total: Counter[int] = Counter()
    seen: list[str] = []
    for name, count in counts:
        try:
            total.update(count())
        except DataError:
            continue
        seen.append(name)
        if len(seen) >= ENOUGH_CASES and (order := _fitting(total)):
            return ToldOrder(order, _why(order, total, seen, where))
    order = _fitting(total)
    if order is None:
        raise _undecided(total, seen, where)
    return ToldOrder(order, _why(order, total, seen, where))


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


def _why(order: str, total: Counter[int], seen: list[str], where: str) -> str:
    evidence = (
        "values up to 13 occur and 6 (liver) is the largest"
        if order == "btcv"
        else f"value 2 has {total[2]} voxels, value 4 has {total[4]}: the kidney is the larger one"
    )
    return f"label order {order} in {where}: {evidence} ({len(seen)} cases)"


def _undecided(total: Counter[int], seen: list[str], where: str) -> DataError:
    shown = ", ".join(f"{value}: {total[value]}" for value in sorted(total) if value)
    return DataError(
        "E-LABEL-11",
        f"the label order of {where} cannot be told from the volumes of its organs",
        found=f"voxels per value {shown or 'none'} in {len(seen)} readable cases",
        expected="5 (liver) the largest, and 2 and 4 (kidney and gallbladder) clearly different; or values up to 13",
        fix="say it with --label-order transunet, samed or btcv (samora_convert -d list  has their tables)",
    )
