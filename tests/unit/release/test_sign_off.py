"""A sign-off holds for one bundle and no other, and what must be signed off is published by nobody else's leave."""

import json
import shutil
from pathlib import Path

import pytest
from accepted_release import by_hand

import publish
import sign_off
from day0.base.artefacts import digest_of_file, read_json, write_json
from day0.records.sign_off import SignOff


@pytest.fixture
def release(bundled_copy):
    return Path("m/fp8")


def published(release, *options, **settings):
    destination = json.dumps({"folder": "released", **settings})
    return by_hand(publish, "--bundle", release / "release", "--destination", destination, *options)


def test_what_must_be_signed_off_is_published_after_that_and_says_by_whom(release):
    refused = published(release, sign_off="required")
    assert refused.returncode == 1 and not Path("released").exists()
    assert (
        "scripts/sign_off.py m/fp8 --by NAME" in refused.stdout and "there is no m/fp8/sign_off.json" in refused.stdout
    )
    assert "would be refused" in published(release, "--dry-run", sign_off="required").stdout
    done = by_hand(sign_off, release, "--by", " Ada Example ", "--comment", "looked at the flips")
    assert done.returncode == 0 and "ACCEPT" in done.stdout
    signed = SignOff.read(release / "sign_off.json")
    assert (signed.signed_by, signed.comment) == ("Ada Example", "looked at the flips")
    assert signed.sums_sha256 == digest_of_file(release / "release" / "SHA256SUMS")
    assert "signed off by Ada Example" in published(release, "--dry-run", sign_off="required").stdout
    assert published(release, "--output", "published.json", sign_off="required").returncode == 0
    assert read_json("published.json")["signed_by"] == "Ada Example"


def test_a_sign_off_of_another_bundle_is_none(release):
    assert by_hand(sign_off, release, "--by", "Ada").returncode == 0
    signed = read_json(release / "sign_off.json")
    write_json(release / "sign_off.json", signed | {"sums_sha256": "0" * 64})
    refused = published(release, sign_off="required")
    assert refused.returncode == 1 and "is of another bundle: Ada signed SHA256SUMS 000" in refused.stdout
    assert not Path("released").exists()
    assert published(release).returncode == 0, "where none is required, none is asked for"


@pytest.mark.parametrize("content", ["{", "[]", '{"signed_by": "Ada"}'])
def test_a_sign_off_that_cannot_be_read_publishes_nothing(release, content):
    (release / "sign_off.json").write_text(content)
    refused = published(release, sign_off="required")
    assert refused.returncode == 2 and "sign_off.json" in refused.stderr and not Path("released").exists()


def test_only_a_sound_accepted_bundle_of_this_verdict_is_signed_off(release):
    def refused(code, quoted):
        done = by_hand(sign_off, release, "--by", "Ada")
        assert done.returncode == code and quoted in done.stdout + done.stderr, done.stdout + done.stderr
        assert not (release / "sign_off.json").exists()

    assert by_hand(sign_off, release, "--by", " ").returncode == 2
    (release / "release" / "config.json").write_text("{}")
    refused(1, "config.json")
    verdict = read_json(release / "verdict.json")
    write_json(release / "verdict.json", verdict | {"detail": "another"})
    refused(2, "is of another verdict")
    write_json(release / "verdict.json", verdict | {"decision": "REGRESSION"})
    refused(2, "only an accepted release is signed off")
    write_json(release / "verdict.json", verdict)
    shutil.rmtree(release / "release")
    refused(2, "found no bundle")
