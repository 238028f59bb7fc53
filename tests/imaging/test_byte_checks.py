import gzip
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from samora_pipeline.errors import DataError
from samora_pipeline.imaging.byte_checks import DamagedError, HeaderError, check_claim, inflate, reading

GENERATOR = np.random.default_rng(4)
# More than one piece of 256 KiB on both sides of the stream.
CONTENT = GENERATOR.integers(0, 40, 1_500_000).astype(np.uint8).tobytes()


@pytest.mark.parametrize("window", [31, 15])
def test_long_streams_equal_zlibs_one_shot(window: int) -> None:
    stream = gzip.compress(CONTENT, 1) if window == 31 else zlib.compress(CONTENT, 1)
    assert len(stream) > 1 << 19
    assert inflate(stream, len(CONTENT), window) == zlib.decompress(stream, window)


@pytest.mark.parametrize("cut", [0, 1, 700_000, 1_499_999, 1_500_000])
def test_members_wherever_one_ends(cut: int) -> None:
    stream = gzip.compress(CONTENT[:cut]) + gzip.compress(CONTENT[cut:]) + b"\0" * 300_000
    assert inflate(stream, len(CONTENT)) == CONTENT


def test_each_way_to_be_wrong_is_named() -> None:
    stream = gzip.compress(CONTENT)
    middle = len(stream) // 2
    flipped = bytearray(stream)
    flipped[-6] ^= 1
    for damaged, claimed, found in (
        (stream[:middle], len(CONTENT), "stop without their end or checksum after"),
        (stream[:-1], len(CONTENT), "stop without their end or checksum after 1,500,000 of 1,500,000"),
        (bytes(flipped), len(CONTENT), "incorrect data check"),
        (stream + b"\0" * 300_000 + b"x", len(CONTENT), "stop without"),
        (stream + b"foreign", len(CONTENT), "incorrect header check"),
        (stream, len(CONTENT) - 1, "more than the 1,499,999 bytes"),
        (stream, len(CONTENT) + 1, "after 1,500,000 of 1,500,001"),
        (stream + stream, len(CONTENT), "more than the 1,500,000 bytes"),
        (b"", 10, "after 0 of 10"),
    ):
        with pytest.raises((DamagedError, zlib.error), match=found):
            inflate(damaged, claimed)


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (DamagedError("cut"), "E-IMG-02"),
        (zlib.error("cut"), "E-IMG-02"),
        (RuntimeError("cut"), "E-IMG-02"),
        (HeaderError("cut", "whole"), "E-IMG-03"),
        (DataError("E-PATH-01", root="here"), "E-PATH-01"),
    ],
)
def test_errors_of_readers_are_given_the_path(tmp_path: Path, raised: Exception, code: str) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(b"")
    with pytest.raises(DataError) as caught, reading(path, RuntimeError):
        raise raised
    assert caught.value.code == code
    if code != "E-PATH-01":
        assert str(path) in caught.value.found
        assert "cut" in caught.value.found
    with pytest.raises(ValueError, match="a bug"), reading(path, RuntimeError):
        raise ValueError("a bug")
    with pytest.raises(DataError) as absent, reading(tmp_path / "absent.nii"):
        pass
    assert absent.value.code == "E-IMG-01"


def test_a_claim_beyond_the_file_or_the_limit_is_refused() -> None:
    check_claim(1032 * 10, 10, compressed=True)
    for claimed, compressed in ((1033 * 10, True), (11, False)):
        with pytest.raises(DamagedError):
            check_claim(claimed, 10, compressed)
    with pytest.raises(HeaderError):
        check_claim(9 << 30, 9 << 30, compressed=False)


def test_a_stream_that_holds_more_than_its_header_claims_costs_no_memory(tmp_path: Path) -> None:
    """300 MB of zeros behind a claim of 1 MB: refused before more than a few pieces were decoded."""
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(300 << 20), 1))
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from samora_pipeline.imaging.byte_checks import inflate\n"
        "path = Path(sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: inflate(path.read_bytes(), 1 << 20)\n"
        "except Exception as error: print(type(error).__name__)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "bomb.gz")], capture_output=True, text=True, check=True
    )
    code, kilobytes = result.stdout.split()
    assert code == "DamagedError"
    assert int(kilobytes) < 20_000
