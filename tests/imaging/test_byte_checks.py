import gzip
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from samora_pipeline.errors import DataError
from samora_pipeline.imaging.byte_checks import ZLIB_WINDOW, inflate

GENERATOR = np.random.default_rng(4)
# More than one piece of 256 KiB on both sides of the stream.
CONTENT = GENERATOR.integers(0, 40, 1_500_000).astype(np.uint8).tobytes()
PATH = Path("scan.nii.gz")


@pytest.mark.parametrize("window", [31, ZLIB_WINDOW])
def test_long_streams_equal_zlibs_one_shot(window: int) -> None:
    stream = gzip.compress(CONTENT, 1) if window == 31 else zlib.compress(CONTENT, 1)
    assert len(stream) > 1 << 19
    assert inflate(PATH, stream, len(CONTENT), window).tobytes() == zlib.decompress(stream, window)


@pytest.mark.parametrize("cut", [0, 1, 700_000, 1_499_999, 1_500_000])
def test_members_wherever_one_ends(cut: int) -> None:
    stream = gzip.compress(CONTENT[:cut]) + gzip.compress(CONTENT[cut:]) + b"\0" * 300_000
    assert inflate(PATH, stream, len(CONTENT)).tobytes() == CONTENT


def test_each_way_to_be_wrong_is_named() -> None:
    stream = gzip.compress(CONTENT)
    middle = len(stream) // 2
    flipped = bytearray(stream)
    flipped[-6] ^= 1
    for damaged, claimed, found in (
        (stream[:middle], len(CONTENT), "end after"),
        (stream[:-1], len(CONTENT), "end without their checksum, after 1,500,000 of 1,500,000"),
        (bytes(flipped), len(CONTENT), "incorrect data check"),
        (stream + b"\0" * 300_000 + b"x", len(CONTENT), "300,001 foreign bytes"),
        (stream + b"x", len(CONTENT), "1 foreign bytes"),
        (stream, len(CONTENT) - 1, "more than the 1,499,999 bytes"),
        (stream, len(CONTENT) + 1, "1,500,000 decoded bytes, 1,500,001 claimed"),
        (stream + stream, len(CONTENT), "more than the 1,500,000 bytes"),
        (b"", 10, "end after 0 of 10"),
    ):
        with pytest.raises(DataError) as caught:
            inflate(PATH, damaged, claimed)
        assert caught.value.code == "E-IMG-02"
        assert found in caught.value.found


def test_a_stream_that_holds_more_than_its_header_claims_costs_no_memory(tmp_path: Path) -> None:
    """300 MB of zeros behind a claim of 1 MB: refused before more than a few pieces were decoded."""
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(300 << 20), 1))
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from samora_pipeline.imaging.byte_checks import inflate\n"
        "path = Path(sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: inflate(path, path.read_bytes(), 1 << 20)\n"
        "except Exception as error: print(error.code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "bomb.gz")], capture_output=True, text=True, check=True
    )
    code, kilobytes = result.stdout.split()
    assert code == "E-IMG-02"
    assert int(kilobytes) < 20_000
