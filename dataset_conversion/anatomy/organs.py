"""What lies in the synthetic patient: the eight organs of Synapse with its label values, and what surrounds them.

The surroundings (bone, muscle, vessels, bowel) have in good part the density of the organs. Reference points are
written for the patient that ``patient.Sampler`` scales to the drawn one.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dataset_conversion.anatomy.patient import Sampler, curve
from dataset_conversion.anatomy.shapes import Ellipsoid, Point, Structure, Tube

SPLEEN, RIGHT_KIDNEY, LEFT_KIDNEY, GALLBLADDER, LIVER, STOMACH, AORTA, PANCREAS = range(1, 9)


def everything(draw: Sampler) -> Iterator[Structure]:
    """All that lies inside the wall, in painting order: later structures push earlier ones aside."""
    for part in (_muscles, _spine, _colon, _small_bowel, _great_vessels, _gut, _liver):
        yield from part(draw)
    yield _spleen(draw)
    for label, side, base in ((RIGHT_KIDNEY, -1, -30.0), (LEFT_KIDNEY, 1, -14.0)):
        yield from _kidney(draw, label, side, base)


def heart(draw: Sampler) -> Structure:
    """The lower end of the heart on the diaphragm."""
    ventricles = draw.ball((24, -34, 128), (56, 38, 40), 6, yaw=0.4)
    return Structure((ventricles,), draw.hu["muscle"] + 40, rind=9, core=draw.hu["aorta"] * 0.9, halo=4, rigid=True)


def _muscles(draw: Sampler) -> Iterator[Structure]:
    """Psoas, diaphragmatic crus and the extensors of the back, both sides."""
    muscle = draw.hu["muscle"]
    for side in (-1, 1):
        psoas = [(side * 26, 56, 25), (side * 33, 55, -20), (side * 41, 52, -110)]
        yield Structure((draw.tube(psoas, [5, 14, 22], (1, 1.5, 0.1)),), muscle, rigid=True)
        yield Structure((draw.tube([(side * 16 + 4, 38, 110), (side * 15 + 4, 36, 20)], [5, 3], (1, 1, 0)),), muscle)
        back = draw.ball((side * 34, 80, 0), (draw.around(27, 0.08), draw.around(16, 0.1), 400), 1)
        yield Structure((back,), muscle - 4, texture=8, rigid=True)


def _spine(draw: Sampler) -> Iterator[Structure]:
    """Eight vertebrae with discs, arches and the spinal canal."""
    marrow, size, start = draw.rng.uniform(170, 240), draw.rng.uniform(0.92, 1.1), draw.rng.uniform(-130, -95)
    x, y = draw.rng.normal(0, 2), 54 * draw.scale[1]
    for z in start + 34 * np.arange(8):
        arch = y + 16 * size
        yield Structure((Ellipsoid((x, y, z + 17), (20 * size, 15 * size, 4)),), 85, rigid=True)
        body = Ellipsoid((x, y, z), (22 * size, 16.5 * size, 17.5))
        yield Structure((body,), 380, rind=3.2, core=marrow, texture=30, rigid=True)
        parts = [Ellipsoid((x, arch + 27, z - 4), (3.8, 14, 12))]
        for side in (-1, 1):
            parts.append(Ellipsoid((x + side * 13 * size, arch, z + 4), (5, 10, 9)))
            parts.append(Ellipsoid((x + side * 27 * size, arch + 10, z + 2), (15, 4, 5), yaw=0.35 * side))
            parts.append(Ellipsoid((x + side * 12 * size, arch + 12, z - 10), (6, 8, 12)))
        yield Structure(tuple(parts), 330, texture=40, rigid=True)
    yield Structure((Tube(((x, y + 21 * size, -140), (x, y + 22 * size, 140)), (8.5, 8.5)),), 30, rigid=True)


def _colon(draw: Sampler) -> Iterator[Structure]:
    """Descending, ascending and transverse colon with stool and gas."""
    courses: list[tuple[float, list[Point]]] = [
        (13, [(96, -8, 10), (102, 22, -15), (98, 28, -60), (94, 26, -130)]),
        (19, [(-92, 14, -130), (-94, 16, -80), (-90, 4, -48), (-70, -38, -44)]),
        (16, [(-70, -38, -44), (-30, -66, -46), (15, -70, -50), (58, -56, -22), (90, -18, 4)]),
    ]
    for width, course in courses:
        tube = draw.tube(course, [width] * len(course), (5, 6, 0.2))
        level = float(np.mean(tube.points, axis=0)[1]) + draw.rng.uniform(-12, 8)
        gas = level if draw.rng.random() < 0.65 else None
        core, mottle, halo = draw.rng.uniform(10, 70), draw.rng.uniform(0.2, 0.6), draw.halo * 0.5
        yield Structure(
            (tube,), draw.hu["wall"], rind=3.5, core=core, texture=25, rough=4, halo=halo, gas=gas, mottle=mottle
        )


def _small_bowel(draw: Sampler) -> Iterator[Structure]:
    """Loops, some collapsed, a few high on the left between stomach, pancreas and kidney; vessels of the mesentery."""
    rng = draw.rng
    for loop in range(int(rng.integers(22, 32))):
        low, high = ((22, -48, -30), (78, -8, 8)) if loop < 6 else ((-66, -64, -112), (78, 16, -36))
        middle = rng.uniform(low, high)
        walk = np.cumsum(rng.normal(0, (17, 14, 9), (4, 3)), axis=0)
        course = ((walk - walk.mean(axis=0) + middle) * draw.scale).tolist()
        tube = curve(course, [rng.uniform(9, 15)] * 4)
        wall, halo = draw.hu["wall"] + rng.normal(6, 8), draw.halo * 0.6
        core = None if rng.random() < 0.35 else draw.hu["oral"] + rng.normal(0, 10)
        gas = middle[1] * draw.scale[1] - rng.uniform(0, 8) if rng.random() < 0.2 else None
        yield Structure((tube,), wall, rind=4, core=core, texture=12, rough=2.5, halo=halo, gas=gas)
    for start in rng.uniform((-50, -50, -110), (60, 10, 0), (14, 3)):
        ends = np.stack([start, start + rng.normal(0, (12, 12, 16))]) * draw.scale
        yield Structure((curve(ends.tolist(), [2.6, 2.2], steps=1),), draw.hu["portal"], label=None)


def _great_vessels(draw: Sampler) -> Iterator[Structure]:
    """Inferior vena cava and aorta (labelled, like an organ), with plaque in every third patient."""
    hu, halo = draw.hu, draw.halo * 0.4
    width = draw.around(10.2, 0.14)
    course: list[Point] = [(14, 36, 120), (9, 29, 60), (6, 25, 0), (4, 26, -60), (3, 28, -130)]
    aorta = draw.tube(course, [width * part for part in (1.1, 1.05, 1, 0.92, 0.85)], (2.5, 2, 0))
    course = [(-24, 8, 110), (-25, 14, 60), (-25, 22, 0), (-22, 27, -60), (-20, 29, -130)]
    cava = draw.tube(course, [13, 12, 11, 10.5, 10], (3, 2, 0.15))
    yield Structure((cava,), hu["cava"], texture=6, halo=halo, rigid=True)
    yield Structure((aorta,), hu["aorta"], AORTA, texture=3, halo=1 + halo, rigid=True)
    if draw.rng.random() < 0.35:
        x, y, z = aorta.points[int(draw.rng.integers(2, len(aorta.points) - 2))]
        plaque = Ellipsoid((x + width * 0.8, y, z), (2, 4, 9))
        yield Structure((plaque,), 600, label=None, within=AORTA, rigid=True)


def _gut(draw: Sampler) -> Iterator[Structure]:
    """Duodenum, the veins and the artery around the pancreas, oesophagus, stomach and pancreas."""
    hu, halo, fat, rng = draw.hu, draw.halo, draw.build["fat"], draw.rng
    loop: list[Point] = [(-24, -38, -8), (-42, -20, -10), (-50, 0, -24), (-50, 8, -50), (-30, 12, -66)]
    loop += [(10, 4, -64), (34, -8, -40)]
    core = hu["oral"] if rng.random() < 0.6 else rng.uniform(20, 60)
    gas = rng.normal(-8, 8) if rng.random() < 0.3 else None
    duodenum = (draw.tube(loop, [10.5] * 7, (4, 4, 0.18)),)
    yield Structure(duodenum, hu["wall"] + 6, rind=4.5, core=core, rough=2, halo=halo * 0.5, gas=gas)
    confluence = draw.points([(-10, -2, 0)], 2)
    vessels: list[tuple[float, list[float], list[Point]]] = [
        (halo, [6.5, 5.5, 4], [(-10, -12, -40), (-4, -22, -110)]),
        (0.0, [6, 4.8, 4.2, 4], [(20, 0, 9), (48, 18, 14), (80, 30, 24)]),
        (halo * 0.5, [7, 7.5, 7], [(-22, -4, 18), (-36, -4, 34)]),
    ]
    for apart, radii, course in vessels:
        yield Structure((curve(confluence + draw.points(course, 2, 2), radii),), hu["portal"], halo=apart)
    artery = draw.tube([(6, 14, 8), (5, -2, -14), (6, -16, -50), (8, -24, -110)], [4, 4.2, 3.8, 3], (2, 2, 0))
    yield Structure((artery,), hu["aorta"] * 0.94, halo=1 + halo)
    oesophagus = draw.tube([(9, 24, 130), (14, 18, 90), (30, 6, 66), (46, 0, 60)], [7, 7.5, 8, 9], (2, 2, 0))
    yield Structure((oesophagus,), hu["wall"] - 8, texture=8, halo=halo * 0.5)
    yield _stomach(draw)
    course = [(-32, 2, -30), (-27, -6, -14), (-8, -17, -2), (20, -14, 5), (48, 4, 11), (78, 20, 20)]
    thick = draw.around(1.0, 0.13)
    radii = [thick * radius for radius in (14.5, 15, 11, 12, 12.5, 11)]
    # Ragged and streaky in the obese.
    pancreas = (draw.tube(course, radii, (4, 4, 0.07), stretch=1.35),)
    density = hu["pancreas"] - 8 * fat
    yield Structure(pancreas, density, PANCREAS, texture=9 + 10 * fat, rough=2 + 2 * fat, halo=halo * 0.8)


def _stomach(draw: Sampler) -> Structure:
    """From the fundus under the left dome to the pylorus, filled with fluid, food or contrast agent, gas in front."""
    rng, fill = draw.rng, draw.rng.uniform(0.72, 1.2)
    course: list[Point] = [(56, 12, 78), (66, -8, 55), (62, -36, 28), (40, -54, 6), (8, -52, -6), (-20, -40, -6)]
    tube = draw.tube(course, [fill * radius for radius in (32, 33, 29, 22, 17, 12)], (5, 5, 0.1), stretch=1.1)
    front = min(point[1] - radius for point, radius in zip(tube.points, tube.radii, strict=True))
    fluid, food, contrast = rng.uniform(5, 30), rng.uniform(25, 65), max(draw.hu["oral"], 110)
    core = float(rng.choice([fluid, food, contrast], p=[0.4, 0.35, 0.25]))
    texture, mottle = (22, 0.35) if core == food else (6, 0.0)
    rind = draw.around(4.5, 0.2) + 4 * (1.2 - fill)
    gas = front + rng.uniform(0.1, 0.5) * 60 * fill if rng.random() < 0.75 else None
    filled = Structure((tube,), draw.hu["wall"], STOMACH, rind=rind, core=core, texture=texture, mottle=mottle)
    return replace(filled, rough=2.5, halo=draw.halo, gas=gas)


def _liver(draw: Sampler) -> Iterator[Structure]:
    """Both lobes, tip and caudate lobe, their vessels, lesions in every third patient; the gallbladder below."""
    hu, rng = draw.hu, draw.rng
    big, small, reach = draw.around(1.0, 0.07), draw.around(1.0, 0.18), rng.uniform(-6, 20)
    lobes = (
        draw.ball((-66, -4, 43), (60 * big, 78 * big, 82 * big), 5, rng.normal(0.1, 0.1)),
        draw.ball((-88, 12, -14), (27 * big, 44 * big, draw.around(50, 0.22)), 6),
        draw.ball((reach - 16, -50, 52), ((66 + reach / 2) * small, 31 * small, 44 * small), 5, 0.12, (0.1, 0.1)),
        draw.ball((-16, 4, 48), (16, 17, 24), 3),
    )
    yield Structure(lobes, hu["liver"], LIVER, texture=4, rough=3, halo=draw.halo * 0.6, blend=14)
    late = hu["liver"] + (hu["portal"] - hu["liver"]) * max(hu["phase"] - 0.3, 0)
    portal, veins = draw.points([(-36, -4, 34)], 2), draw.points([(-28, 10, 84)], 2)
    branches: list[tuple[list[Point], float, Point, Point]] = [
        (portal, hu["portal"], (-58, 6, 34), (-84, 18, 22)),
        (portal, hu["portal"], (-60, -18, 44), (-86, -28, 56)),
        (portal, hu["portal"], (-24, -28, 46), (0, -46, 52)),
        (veins, late, (-58, 20, 70), (-92, 28, 48)),
        (veins, late, (-48, -14, 66), (-64, -40, 40)),
        (veins, late, (-26, -20, 76), (-8, -44, 62)),
    ]
    for root, density, *course in branches:
        vessel = curve(root + draw.points(course, 3, 5), [6.5, 5, 3])
        yield Structure((vessel,), density, label=None, within=LIVER)
    for _ in range(int(rng.integers(1, 4)) if rng.random() < 0.35 else 0):
        radius = rng.uniform(4, 15)
        density = rng.uniform(0, 18) if rng.random() < 0.5 else hu["liver"] - rng.uniform(25, 50)
        lesion = draw.ball((-70, 0, 35), (radius, radius * 0.9, radius), 26)
        yield Structure((lesion,), density, label=None, within=LIVER)
    size = draw.around(1.0, 0.1)
    radii = (draw.around(16 * size, 0.08), draw.around(20 * size, 0.1), draw.around(27 * size, 0.1))
    pear = draw.ball((-44, -45, -13), radii, 6, rng.normal(0.3, 0.3), (rng.normal(0, 0.2), 0.25))
    yield Structure((pear,), hu["bile"] + 45, GALLBLADDER, rind=1.6, core=hu["bile"], texture=3, rough=1.5)


def _spleen(draw: Sampler) -> Structure:
    """A crescent against the wall behind the stomach; patchy in the arterial phase."""
    size = draw.around(1.0, 0.13)
    course: list[Point] = [(74, 66, 44), (98, 50, 48), (106, 24, 54), (96, -2, 58)]
    crescent = draw.tube(course, [size * radius for radius in (18, 24, 23, 16)], (6, 4, 0), draw.around(2.0, 0.15))
    patchy = 15 - 12 * draw.hu["phase"]
    return Structure((crescent,), draw.hu["spleen"], SPLEEN, texture=patchy, rough=2.5, halo=draw.halo * 0.6)


def _kidney(draw: Sampler, label: int, side: int, base: float) -> Iterator[Structure]:
    """One kidney: cortex, medulla, sinus fat, pelvis, vein, in every fourth a cyst."""
    hu, rng, size = draw.hu, draw.rng, draw.around(1.0, 0.09)
    x, y, z = draw.points([(side * 62, 46, base)], 6)[0]
    turn, lean = side * rng.normal(0.5, 0.15), (-side * 0.18, -0.08)
    hilum = x - side * 15 * size
    bean = Ellipsoid((x, y, z), (24 * size, 31 * size, 56 * size), turn, lean)
    halo = 1 + 0.8 * draw.halo
    yield Structure((bean,), hu["cortex"], label, rind=7, core=hu["medulla"], texture=9, rough=2, halo=halo)
    sinus = Ellipsoid((hilum, y - 5 * size, z), (17 * size, 9.5 * size, 24 * size), turn * 0.6, lean)
    yield Structure((sinus,), -75, rough=2.5)
    excreted = rng.uniform(0, 30) if rng.random() < 0.8 else rng.uniform(200, 400)
    yield Structure((Ellipsoid((hilum - side * 2, y - 4 * size, z - 4), (10, 4.5, 9), turn * 0.6),), excreted)
    vein = curve([(hilum, y - 6, z + 4), *draw.points([(side * 20, 22, base + 6)], 2, 1)], [4.5, 5])
    yield Structure((vein,), hu["cava"] + 20)
    if rng.random() < 0.25:
        place = (x + side * 22 * size, y + rng.normal(0, 12), z + rng.normal(0, 22))
        cyst = Ellipsoid(place, (rng.uniform(5, 14),) * 3)
        yield Structure((cyst,), rng.uniform(0, 16), label)
