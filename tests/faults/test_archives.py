"""Archives that reach out of their folder, or are larger than they look (row 15)."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from common.data.card import list_store
from common.data.hf_utils import download_dataset
from common.utils.errors import DataError
from common.utils.paths import get_assets_dir

pytest_plugins = ["common.testing.fixtures"]

CSV = b"text,label\nhello,0\nworld,1\n"


def zipped(name: str, content: bytes = CSV, mode: int | None = None) -> bytes:
    """An archive with an honest table and one more member."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.csv", CSV)
        member = zipfile.ZipInfo(name)
        member.compress_type = zipfile.ZIP_DEFLATED
        if mode is not None:
            member.create_system, member.external_attr = 3, mode << 16
        archive.writestr(member, content)
    return sink.getvalue()


def tarred(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = CSV) -> bytes:
    """The same as a compressed tar archive."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as archive:
        honest, member = tarfile.TarInfo("train.csv"), tarfile.TarInfo(name)
        honest.size = len(CSV)
        archive.addfile(honest, io.BytesIO(CSV))
        member.type, member.linkname = kind, link
        member.size = len(content) if kind == tarfile.REGTYPE else 0
        archive.addfile(member, io.BytesIO(content))
    return sink.getvalue()


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    ("ending", "archive"),
    [
        ("zip", lambda place: zipped("../../../../evil.csv")),
        ("zip", lambda place: zipped(str(place / "evil.csv"))),
        ("zip", lambda place: zipped("evil.csv", b"/etc/passwd", stat.S_IFLNK | 0o777)),
        ("tar.gz", lambda place: tarred("../../../../evil.csv")),
        ("tar.gz", lambda place: tarred(str(place / "evil.csv"))),
        ("tar.gz", lambda place: tarred("evil.csv", tarfile.SYMTYPE, "/etc/passwd")),
        ("tar.gz", lambda place: tarred("evil.csv", tarfile.LNKTYPE, "/etc/passwd")),
        ("tar.gz", lambda place: tarred("evil.csv", tarfile.CHRTYPE)),
        ("tar.gz", lambda place: tarred("evil.csv", tarfile.FIFOTYPE)),
    ],
    ids=["zip up", "zip root", "zip link", "up", "root", "link", "hard link", "device", "fifo"],
)
def test_a_member_that_reaches_out_makes_the_archive_refused(
    loopback_hub, tmp_path: Path, ending: str, archive
) -> None:
    loopback_hub.push("datasets/acme/evil", {f"data.{ending}": archive(tmp_path)})
    with pytest.raises(
        DataError, match=rf"acme/evil, data\.{ending} is refused: its member .*evil"
    ):
        download_dataset("acme/evil")
    assert_nothing_is_left(tmp_path)


@pytest.mark.fault(15)
@pytest.mark.parametrize("ending", ["zip", "tar.gz"])
def test_an_archive_that_unpacks_to_a_thousand_times_its_size_is_refused(
    loopback_hub, tmp_path: Path, ending: str
) -> None:
    zeros = bytes(100 << 20)
    archive = zipped("more.csv", zeros) if ending == "zip" else tarred("more.csv", content=zeros)
    assert len(archive) < 1 << 20
    loopback_hub.push("datasets/acme/bomb", {f"data.{ending}": archive})
    with pytest.raises(DataError, match=r"is refused: [\d,]+ bytes unpack to at least 104,8"):
        download_dataset("acme/bomb")
    assert_nothing_is_left(tmp_path)


@pytest.mark.fault(15)
@pytest.mark.parametrize("ending", ["zip", "tar.gz"])
def test_an_archive_cut_short_is_one_line(loopback_hub, tmp_path: Path, ending: str) -> None:
    archive = zipped("more.csv") if ending == "zip" else tarred("more.csv")
    loopback_hub.push("datasets/acme/cut", {f"data.{ending}": archive[: len(archive) // 2]})
    with pytest.raises(DataError, match=rf"acme/cut.*data\.{ending}|acme/cut cannot be read"):
        download_dataset("acme/cut")
    assert_nothing_is_left(tmp_path)


@pytest.mark.fault(15)
def test_an_honest_archive_is_read(loopback_hub) -> None:
    loopback_hub.push("datasets/acme/fine", {"data.zip": zipped("sub/train-2.csv")})
    assert len(download_dataset("acme/fine", split="train")) == 4


def assert_nothing_is_left(folder: Path) -> None:
    """Neither in the store nor anywhere else."""
    assert list_store("datasets") == []
    left = [path for path in get_assets_dir().rglob("*") if path.is_file()]
    assert [path for path in left if path.suffix != ".lock"] == []
    assert not list(folder.rglob("evil*"))
