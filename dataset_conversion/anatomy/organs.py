"""The eight labelled organs of the synthetic patient, in the order and with the values of the Synapse protocol."""

from __future__ import annotations

from dataset_conversion.anatomy.patient import Sampler
from dataset_conversion.anatomy.shapes import Ellipsoid, Point, Structure, tube

ORGANS = ("spleen", "right_kidney", "left_kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas")
SPLEEN, RIGHT_KIDNEY, LEFT_KIDNEY, GALLBLADDER, LIVER, STOMACH, AORTA, PANCREAS = range(1, 9)


def spleen(draw: Sampler) -> Structure:
    """A crescent against the wall behind the stomach; patchy in the arterial phase."""
    size = draw.around(1.0, 0.13)
    course: list[Point] = [(74, 66, 44), (98, 50, 48), (106, 24, 54), (96, -2, 58)]
    radii = [radius * size for radius in (18, 24, 23, 16)]
    uneven = 12 * (1 - draw.hu.phase)
    return Structure(
        "spleen",
        tube(draw.points(course, 6, 4), radii, stretch=draw.around(2.0, 0.15)),
        draw.hu.spleen,
        SPLEEN,
        roughness=2.5,
        halo=draw.halo * 0.6,
        texture=3 + uneven,
    )


def kidney(draw: Sampler, label: int) -> list[Structure]:
    """One kidney, chosen by its label: cortex, medulla, sinus fat, pelvis, vein, in every fourth a cyst."""
    side, name, base = (-1, "right kidney", -30.0) if label == RIGHT_KIDNEY else (1, "left kidney", -14.0)
    size = draw.around(1.0, 0.09)
    x, y, z = draw.place((side * 62, 46, base), 6)
    turn = side * draw.rng.normal(0.5, 0.15)
    lean = (-side * 0.18, -0.08)
    bean = Ellipsoid((x, y, z), (24 * size, 31 * size, 56 * size), yaw=turn, lean=lean)
    sinus = Ellipsoid(
        (x - side * 15 * size, y - 5 * size, z), (17 * size, 9.5 * size, 24 * size), yaw=turn * 0.6, lean=lean
    )
    pelvis = Ellipsoid((x - side * 17 * size, y - 4 * size, z - 4), (10, 4.5, 9), yaw=turn * 0.6)
    excreted = draw.rng.uniform(0, 30) if draw.rng.random() < 0.8 else draw.rng.uniform(200, 400)
    vein = tube([(x - side * 15 * size, y - 6, z + 4), *draw.points([(side * 20, 22, base + 6)], 2, 1)], [4.5, 5])
    found = [
        Structure(
            name,
            (bean,),
            draw.hu.cortex,
            label,
            roughness=2,
            halo=1 + 0.8 * draw.halo,
            rind=7.0,
            core_hu=draw.hu.medulla,
            texture=9,
        ),
        Structure("renal sinus", (sinus,), -75, roughness=2.5),
        Structure("renal pelvis", (pelvis,), excreted),
        Structure("renal vein", vein, draw.hu.cava + 20),
    ]
    if draw.rng.random() < 0.25:
        radius = draw.rng.uniform(5, 14)
        cyst = Ellipsoid(
            (x + side * 22 * size, y + draw.rng.normal(0, 12), z + draw.rng.normal(0, 22)), (radius, radius, radius)
        )
        found.append(Structure("renal cyst", (cyst,), draw.rng.uniform(0, 16), label=label))
    return found


def gallbladder(draw: Sampler) -> Structure:
    """A pear of bile with a thin wall on the underside of the liver."""
    size = draw.around(1.0, 0.1)
    radii = (draw.around(16 * size, 0.08), draw.around(20 * size, 0.1), draw.around(27 * size, 0.1))
    body = Ellipsoid(
        draw.place((-44, -45, -13), 6), radii, yaw=draw.rng.normal(0.3, 0.3), lean=(draw.rng.normal(0, 0.2), 0.25)
    )
    return Structure(
        "gallbladder",
        (body,),
        draw.hu.bile + 45,
        GALLBLADDER,
        roughness=1.5,
        rind=1.6,
        core_hu=draw.hu.bile,
        texture=3,
    )


def liver(draw: Sampler) -> list[Structure]:
    """Right lobe with its tip, left lobe and caudate lobe, their vessels, and lesions in every third patient."""
    big = draw.around(1.0, 0.07)
    lobe_left = draw.around(1.0, 0.22)
    right = Ellipsoid(draw.place((-66, -4, 43), 5), (60 * big, 78 * big, 82 * big), yaw=draw.rng.normal(0.1, 0.1))
    tip = Ellipsoid(draw.place((-88, 12, -14), 6), (27 * big, 44 * big, draw.around(50, 0.22)))
    reach = draw.rng.uniform(-6, 22)
    left = Ellipsoid(
        draw.place((reach - 16, -50, 52), 5),
        ((66 + reach * 0.5) * lobe_left, 31 * lobe_left, 44 * lobe_left),
        yaw=draw.rng.normal(0.12, 0.1),
        lean=(0.1, 0.1),
    )
    caudate = Ellipsoid(draw.place((-16, 4, 48), 3), (16, 17, 24))
    found = [
        Structure(
            "liver",
            (right, tip, left, caudate),
            draw.hu.liver,
            LIVER,
            blend=14,
            roughness=3,
            halo=draw.halo * 0.6,
            texture=4,
        )
    ]
    found.extend(_liver_vessels(draw))
    for _ in range(int(draw.rng.integers(1, 4)) if draw.rng.random() < 0.35 else 0):
        radius = draw.rng.uniform(4, 15)
        spot = Ellipsoid(draw.place((-70, 0, 35), 26), (radius, radius * 0.9, radius))
        density = draw.rng.choice([draw.rng.uniform(0, 18), draw.hu.liver - draw.rng.uniform(25, 50)])
        found.append(Structure("liver lesion", (spot,), float(density), label=None, within=LIVER))
    return found


def _liver_vessels(draw: Sampler) -> list[Structure]:
    hilum = draw.place((-36, -4, 34), 2)
    portal: list[list[Point]] = [
        [hilum, *draw.points([(-58, 6, 34), (-84, 18, 22)], 3, 4)],
        [hilum, *draw.points([(-60, -18, 44), (-86, -28, 56)], 3, 4)],
        [hilum, *draw.points([(-24, -28, 46), (0, -46, 52)], 3, 4)],
    ]
    root = draw.place((-28, 10, 84), 2)
    hepatic: list[list[Point]] = [
        [root, *draw.points([(-58, 20, 70), (-92, 28, 48)], 3, 5)],
        [root, *draw.points([(-48, -14, 66), (-64, -40, 40)], 3, 5)],
        [root, *draw.points([(-26, -20, 76), (-8, -44, 62)], 3, 5)],
    ]
    late = draw.hu.liver + (draw.hu.portal - draw.hu.liver) * max(draw.hu.phase - 0.3, 0)
    branches = [(line, draw.hu.portal) for line in portal] + [(line, late) for line in hepatic]
    return [Structure("liver vessel", tube(line, [6.5, 5, 3]), hu, label=None, within=LIVER) for line, hu in branches]


def stomach(draw: Sampler) -> Structure:
    """From the fundus under the left dome to the pylorus, filled with fluid, food or contrast agent, gas in front."""
    fill = draw.rng.uniform(0.72, 1.2)
    course: list[Point] = [(56, 12, 78), (66, -8, 55), (62, -36, 28), (40, -54, 6), (8, -52, -6), (-20, -40, -6)]
    radii = [draw.around(radius * fill, 0.1) for radius in (32, 33, 29, 22, 17, 12)]
    points = draw.points(course, 6, 5)
    content = draw.rng.choice(["fluid", "food", "contrast"], p=[0.4, 0.35, 0.25])
    densities = {"fluid": draw.rng.uniform(5, 30), "food": draw.rng.uniform(25, 65), "contrast": max(draw.hu.oral, 110)}
    front = min(point[1] - radius for point, radius in zip(points, radii, strict=True))
    return Structure(
        "stomach",
        tube(points, radii, stretch=1.1),
        draw.hu.wall,
        label=STOMACH,
        roughness=2.5,
        halo=draw.halo,
        rind=draw.around(4.5, 0.2) + 4 * (1.2 - fill),
        core_hu=densities[content],
        texture=22 if content == "food" else 6,
        gas_above=front + draw.rng.uniform(0.1, 0.5) * 60 * fill if draw.rng.random() < 0.75 else None,
        mottle=0.35 if content == "food" else 0.0,
    )


def pancreas(draw: Sampler) -> Structure:
    """Head beside the duodenum, body across the aorta, tail to the spleen; ragged and streaky in the obese."""
    course: list[Point] = [(-32, 2, -30), (-27, -6, -14), (-8, -17, -2), (20, -14, 5), (48, 4, 11), (78, 20, 20)]
    thick = draw.around(1.0, 0.13)
    radii = [draw.around(radius * thick, 0.07) for radius in (14.5, 15, 11, 12, 12.5, 11)]
    points = draw.points(course, 4, 4)
    return Structure(
        "pancreas",
        tube(points, radii, stretch=1.35),
        draw.hu.pancreas - 8 * draw.build.fat,
        label=PANCREAS,
        roughness=2.0 + 2.0 * draw.build.fat,
        halo=draw.halo * 0.8,
        texture=9 + 10 * draw.build.fat,
    )
