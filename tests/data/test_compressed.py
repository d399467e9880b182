import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sfumato.data.compressed import SUFFIXES, Damaged, open_binary

CONTENT = os.urandom(300_000) + b"line\n" * 50_000  # larger than any buffer, one half of it incompressible


def zstd(content: bytes) -> bytes:
    return pytest.importorskip("zstandard").compress(content)


COMPRESS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_content_and_lines_come_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(COMPRESS[suffix](CONTENT))
    with open_binary(path) as handle:
        assert handle.read() == CONTENT
    with open_binary(path) as handle:
        assert b"".join(handle) == CONTENT


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_joined_end_to_end_read_as_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(COMPRESS[suffix](CONTENT) + COMPRESS[suffix](b"more"))
    with open_binary(path) as handle:
        assert handle.read() == CONTENT + b"more"


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
def test_a_truncated_file_is_an_error_and_never_a_shorter_text(tmp_path: Path, suffix: str, kept: float) -> None:
    path, packed = tmp_path / f"a{suffix}", COMPRESS[suffix](CONTENT)
    path.write_bytes(packed[: int(kept * len(packed))])
    with pytest.raises(Damaged, match=suffix), open_binary(path) as handle:
        handle.read()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_never_compressed_is_an_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    COMPRESS[suffix](b"")  # skips where the library is missing
    path.write_bytes(b"plain text " * 1000)
    with pytest.raises(Damaged, match=suffix), open_binary(path) as handle:
        handle.read()


def test_a_missing_file_stays_an_operating_system_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), open_binary(tmp_path / "none.gz"):
        pass
