"""What surrounds the labelled organs: bone, muscle, vessels and bowel, much of it of the same density as they are."""

from __future__ import annotations

import numpy as np

from dataset_conversion.anatomy.organs import AORTA
from dataset_conversion.anatomy.patient import Sampler
from dataset_conversion.anatomy.shapes import Ellipsoid, Point, Structure, tube


def spine(draw: Sampler) -> list[Structure]:
    """Eight vertebrae with discs, arches and the spinal canal."""
    hu = draw.rng.uniform(170, 240)
    size = draw.rng.uniform(0.92, 1.1)
    bone: list[Structure] = []
    start = draw.rng.uniform(-130, -95)
    x, y = draw.rng.normal(0, 2), 54 * draw.scale[1]
    for level in range(8):
        z = start + 34 * level
        body = Ellipsoid((x, y, z), (22 * size, 16.5 * size, 17.5))
        disc = Ellipsoid((x, y, z + 17), (20 * size, 15 * size, 4))
        bone.append(Structure("disc", (disc,), 85, confined=False))
        bone.append(Structure("vertebra", (body,), 380, rind=3.2, core_hu=hu, texture=30, confined=False))
        arch = y + 16 * size
        pedicles = tuple(Ellipsoid((x + side * 13 * size, arch, z + 4), (5, 10, 9)) for side in (-1, 1))
        process = Ellipsoid((x, arch + 27, z - 4), (3.8, 14, 12))
        wings = tuple(
            Ellipsoid((x + side * 27 * size, arch + 10, z + 2), (15, 4, 5), yaw=0.35 * side) for side in (-1, 1)
        )
        facets = tuple(Ellipsoid((x + side * 12 * size, arch + 12, z - 10), (6, 8, 12)) for side in (-1, 1))
        bone.append(Structure("arch", (*pedicles, process, *wings, *facets), 330, texture=40, confined=False))
    canal = tube([(x, y + 21 * size, -140), (x, y + 22 * size, 140)], [8.5, 8.5], steps=1)
    bone.append(Structure("canal", canal, 30, confined=False))
    return bone


def back_muscles(draw: Sampler) -> list[Structure]:
    """Psoas, diaphragmatic crus and the extensors of the back, both sides."""
    found = []
    for side in (-1, 1):
        psoas = tube(
            draw.points([(side * 26, 56, 25), (side * 33, 55, -20), (side * 41, 52, -110)], 1, 1.5),
            [5, draw.around(14, 0.12), draw.around(22, 0.12)],
        )
        found.append(Structure("psoas", psoas, draw.hu.muscle, confined=False))
        crus = tube(draw.points([(side * 16 + 4, 38, 110), (side * 15 + 4, 36, 20)], 1, 1), [5, 3])
        found.append(Structure("crus", crus, draw.hu.muscle))
        back = Ellipsoid(draw.place((side * 34, 80, 0), 1), (draw.around(27, 0.08), draw.around(16, 0.1), 400))
        found.append(Structure("erector", (back,), draw.hu.muscle - 4, confined=False, texture=8))
    return found


def great_vessels(draw: Sampler) -> list[Structure]:
    """Inferior vena cava and aorta (labelled, like an organ), with plaque in every third patient."""
    width = draw.around(10.2, 0.14)
    course: list[Point] = [(14, 36, 120), (9, 29, 60), (6, 25, 0), (4, 26, -60), (3, 28, -130)]
    aorta = tube(draw.points(course, 2.5, 2), [width * 1.1, width * 1.05, width, width * 0.92, width * 0.85])
    cava = tube(
        draw.points([(-24, 8, 110), (-25, 14, 60), (-25, 22, 0), (-22, 27, -60), (-20, 29, -130)], 3, 2),
        [draw.around(radius, 0.15) for radius in (13, 12, 11, 10.5, 10)],
    )
    calcified = draw.rng.random() < 0.35
    found = [
        Structure("cava", cava, draw.hu.cava, halo=draw.halo * 0.4, texture=6, confined=False),
        Structure("aorta", aorta, draw.hu.aorta, label=AORTA, halo=1.0 + draw.halo * 0.4, texture=3, confined=False),
    ]
    if calcified:
        place = aorta[int(draw.rng.integers(4, len(aorta) - 4))]
        spot = Ellipsoid((place.start[0] + width * 0.8, place.start[1], place.start[2]), (2, 4, 9))
        found.append(Structure("calcification", (spot,), 600, label=None, within=AORTA, confined=False))
    return found


def splanchnic_vessels(draw: Sampler) -> list[Structure]:
    """Portal, splenic and superior mesenteric veins and the superior mesenteric artery, around the pancreas."""
    confluence = draw.place((-10, -2, 0), 2)
    splenic = [confluence, *draw.points([(20, 0, 9), (48, 18, 14), (80, 30, 24)], 2, 2)]
    portal = [confluence, *draw.points([(-22, -4, 18), (-36, -4, 34)], 2, 2)]
    mesenteric = [confluence, *draw.points([(-10, -12, -40), (-4, -22, -110)], 2, 3)]
    artery = draw.points([(6, 14, 8), (5, -2, -14), (6, -16, -50), (8, -24, -110)], 2, 2)
    return [
        Structure("superior mesenteric vein", tube(mesenteric, [6.5, 5.5, 4]), draw.hu.portal, halo=draw.halo),
        Structure(
            "superior mesenteric artery", tube(artery, [4, 4.2, 3.8, 3]), draw.hu.aorta * 0.94, halo=1 + draw.halo
        ),
        Structure("splenic vein", tube(splenic, [6, 4.8, 4.2, 4]), draw.hu.portal),
        Structure("portal vein", tube(portal, [7, 7.5, 7]), draw.hu.portal, halo=draw.halo * 0.5),
    ]


def heart(draw: Sampler) -> Structure:
    """The lower end of the heart on the diaphragm."""
    ventricles = Ellipsoid(draw.place((24, -34, 128), 6), (56, 38, 40), yaw=0.4)
    return Structure(
        "heart", (ventricles,), draw.hu.muscle + 40, rind=9, core_hu=draw.hu.aorta * 0.9, halo=4, confined=False
    )


def oesophagus(draw: Sampler) -> Structure:
    """From beside the aorta to the cardia."""
    course = [*draw.points([(9, 24, 130), (14, 18, 90)], 2, 2), *draw.points([(30, 6, 66), (46, 0, 60)], 3, 2)]
    return Structure("oesophagus", tube(course, [7, 7.5, 8, 9]), draw.hu.wall - 8, halo=draw.halo * 0.5, texture=8)


def duodenum(draw: Sampler) -> Structure:
    """The C around the head of the pancreas, of about its density."""
    course: list[Point] = [
        (-24, -38, -8),
        (-42, -20, -10),
        (-50, 0, -24),
        (-50, 8, -50),
        (-30, 12, -66),
        (10, 4, -64),
        (34, -8, -40),
    ]
    radii = [draw.around(10.5, 0.18) for _ in course]
    core = draw.hu.oral if draw.rng.random() < 0.6 else draw.rng.uniform(20, 60)
    gas = draw.place((0, -8, 0), 8)[1] if draw.rng.random() < 0.3 else None
    loop = tube(draw.points(course, 4, 4), radii, steps=2)
    return Structure(
        "duodenum",
        loop,
        draw.hu.wall + 6,
        halo=draw.halo * 0.5,
        roughness=2,
        rind=4.5,
        core_hu=core,
        gas_above=gas,
    )


def large_bowel(draw: Sampler) -> list[Structure]:
    """Descending, ascending and transverse colon with stool and gas."""
    right: list[Point] = [(-92, 14, -130), (-94, 16, -80), (-90, 4, -48), (-70, -38, -44)]
    across: list[Point] = [(-70, -38, -44), (-30, -66, -46), (15, -70, -50), (58, -56, -22), (90, -18, 4)]
    left: list[Point] = [(96, -8, 10), (102, 22, -15), (98, 28, -60), (94, 26, -130)]
    found = []
    for course, width in ((left, 13.0), (right, 19.0), (across, 16.0)):
        radii = [draw.around(width, 0.2) for _ in course]
        points = draw.points(course, 5, 6)
        gas = draw.rng.random() < 0.65
        level = float(np.mean([point[1] for point in points])) + draw.rng.uniform(-12, 8)
        found.append(
            Structure(
                "colon",
                tube(points, radii),
                draw.hu.wall,
                roughness=4,
                halo=draw.halo * 0.5,
                rind=3.5,
                core_hu=draw.rng.uniform(10, 70),
                texture=25,
                gas_above=level if gas else None,
                mottle=draw.rng.uniform(0.2, 0.6),
            )
        )
    return found


def small_bowel(draw: Sampler) -> list[Structure]:
    """Loops, some collapsed; a few lie high on the left, between stomach, pancreas and kidney."""
    found = []
    for loop in range(int(draw.rng.integers(22, 32))):
        high = loop < 6
        middle = (
            (draw.rng.uniform(22, 78), draw.rng.uniform(-48, -8), draw.rng.uniform(-30, 8))
            if high
            else (draw.rng.uniform(-66, 78), draw.rng.uniform(-64, 16), draw.rng.uniform(-112, -36))
        )
        walk = np.cumsum(draw.rng.normal(0, (17, 14, 9), (4, 3)), axis=0)
        walk = (walk - walk.mean(axis=0) + middle) * draw.scale
        points = [(row[0], row[1], row[2]) for row in walk.tolist()]
        radius = draw.rng.uniform(9, 15)
        collapsed = draw.rng.random() < 0.35
        core = None if collapsed else draw.hu.oral + draw.rng.normal(0, 10)
        gas = middle[1] * draw.scale[1] - draw.rng.uniform(0, 8) if draw.rng.random() < 0.2 else None
        found.append(
            Structure(
                "small bowel",
                tube(points, [radius] * 4, steps=2),
                draw.hu.wall + draw.rng.normal(6, 8),
                roughness=2.5,
                halo=draw.halo * 0.6,
                rind=4.0,
                core_hu=core,
                texture=12,
                gas_above=gas,
            )
        )
    return found


def mesentery(draw: Sampler) -> list[Structure]:
    """Small vessels in the fat between the loops."""
    found = []
    for _ in range(14):
        start = np.array([draw.rng.uniform(-50, 60), draw.rng.uniform(-50, 10), draw.rng.uniform(-110, 0)])
        end = start + draw.rng.normal(0, (12, 12, 16))
        ends = [(row[0], row[1], row[2]) for row in (np.stack([start, end]) * draw.scale).tolist()]
        found.append(Structure("mesenteric vessel", tube(ends, [2.6, 2.2], steps=1), draw.hu.portal, label=None))
    return found
