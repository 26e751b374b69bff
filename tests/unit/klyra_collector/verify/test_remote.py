from __future__ import annotations

import http.server
import itertools
import shutil
import socketserver
import threading
import time
import tracemalloc
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from klyra_audit.format import checkpoint, merkle, note
from klyra_audit.format import policy as policies
from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.keys import ALGORITHM_COSIGNATURE, SigningKey
from klyra_audit.format.leaf import Kind
from klyra_audit.format.merkle import HASH_SIZE
from klyra_audit.format.policy import LogLine, Policy, Witness, render
from klyra_collector.publish.tiles import export_tiles
from klyra_collector.verify.errors import CannotVerify
from klyra_collector.verify.remote import RemoteOptions, verify_url
from klyra_collector.verify.remote_client import Address, LogClient
from klyra_collector.verify.report import Witnessed
from klyra_collector.verify.tiles import tile_root
from klyra_collector.verify.verdicts import Verdict
from support.ledgers import ORIGIN, LedgerBuilder, large_ledger, put, signing_key
from support.published import chained, policy_text, publishing_api, write_leaves, write_published

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_collector.verify.report import Report

PINNED = policies.parse(policy_text())
SIZE = 705  # of the ledger that most tests here read
WITNESSED = 1_771_000_000  # seconds


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves a static tree, as any web server would; `answers` replaces single answers by (status, content)."""

    answers: dict[str, list[tuple[int, bytes]]]
    asked: list[tuple[str, str | None]]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer a request."""
        self.asked.append((self.path, self.headers.get("Authorization")))
        waiting = self.answers.get(self.path)
        if not waiting:
            super().do_GET()
            return
        status, content = waiting.pop(0)
        self.send_response(status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Site:
    """A log on a web server, whose files can be changed."""

    def __init__(self, root: Path, url: str, handler: type[Files]) -> None:
        self.root = root
        self.url = f"{url}/log"
        self.handler = handler

    def verify(self, **options: object) -> Report:
        """Verify it, pinned unless told otherwise, a moment after the witnesses of these tests have seen it."""
        given = {"policy": PINNED, "sleep": lambda _: None, "now_us": (WITNESSED + 1) * 1_000_000}
        return verify_url(self.url, RemoteOptions(**given | options))

    def path(self, name: str) -> Path:
        """Return a file of the log."""
        (found,) = (self.root / "log").glob(name)
        return found

    def spoil(self, name: str, at: int = 0) -> None:
        """Change one bit of a file."""
        path = self.path(name)
        content = bytearray(path.read_bytes())
        content[at] ^= 1
        path.write_bytes(content)


@contextmanager
def site_of(builder: LedgerBuilder, folder: Path) -> Iterator[Site]:
    """Export a ledger and serve it."""
    shard = write_published(builder, folder / "data").current()
    export_tiles(shard, folder / "site/log", lambda _done, _total: None)
    with serving(folder / "site") as site:
        yield site


@contextmanager
def serving(root: Path) -> Iterator[Site]:
    """Serve a folder on a free port."""
    handler = type("Handler", (Files,), {"answers": {}, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *given: handler(*given, directory=str(root)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield Site(root, f"http://127.0.0.1:{server.server_address[1]}", handler)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def dripping(sent: bytes) -> Iterator[int]:
    """Run a server that sends something at once, and then a byte at a time for ever; yield its port."""

    class Drip(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            with suppress(OSError):
                self.request.sendall(sent)
                while True:
                    self.request.sendall(b"a")
                    time.sleep(0.001)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Drip) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A log of three tiles."""
    with site_of(large_ledger(SIZE - 5), tmp_path) as running:
        yield running


def verdicts(report: Report) -> dict[Verdict, int]:
    """Return what was found, without what is as it should be."""
    return {verdict: count for verdict, count in report.shards[0].counts.items() if not verdict.is_good and count}


class TestIntact:
    """What is as it was signed is said to be intact, and no more than that."""

    def test_a_published_log_is_verified(self, site: Site) -> None:
        """Signature, tiles, leaves and chains; the report says what was not looked at."""
        report = site.verify()
        shard = report.shards[0]
        assert (report.exit_status, report.verdict, report.pinned) == (0, Verdict.OK, True)
        assert (shard.origin, shard.size, shard.counts[Verdict.OK]) == (ORIGIN, SIZE, SIZE)
        assert "bodies and control documents are not published" in shard.notes[0]
        assert shard.first_us is not None
        assert shard.last_us is not None
        assert shard.key == signing_key().vkey

    @pytest.mark.parametrize("size", [1, 255, 256, 257, 512])
    def test_a_log_of_any_size_is_verified(self, tmp_path: Path, size: int) -> None:
        """Also where there is no partial tile, or nothing but one."""
        builder = large_ledger(600)
        builder.leaves = builder.leaves[:size]
        with site_of(builder, tmp_path) as running:
            assert running.verify().shards[0].counts[Verdict.OK] == size

    def test_a_log_of_three_levels_is_verified(self, tmp_path: Path) -> None:
        """Full tiles above the leaves too, which are checked against the tile above them."""
        shard = write_leaves(tmp_path / "data", 70_000, chained())
        export_tiles(shard, tmp_path / "site/log", lambda _done, _total: None)
        with serving(tmp_path / "site") as running:
            report = running.verify()
            # these leaves have no POLICY record before them, which is said of each, and nothing else is
            assert verdicts(report) == {Verdict.PLAN_MISMATCH: 70_000}
            running.spoil("tile/1/000", 40)
            assert verdicts(running.verify()) == {Verdict.ROOT_MISMATCH: 65_536}

    def test_without_a_pinned_key_nothing_is_proved(self, site: Site) -> None:
        """The server's own word for its keys is enough to see that it is consistent, and no more."""
        folder = site.root / ".well-known/klyra-audit"
        folder.mkdir(parents=True)
        (folder / "policy").write_bytes(policy_text())
        report = site.verify(policy=None)
        assert (report.exit_status, report.pinned, report.verdict) == (2, False, Verdict.OK)
        assert site.verify(policy=None, require_pinned=False).exit_status == 0

    def test_it_goes_on_from_an_archived_checkpoint(self, site: Site) -> None:
        """Any size the log once had, at the edge of a tile or not."""
        builder = large_ledger(SIZE - 5)
        for size in (1, 256, 300, 512, SIZE):
            report = site.verify(earlier=builder.checkpoint(size))
            assert report.exit_status == 0
            assert f"continues the earlier checkpoint of {size} records" in report.shards[0].notes[-1]

    def test_progress_is_told(self, site: Site) -> None:
        """Tile by tile."""
        told: list[tuple[str, str, int, int]] = []
        site.verify(progress=lambda *step: told.append(step))
        assert told[-1] == (ORIGIN, "leaves", 3, 3)


class TestBroken:
    """What is not as it was signed is found, and named."""

    @pytest.mark.parametrize(
        ("name", "at", "verdict", "count"),
        [
            ("checkpoint", -3, Verdict.BAD_SIGNATURE, 1),
            ("tile/1/000.p/2", 3, Verdict.ROOT_MISMATCH, SIZE),
            ("tile/0/002.p/193", 3, Verdict.ROOT_MISMATCH, SIZE),
            ("tile/0/001", 3, Verdict.ROOT_MISMATCH, 256),
            ("tile/entries/001", 114 * 7 + 2 + 90, Verdict.ALTERED, 1),
            ("tile/entries/001", 0, Verdict.ALTERED, 256),
            ("tile/entries/002.p/193", -1, Verdict.ALTERED, 1),
        ],
    )
    def test_a_changed_bit_is_found(self, site: Site, name: str, at: int, verdict: Verdict, count: int) -> None:
        """In any file; only what rests on it is condemned, and chains are followed past it."""
        site.spoil(name, at)
        report = site.verify()
        assert report.exit_status == 1
        assert verdicts(report) == {verdict: count}
        finding = report.shards[0].findings[0]
        assert finding.file is not None
        assert finding.file.removesuffix(".p/193") in ("checkpoint", "tile", *(name, name.removesuffix(".p/193")))

    @pytest.mark.parametrize("name", ["tile/1/000.p/2", "tile/0/000", "tile/entries/002.p/193"])
    def test_a_missing_or_short_file_is_found(self, site: Site, name: str) -> None:
        """What the checkpoint covers must be there, whole."""
        path = site.path(name)
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        assert not site.verify().verdict.is_good
        path.write_bytes(content + b"\0")
        longer = site.verify()
        path.unlink()
        for report in (longer, site.verify()):
            assert (report.exit_status, Verdict.MISSING in verdicts(report)) == (1, True)

    def test_a_broken_chain_is_found(self, tmp_path: Path) -> None:
        """Hashes and root are right, and the collector left a record of an organization out."""
        builder = large_ledger(300)
        builder.leaf(0, "org_acme", bytes(32), org_seq=10**6, expire_day=20_531)
        with site_of(builder, tmp_path) as running:
            assert verdicts(running.verify()) == {Verdict.ORG_CHAIN: 1}

    def test_a_fork_and_a_rollback_are_found(self, site: Site) -> None:
        """A checkpoint that was archived is what the operator cannot take back."""
        other = checkpoint.sign(Checkpoint(ORIGIN, 300, b"\x01" * 32), signing_key())
        assert verdicts(site.verify(earlier=other)) == {Verdict.FORK: 300}
        newer = checkpoint.sign(Checkpoint(ORIGIN, SIZE + 5, b"\x01" * 32), signing_key())
        assert verdicts(site.verify(earlier=newer)) == {Verdict.ROLLBACK: 5}

    def test_an_earlier_checkpoint_under_a_damaged_tile_cannot_be_compared(self, site: Site) -> None:
        """It is not said to be a fork, nor to be none."""
        site.spoil("tile/0/001")
        report = site.verify(earlier=large_ledger(SIZE - 5).checkpoint(300))
        assert verdicts(report) == {Verdict.ROOT_MISMATCH: 256, Verdict.UNVERIFIABLE: 1}

    def test_another_key_is_not_believed(self, site: Site) -> None:
        """Nothing is read of a log that the pinned key did not sign."""
        other = Policy((LogLine(signing_key(b"\x21" * 32).verifying_key),))
        report = site.verify(policy=policies.parse(render(other).encode()))
        assert verdicts(report) == {Verdict.BAD_SIGNATURE: 1}
        assert [path for path, _ in site.handler.asked] == ["/log/checkpoint"]

    def test_a_quorum_that_has_not_cosigned_is_said(self, site: Site) -> None:
        """Intact by the log's key alone is not what the policy asks for."""
        witness = Witness(SigningKey.from_seed("witness.test/w1", b"\x0b" * 32, ALGORITHM_COSIGNATURE).verifying_key)
        report = site.verify(policy=Policy(PINNED.logs, {"w1": witness}, {}, "w1"))
        assert (report.exit_status, verdicts(report)) == (2, {Verdict.UNVERIFIABLE: 1})

    def test_witnesses_that_are_trusted_are_named(self, site: Site) -> None:
        """A cosigned head is witnessed by the reader's own policy, never by the server's word."""
        cosigner = SigningKey.from_seed("witness.test/w1", b"\x0b" * 32, ALGORITHM_COSIGNATURE)
        trusted = Policy(PINNED.logs, {"w1": Witness(cosigner.verifying_key)}, {}, "w1")
        path = site.path("checkpoint")
        text = path.read_bytes().decode().rpartition("\n\n")[0] + "\n"
        path.write_bytes(note.append_lines(path.read_bytes(), [cosigner.signature_line(text, WITNESSED)]))
        report = site.verify(policy=trusted)
        assert (report.exit_status, report.is_witnessed) == (0, True)
        assert report.shards[0].witnessed == Witnessed(SIZE, WITNESSED)
        folder = site.root / ".well-known/klyra-audit"
        folder.mkdir(parents=True)
        (folder / "policy").write_text(render(trusted))
        assert not site.verify(policy=None).is_witnessed

    def witnessing(self, size: int, time: int = WITNESSED) -> tuple[Policy, bytes]:
        """Return a policy with a witness, and a head of some size that the witness cosigned."""
        cosigner = SigningKey.from_seed("witness.test/w1", b"\x0b" * 32, ALGORITHM_COSIGNATURE)
        signed = large_ledger(size).checkpoint(size)
        text = signed.decode().rpartition("\n\n")[0] + "\n"
        policy = Policy(PINNED.logs, {"w1": Witness(cosigner.verifying_key)}, {}, "w1")
        return policy, note.append_lines(signed, [cosigner.signature_line(text, time)])

    def test_what_was_cosigned_may_lie_behind_the_newest_head(self, site: Site) -> None:
        """A busy log signs each second and is cosigned each minute: it must go on from there."""
        policy, cosigned = self.witnessing(SIZE - 5)
        (site.root / "log/witnessed").write_bytes(cosigned)
        report = site.verify(policy=policy)
        assert report.exit_status == 0
        assert report.shards[0].witnessed == Witnessed(SIZE - 5, WITNESSED)

    def test_a_newest_head_that_does_not_go_on_from_there_is_a_fork(self, site: Site) -> None:
        """Whoever signed it, another history was shown to the witnesses."""
        policy, _ = self.witnessing(SIZE - 5)
        cosigner = SigningKey.from_seed("witness.test/w1", b"\x0b" * 32, ALGORITHM_COSIGNATURE)
        other = Checkpoint(ORIGIN, 300, b"\x01" * 32)
        signed = checkpoint.sign(other, signing_key())
        (site.root / "log/witnessed").write_bytes(
            note.append_lines(signed, [cosigner.signature_line(other.text(), WITNESSED)])
        )
        assert verdicts(site.verify(policy=policy)) == {Verdict.FORK: 300}
        larger = Checkpoint(ORIGIN, SIZE + 3, b"\x01" * 32)
        signed = checkpoint.sign(larger, signing_key())
        (site.root / "log/witnessed").write_bytes(
            note.append_lines(signed, [cosigner.signature_line(larger.text(), WITNESSED)])
        )
        assert verdicts(site.verify(policy=policy)) == {Verdict.ROLLBACK: 3}
        (site.root / "log/witnessed").write_bytes(signed.replace(b"A", b"B"))
        assert verdicts(site.verify(policy=policy)) == {Verdict.BAD_SIGNATURE: 1}

    def test_a_cosignature_of_long_ago_is_said(self, site: Site) -> None:
        """A server that shows an old state hides what came since, unless the reader asks how old it is."""
        policy, cosigned = self.witnessing(SIZE - 5)
        (site.root / "log/witnessed").write_bytes(cosigned)
        later = (WITNESSED + 3_601) * 1_000_000
        assert site.verify(policy=policy, now_us=later).exit_status == 0
        stale = site.verify(policy=policy, now_us=later, max_witness_age=3_600)
        assert (stale.exit_status, verdicts(stale)) == (1, {Verdict.STALE_WITNESS: 1})
        assert verdicts(site.verify(policy=policy, now_us=None)) == {Verdict.STALE_WITNESS: 1}

    def test_a_closed_shard_gets_no_newer(self, tmp_path: Path) -> None:
        """It is asked for by name, and ends with SHARD: nothing comes after that; the newest log must be new."""
        builder = large_ledger(20)
        following = {"next_origin": "klyra-audit.test/collector-1/2027", "next_vkey": signing_key().vkey}
        builder.control(Kind.SHARD, {"role": "close", **following})
        cosigner = SigningKey.from_seed("witness.test/w1", b"\x0b" * 32, ALGORITHM_COSIGNATURE)
        policy = Policy(PINNED.logs, {"w1": Witness(cosigner.verifying_key)}, {}, "w1")
        with site_of(builder, tmp_path) as running:
            signed = running.path("checkpoint").read_bytes()
            text = signed.decode().rpartition("\n\n")[0] + "\n"
            signed = note.append_lines(signed, [cosigner.signature_line(text, WITNESSED)])
            running.path("checkpoint").write_bytes(signed)
            shutil.copytree(running.root / "log", running.root / "log/collector-1/2026")
            assert verdicts(running.verify(policy=policy, now_us=None)) == {Verdict.STALE_WITNESS: 1}
            running.url += "/collector-1/2026"
            assert running.verify(policy=policy, now_us=None).exit_status == 0

    @pytest.mark.parametrize(
        ("path", "shown"),
        [
            ("log/collector-1/2026", True),
            ("mirror/collector-1/2026", True),
            ("log/klyra-audit.test/collector-1/2026", True),
            ("log/collector-1/2025", False),
            ("log/collector-2/2026", False),
            ("log/2026/log/collector-1/2025", False),
            ("mirror", False),
        ],
    )
    def test_another_log_than_the_url_names_is_not_verified(self, site: Site, path: str, *, shown: bool) -> None:
        """It is signed by the same key, and intact, and not what was asked for."""
        (site.root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(site.root / "log", site.root / path, ignore=lambda *_: {"collector-1", "collector-2"})
        site.url = f"{site.url.removesuffix('/log')}/{path}"
        report = site.verify()
        assert report.exit_status == (0 if shown else 2)
        if not shown:
            assert verdicts(report) == {Verdict.UNVERIFIABLE: 1}
            assert f"the server shows {ORIGIN}" in report.shards[0].findings[0].reason
            assert len(site.handler.asked) == 1

    def test_a_claim_of_many_records_costs_no_memory(self, tmp_path: Path) -> None:
        """Four small files: 2^32 records, of which the server shows 256 hashes of level 3."""
        hashes = [number.to_bytes(HASH_SIZE) for number in range(1, 257)]
        root = tile_root(b"".join(hashes))
        for name, content in {
            "checkpoint": checkpoint.sign(Checkpoint(ORIGIN, 1 << 32, root), signing_key()),
            "tile/4/000.p/1": root,
            "tile/3/000": b"".join(hashes),
        }.items():
            put(tmp_path / "log" / name, content)
        with serving(tmp_path) as running:
            tracemalloc.start()
            try:
                report = running.verify()
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert len(running.handler.asked) < 3_000
        assert (report.exit_status, report.shards[0].counts[Verdict.OK]) == (1, 0)
        assert "the rest was not looked at" in report.shards[0].notes[-1]
        assert peak < 64 * 1024 * 1024

    @pytest.mark.parametrize("size", [0, 1 << 33])
    def test_a_head_of_an_impossible_size_is_not_followed(self, tmp_path: Path, size: int) -> None:
        """It would take memory and time from whoever believes it."""
        (tmp_path / "log").mkdir()
        head = checkpoint.sign(Checkpoint(ORIGIN, size, merkle.EMPTY_ROOT), signing_key())
        (tmp_path / "log/checkpoint").write_bytes(head)
        with serving(tmp_path) as running:
            assert running.verify().exit_status == 2
            assert len(running.handler.asked) == 1


class TestServer:
    """A server may be busy, hostile, or somebody else's."""

    def test_a_busy_server_is_asked_again(self, site: Site) -> None:
        """Being busy is no finding."""
        site.handler.answers["/log/tile/0/001"] = [(503, b""), (429, b""), (502, b"busy")]
        assert site.verify().exit_status == 0

    @pytest.mark.parametrize(
        ("answer", "code"), [((503, b""), "unreachable"), ((302, b""), "bad_answer"), ((500, b""), "bad_answer")]
    )
    def test_a_server_that_does_not_answer_is_no_finding(
        self, site: Site, answer: tuple[int, bytes], code: str
    ) -> None:
        """Nothing was verified, which is neither intact nor broken; nobody is redirected."""
        site.handler.answers["/log/tile/0/001"] = [answer] * 10
        with pytest.raises(CannotVerify) as caught:
            site.verify()
        assert caught.value.code == code
        assert caught.value.remedy
        assert "/elsewhere" not in [path for path, _ in site.handler.asked]

    def test_nothing_endless_is_read(self, site: Site) -> None:
        """No file of a log is longer than it can be."""
        site.handler.answers["/log/checkpoint"] = [(200, b"x" * 10_000_000)]
        with pytest.raises(CannotVerify) as caught:
            site.verify()
        assert caught.value.code == "no_log"

    @pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n"])
    def test_a_server_that_drips_is_left(self, sent: bytes) -> None:
        """One byte in every ten seconds, in the headers or in the content, satisfies any limit on single reads."""
        clock = itertools.count(step=10)
        with dripping(sent) as port:
            address = Address.parse(f"http://127.0.0.1:{port}/log")
            client = LogClient(address, sleep=lambda _: None, clock=lambda: next(clock))
            with closing(client), pytest.raises(CannotVerify) as caught:
                client.get("checkpoint", 65_536)
        assert (caught.value.code, next(clock) < 200) == ("too_slow", True)

    def test_a_server_that_is_slow_with_everything_is_left(self, site: Site) -> None:
        """Each file in time for itself, and all of them in no time that anybody has."""
        clock = itertools.count(step=10)
        with closing(LogClient(Address.parse(site.url), clock=lambda: next(clock))) as client:
            for _ in range(200):
                try:
                    client.get("checkpoint", 65_536)
                except CannotVerify as error:
                    assert error.code == "too_slow"
                    return
        pytest.fail("it was never given up")

    def test_what_is_no_log_cannot_be_verified(self, tmp_path: Path) -> None:
        """No server, no log on it, no keys."""
        with serving(tmp_path) as running:
            for options, code in (({}, "no_log"), ({"policy": None}, "no_policy")):
                with pytest.raises(CannotVerify) as caught:
                    running.verify(**options)
                assert caught.value.code == code
        with pytest.raises(CannotVerify) as caught:
            running.verify()
        assert caught.value.code == "unreachable"

    @pytest.mark.parametrize(
        "earlier", [b"", signing_key().vkey.encode(), LedgerBuilder(origin=f"{ORIGIN}-2").begin().checkpoint()]
    )
    def test_an_earlier_checkpoint_of_no_use_is_refused(self, site: Site, earlier: bytes) -> None:
        """Malformed, or another log's: it would prove nothing."""
        with pytest.raises(CannotVerify) as caught:
            site.verify(earlier=earlier)
        assert caught.value.code == "bad_checkpoint"

    def test_a_key_goes_with_entries_alone(self, site: Site) -> None:
        """Where it is needed, and to nobody who could listen."""
        site.verify(key="secret")
        sent = {path.startswith("/log/tile/entries/") for path, header in site.handler.asked if header is not None}
        assert sent == {True}
        assert {header for _, header in site.handler.asked} == {None, "Bearer secret"}
        with pytest.raises(CannotVerify) as caught:
            verify_url("http://audit.example/log", RemoteOptions(policy=PINNED, key="secret"))
        assert caught.value.code == "key_in_clear"


class TestApi:
    """Against this product's own API, as it is deployed."""

    def test_entries_need_a_key(self, tmp_path: Path) -> None:
        """Without one the hashes are verified, and the report says that the records were not."""
        with publishing_api(large_ledger(600), tmp_path) as api:
            for address in ("/log", "/log/collector-1/2026/"):
                report = verify_url(api.url + address, RemoteOptions(policy=PINNED))
                assert (report.exit_status, verdicts(report)) == (2, {Verdict.UNVERIFIABLE: 1})
                assert "KLYRA_KEY" in report.shards[0].findings[0].meaning
            options = RemoteOptions(key=api.key("verify", organization_id=None))
            report = verify_url(f"{api.url}/log", options)
        assert (report.exit_status, report.verdict, report.shards[0].counts[Verdict.OK]) == (2, Verdict.OK, 605)


class TestAddress:
    """What is an address of a log, and what is not."""

    @pytest.mark.parametrize(
        "url", ["https://", "ftp://host/log", "https://user:secret@host/log", "https://host/log?x=1", "http://[::1/log"]
    )
    def test_what_is_no_address_is_refused(self, url: str) -> None:
        """Secrets and queries have no place in it."""
        with pytest.raises(CannotVerify) as caught:
            Address.parse(url)
        assert caught.value.code == "bad_url"

    @pytest.mark.parametrize(
        ("path", "promises"),
        [
            ("", ()),
            ("/log", ()),
            ("/log/", ()),
            ("/a/log/collector-1/2026/", ("collector-1", "2026")),
            ("/log/collector%2D1/2026", ("collector-1", "2026")),
            ("/a/b/2026", ("b", "2026")),
            ("/2026", ("2026",)),
        ],
    )
    def test_an_address_names_a_log(self, path: str, promises: tuple[str, ...]) -> None:
        """Behind `log`, or by its last two parts."""
        assert Address.parse(f"https://audit.example{path}").promises == promises

    @pytest.mark.parametrize(
        ("url", "keeps"),
        [
            *(("https://audit.example/log", True), ("http://127.0.0.1:8080/log", True), ("http://[::1]/log", True)),
            *(("http://localhost/log", True), ("http://audit.example/log", False), ("http://10.0.0.1/log", False)),
        ],
    )
    def test_secrets_are_kept_by_tls_and_by_this_machine(self, url: str, keeps: bool) -> None:  # noqa: FBT001 - a case
        """Anywhere else somebody may listen."""
        address = Address.parse(url)
        assert address.keeps_secrets is keeps
        with closing(LogClient(address)):
            assert address.prefix == "/log"
