"""What a witness is told and what it keeps secret."""

from __future__ import annotations

import pytest

from klyra_audit.format.keys import ALGORITHM_COSIGNATURE, ALGORITHM_ML_DSA_44
from klyra_collector.seal.durable import Disk
from klyra_collector.witness import book
from klyra_collector.witness.book import BadWitnessFile
from klyra_collector.witness.keys import WitnessKeyUnusable, load_keys
from support.witnesses import NAME, Log, cosigning_key


def begun(folder):
    """Begin a witness's file and return its path."""
    path = folder / "witness.toml"
    book.begin(Disk(), path, name=NAME, listen="127.0.0.1:1", ml_dsa=True)
    return path


def test_a_new_file_reads_back(tmp_path):
    """What `begin` writes is what the witness reads, and logs are added behind whatever stands in it."""
    path = begun(tmp_path)
    path.write_bytes(path.read_bytes() + b"# ours\n")
    vkeys = [Log(f"a/{year}", bytes([year - 2000]) * 32).key.vkey for year in (2026, 2027)]
    for vkey in (*vkeys, vkeys[0]):
        book.add_log(Disk(), path, f" {vkey}\n")
    settings = book.read_settings(path)
    assert (settings.name, settings.listen, settings.ml_dsa) == (NAME, "127.0.0.1:1", True)
    assert [str(key) for key in settings.logs] == vkeys
    assert "# ours" in path.read_text()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name = 1",
        'name = "a b"',
        'name = "w"\nnames = 1',
        'name = "w"\nml_dsa = "yes"',
        'name = "w"\n[[log]]\n',
        'name = "w"\nlog = ["x"]',
        'name = "w"\n[[log]]\nvkey = "x"',
        f'name = "w"\n[[log]]\nvkey = "{cosigning_key().vkey}"',
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, text):
    """Every mistake is a `BadWitnessFile` with something to do."""
    path = tmp_path / "witness.toml"
    path.write_text(text)
    with pytest.raises(BadWitnessFile) as caught:
        book.read_settings(path)
    assert caught.value.code == "bad_witness_file"
    assert caught.value.remedy


def test_a_name_must_be_one_of_a_key(tmp_path):
    """A witness cannot be called what no signature line could carry."""
    with pytest.raises(BadWitnessFile, match="cannot be a witness's name"):
        book.begin(Disk(), tmp_path / "witness.toml", name="two words", listen="127.0.0.1:1", ml_dsa=False)


def test_keys_are_made_once_and_only_for_the_owner(tmp_path):
    """The first start draws a seed for each algorithm, later ones read them."""
    first = load_keys(Disk(), tmp_path, NAME, ml_dsa=True, may_make=True)
    again = load_keys(Disk(), tmp_path, NAME, ml_dsa=True, may_make=True)
    assert [key.vkey for key in first] == [key.vkey for key in again]
    assert [key.verifying_key.algorithm for key in first] == [ALGORITHM_COSIGNATURE, ALGORITHM_ML_DSA_44]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_key_that_cannot_be_trusted_stops_the_witness(tmp_path):
    """Lost, exposed or damaged, each with its remedy; a lost one is not drawn anew."""
    with pytest.raises(WitnessKeyUnusable) as lost:
        load_keys(Disk(), tmp_path, NAME, ml_dsa=False, may_make=False)
    assert (lost.value.code, "retired" in lost.value.remedy) == ("witness_key_unusable", True)
    path = tmp_path / "witness.key"
    Disk().replace(path, b"k" * 31, mode=0o600)
    with pytest.raises(WitnessKeyUnusable) as damaged:
        load_keys(Disk(), tmp_path, NAME, ml_dsa=False, may_make=True)
    assert (damaged.value.code, "backup" in damaged.value.remedy) == ("witness_key_unusable", True)
    path.chmod(0o644)
    with pytest.raises(WitnessKeyUnusable) as exposed:
        load_keys(Disk(), tmp_path, NAME, ml_dsa=False, may_make=True)
    assert (exposed.value.code, "chmod 600" in exposed.value.remedy) == ("key_exposed", True)
