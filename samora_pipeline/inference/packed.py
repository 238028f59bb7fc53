"""A packed model (FILE.zip of samora_export) used as it is: checked as samora_import does, unpacked for one command."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from samora_pipeline.exported.install import install, verify

_ENDING = ".zip"


@contextmanager
def unpacked(model: str | None, *, allow_code: bool = False) -> Iterator[str | None]:
    """Yield what ``-m`` names, a packed model as a run folder that is there for so long.

    Raises:
        AssetError, DataError: a packed model is refused, see ``exported.install.verify``.
    """
    if model is None or not model.lower().endswith(_ENDING) or Path(model).is_dir():
        yield model
        return
    verified = verify(Path(model), allow_code=allow_code)
    with TemporaryDirectory(prefix="samora_model_") as folder:
        target = Path(folder) / verified.place
        install(verified, target)
        yield str(target)
