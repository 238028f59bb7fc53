"""The three levels of self-supervision and their order (SAMora, section 3.2 and Fig. 3)."""

from enum import StrEnum


class Level(StrEnum):
    """What an expert learned from: the whole image, patches of it, or single pixels.

    The order of definition is the hierarchy from high to low; HL-Attn takes the higher level as the query.
    """

    IMAGE = "image"
    PATCH = "patch"
    PIXEL = "pixel"


LEVELS: tuple[Level, ...] = tuple(Level)
