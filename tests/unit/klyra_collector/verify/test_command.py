"""`klyra-audit verify`: what it prints, and its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from klyra_collector.cli import verify as command
from klyra_collector.verify import Verdict
from support.ledgers import ACME, ORG_SALT, small_ledger
from support.tampering import flip

V = Verdict
SHARD = "ledger/2026"
SERVER_LIBRARIES = ("fastapi", "starlette", "uvicorn", "pydantic", "sqlalchemy", "structlog", "prometheus_client")


@pytest.fixture
def data(small, tmp_path):
    """The small ledger on disk."""
    return small.write(tmp_path / "data")


@pytest.fixture
def policy_file(small, tmp_path):
    """A policy that pins its key."""
    path = tmp_path / "policy"
    path.write_text(f"# published by the operator\nlog {small.vkey}\n\nquorum none\n")
    return path


def run(*arguments: object) -> tuple[int, str, str]:
    """Return exit status, standard output and standard error of the command."""
    result = CliRunner().invoke(command.app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def run_json(*arguments: object) -> tuple[int, dict]:
    """Return exit status and the report for machines."""
    status, output, errors = run(*arguments, "--json")
    assert not errors
    return status, json.loads(output)


class TestForPeople:
    """The report is read from top to bottom; the outcome stands last."""

    def test_an_intact_ledger(self, data, small, policy_file) -> None:
        """Origin, size, root, key, counts, and that no witness has seen it."""
        status, output, _ = run(data, "--policy", policy_file)
        size = len(small.leaves)
        assert status == 0
        for text in (small.origin, f"{size} records", f"OK {size}", f"{small.vkey}  pinned", "UNWITNESSED", "2026-02-"):
            assert text in output
        assert output.splitlines()[-1] == "INTACT"

    def test_a_key_that_is_not_pinned_is_said(self, data) -> None:
        """On the key's line and in the outcome; it is enough unless a pin is required."""
        status, output, _ = run(data)
        assert status == 0
        assert "key not pinned" in output
        assert output.splitlines()[-1].startswith("INTACT: consistent")
        status, output, _ = run(data, "--require-pinned")
        assert status == 2
        assert "COULD NOT BE CHECKED" in output.splitlines()[-1]

    def test_a_finding_says_what_where_why_and_what_to_do(self, data, small, policy_file) -> None:
        """Verdict, record, organization, file, byte, reason, meaning."""
        path = max((data / SHARD / "bodies").glob("*/frames"))
        flip(path, path.stat().st_size - 1)
        status, output, _ = run(data, "--policy", policy_file)
        assert status == 1
        assert "ALTERED record" in output
        assert f"{path.relative_to(data)} byte " in output
        assert "is not what was committed to" in output.replace("are not", "is not")
        assert "-> its bytes are not those that were sealed" in output
        assert output.splitlines()[-1] == "BROKEN: ALTERED"

    def test_findings_are_limited_and_counted(self, data, policy_file) -> None:
        """The first N are described, and how many more there are."""
        for path in (data / SHARD / "bodies").glob("*/frames"):
            path.unlink()
        (data / SHARD / "hashes/0").unlink()
        status, output, _ = run(data, "--policy", policy_file, "--limit-findings", 1)
        assert status == 1
        assert "more findings; --limit-findings N" in output
        assert "MISSING" in output

    def test_what_a_hostile_ledger_says_does_not_steer_the_terminal(self, data, policy_file) -> None:
        """Names of files are printed with their control characters escaped."""
        (data / SHARD / "bodies" / "\x1b[2Jgone").mkdir()
        _, output, _ = run(data, "--policy", policy_file)
        assert "\x1b[2J" not in output
        assert "\\x1b[2Jgone" in output


class TestForMachines:
    """`--json`."""

    def test_an_intact_ledger(self, data, small, policy_file) -> None:
        """All members that programs read."""
        status, report = run_json(data, "--policy", policy_file)
        assert status == report["exit"] == 0
        assert (report["verdict"], report["pinned"], report["witnessed"]) == ("OK", True, False)
        (shard,) = report["shards"]
        assert (shard["origin"], shard["size"], shard["key"]) == (small.origin, len(small.leaves), small.vkey)
        assert shard["counts"] == {"OK": len(small.leaves)}
        assert shard["findings"] == []
        assert shard["unsigned_tail"] == {"records": 0, "checked": 0, "unfinished": 0}

    def test_a_finding(self, data, small, policy_file) -> None:
        """Verdict, index, file, offset and reason."""
        flip(data / SHARD / "leaves", 3 * 112 + 40)
        status, report = run_json(data, "--policy", policy_file)
        assert status == report["exit"] == 1
        (altered,) = [finding for finding in report["shards"][0]["findings"] if finding["verdict"] == "ALTERED"]
        assert (altered["index"], altered["last"]) == (3, 3)
        assert (altered["file"], altered["offset"]) == (f"{SHARD}/leaves", 3 * 112)
        assert altered["reason"]
        assert report["shards"][0]["counts"]["OK"] == len(small.leaves) - 1

    def test_without_a_pin(self, data) -> None:
        """`pinned` is false; exit 2 where a pin is required."""
        assert run_json(data)[1]["pinned"] is False
        status, report = run_json(data, "--require-pinned")
        assert (status, report["exit"], report["pinned"]) == (2, 2, False)

    def test_what_could_not_be_checked(self, tmp_path) -> None:
        """The error has code, message and remedy, and the form is the same."""
        status, report = run_json(tmp_path)
        assert status == report["exit"] == 2
        assert (report["verdict"], report["shards"]) == ("UNVERIFIABLE", [])
        assert report["error"]["code"] == "no_ledger"
        assert "data directory" in report["error"]["remedy"]


class TestWhatIsGiven:
    """Policy and salt."""

    @pytest.mark.parametrize("form", [lambda salt: salt, lambda salt: f"{salt.hex()}\n".encode()], ids=["raw", "hex"])
    def test_a_salt(self, data, tmp_path, policy_file, form) -> None:
        """As 32 bytes or as hexadecimal digits, for a shard without its data directory."""
        (tmp_path / "salt").write_bytes(form(ORG_SALT))
        (data / "keys/org-salt").unlink()
        assert run(data, "--policy", policy_file)[0] == 2
        assert run(data, "--policy", policy_file, "--org-salt", tmp_path / "salt")[0] == 0

    def test_another_salt(self, data, tmp_path, policy_file) -> None:
        """It is not the one that START commits to: exit 2, with the option that helps."""
        (tmp_path / "salt").write_bytes(bytes(32))
        status, output, _ = run(data, "--policy", policy_file, "--org-salt", tmp_path / "salt")
        assert status == 2
        assert "UNVERIFIABLE" in output
        assert "--org-salt" in output

    @pytest.mark.parametrize("content", [b"", b"short", b"x" * 64, bytes(33), b"\xff" * 64])
    def test_a_file_that_is_no_salt(self, data, tmp_path, content) -> None:
        """Exit 2 before anything is read."""
        (tmp_path / "salt").write_bytes(content)
        status, report = run_json(data, "--org-salt", tmp_path / "salt")
        assert (status, report["error"]["code"]) == (2, "bad_org_salt")

    @pytest.mark.parametrize("content", [b"", b"log nonsense\n", b"\x00", b"logs a\n", b"quorum none\n"])
    def test_a_file_that_is_no_policy(self, data, tmp_path, content) -> None:
        """Exit 2: no key is better than a guess."""
        (tmp_path / "policy").write_bytes(content)
        status, report = run_json(data, "--policy", tmp_path / "policy")
        assert (status, report["error"]["code"]) == (2, "bad_policy")

    @pytest.mark.parametrize("option", ["--policy", "--org-salt"])
    def test_a_file_that_is_not_there(self, data, tmp_path, option) -> None:
        """Exit 2, and the option is named."""
        status, report = run_json(data, option, tmp_path / "nothing")
        assert (status, report["error"]["code"]) == (2, "bad_file")
        assert option in report["error"]["message"]


class TestUnexpected:
    """Whatever goes wrong, nothing was verified."""

    @pytest.mark.parametrize(
        ("error", "code"),
        [(RuntimeError("what"), "unexpected"), (MemoryError(), "unexpected"), (KeyboardInterrupt(), "interrupted")],
    )
    def test_an_exception_is_exit_2(self, data, monkeypatch, error, code) -> None:
        """Never 0, and never the 1 that says broken."""

        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr(command, "verify_target", fail)
        status, report = run_json(data)
        assert (status, report["error"]["code"]) == (2, code)
        status, output, errors = run(data)
        assert (status, output) == (2, "")
        assert errors.startswith("Error: ")


class TestBaseInstall:
    """An auditor needs no server, and trusts as little code as can be."""

    def loaded(self, module: str, *forbidden: str) -> list[str]:
        """Return which of the packages are loaded with a module, in a fresh interpreter."""
        script = (
            f"import sys, importlib; importlib.import_module({module!r}); "
            f"print(*(name for name in {forbidden!r} if name in sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        return done.stdout.split()

    def test_the_verifier_loads_the_format_and_nothing_else_of_ours(self) -> None:
        """Neither the collector's stages nor anything that draws or parses for people."""
        stages = [f"klyra_collector.{name}" for name in ("seal", "registry", "data_directory", "config", "stages")]
        others = ("rich", "typer", "klyra_audit.errors", *stages, *SERVER_LIBRARIES)
        assert self.loaded("klyra_collector.verify", *others) == []

    def test_the_command_loads_no_server_library(self) -> None:
        """It works in the base install."""
        stages = ("klyra_collector.registry", "klyra_collector.seal", "klyra_collector.cli.administration")
        assert self.loaded("klyra_collector.cli.verify", *stages, *SERVER_LIBRARIES) == []

    def test_it_runs_as_a_program(self, data, small, policy_file) -> None:
        """Exit status and output of the real thing, on one process and on several."""
        (data / SHARD / "bodies" / str(small.day_of(5)) / "frames").unlink()
        arguments = [
            sys.executable,
            "-m",
            "klyra_collector",
            "verify",
            str(data),
            "--policy",
            str(policy_file),
            "--json",
        ]
        done = subprocess.run(
            arguments, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "80"}
        )
        assert (done.returncode, done.stderr) == (1, "")
        report = json.loads(done.stdout)
        assert {finding["verdict"] for finding in report["shards"][0]["findings"]} == {"MISSING"}
        assert ACME not in done.stdout


class TestExpectations:
    """What a reader knows from before, and the present."""

    @pytest.mark.parametrize(
        ("options", "status"),
        [
            (["--expect-size", "3"], 0),
            (["--expect-size", "3000"], 1),
            (["--expect-after", "2020-01-01T00:00:00Z"], 0),
            (["--expect-after", "2100-01-01T00:00:00Z"], 1),
            (["--now", "2026-02-17T12:00:00Z"], 0),
            (["--now", "now"], 1),  # the ledger's bodies should be gone by now
        ],
    )
    def test_a_ledger(self, tmp_path, options, status) -> None:
        """Kept or not kept."""
        data = small_ledger().write(tmp_path / "data")
        assert CliRunner().invoke(command.app, [str(data), *options]).exit_code == status

    def test_a_checkpoint_that_was_kept(self, tmp_path) -> None:
        """It is still true, or it is not."""
        builder = small_ledger()
        data = builder.write(tmp_path / "data")
        kept = tmp_path / "kept"
        kept.write_bytes(builder.checkpoint(5))
        assert CliRunner().invoke(command.app, [str(data), "--expect-checkpoint", str(kept)]).exit_code == 0
        builder.leaves[2], builder.leaves[3] = builder.leaves[3], builder.leaves[2]
        kept.write_bytes(builder.checkpoint(3))
        assert CliRunner().invoke(command.app, [str(data), "--expect-checkpoint", str(kept)]).exit_code == 1

    @pytest.mark.parametrize(
        ("options", "code"),
        [
            (["DATA", "--now", "yesterday"], "bad_time"),
            (["DATA", "--expect-after", "2026-01-01T00:00:00"], "bad_time"),
            (["DATA", "--expect-checkpoint", "/absent"], "bad_file"),
            (["a.zip", "--expect-size", "3"], "bad_option"),
            (["http://127.0.0.1:9/log", "--expect-size", "3"], "bad_option"),
        ],
    )
    def test_what_cannot_be_expected(self, tmp_path, options, code) -> None:
        """Nothing that was asked for is passed over."""
        data = str(small_ledger().write(tmp_path / "data"))
        result = CliRunner().invoke(
            command.app, [*(data if option == "DATA" else option for option in options), "--json"]
        )
        assert (result.exit_code, json.loads(result.stdout)["error"]["code"]) == (2, code)
