"""Bodies by index, wherever extensions and holds have put them."""

from __future__ import annotations

from klyra_audit.format import frame
from klyra_collector.verify.copies_bodies import OPEN_FILES, BodiesByIndex
from support.ledgers import small_ledger


def frames() -> list[frame.BodyFrame]:
    """Return some bodies."""
    return sorted((body for listed in small_ledger().bodies.values() for body in listed), key=lambda body: body.index)


def write(path, bodies) -> object:
    """Write a file of frames."""
    path.write_bytes(b"".join(map(frame.encode_body, bodies)))
    return path


def test_every_body_is_found_in_any_order(tmp_path) -> None:
    """One file a body, more files than are kept open, and read back and forth."""
    bodies = frames() * 3
    bodies = [frame.BodyFrame(n, b.sections, b.salts, b.commitments) for n, b in enumerate(bodies)]
    assert len(bodies) > OPEN_FILES
    paths = [write(tmp_path / str(body.index), [body]) for body in bodies]
    with BodiesByIndex(paths, len(bodies)) as found:
        for body in (*bodies, *reversed(bodies)):
            assert found.at(body.index).sections == body.sections


def test_an_older_body_behind_newer_ones(tmp_path) -> None:
    """As an EXTEND leaves them."""
    bodies = frames()
    path = write(tmp_path / "frames", [*bodies[2:], *bodies[:2]])
    with BodiesByIndex([path], 100) as found:
        assert [found.at(body.index).index for body in bodies] == [body.index for body in bodies]


def test_what_is_not_there(tmp_path) -> None:
    """No file, a body that is gone, one beyond the end, and damage."""
    bodies = frames()
    path = write(tmp_path / "frames", bodies)
    content = bytearray(path.read_bytes())
    content[5] ^= 1  # in the header of the first one
    path.write_bytes(content)
    with BodiesByIndex([tmp_path / "none", path, tmp_path], bodies[-1].index) as found:
        assert found.at(bodies[0].index) is None
        assert found.at(bodies[1].index) is not None
        assert found.at(0) is None


def test_a_file_that_goes_meanwhile(tmp_path) -> None:
    """An expiry may unlink a file between two looks."""
    bodies = frames()
    path = write(tmp_path / "frames", bodies)
    with BodiesByIndex([path], 100) as found:
        path.unlink()
        assert found.at(bodies[0].index) is None
