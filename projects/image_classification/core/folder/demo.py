"""Photos to try everything with, without a network: scikit-learn's digits as PNG files.

1,797 grey images of 8 x 8 pixels, as they are: enlarged they would hold nothing more.
"""

from pathlib import Path

from projects.image_classification.core.folder.stored_folder import unpack_dataset

DEMO = "embedded/digits"


def write_demo(directory: Path) -> Path:
    """Write the digits to ``directory/raw/0 ... 9``; once, a second call finds them there.

    Returns:
        ``directory / "raw"``, as ``splitting.split_dataset`` takes it. ``own_test.txt`` beside it
        lists the 15% that are ``embedded/digits``' own test split.

    Raises:
        DataError: if ``raw`` holds something else.
        FaultError: if it cannot be written.
    """
    return unpack_dataset(DEMO, Path(directory))
