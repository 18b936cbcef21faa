"""Publish an accepted bundle: to a repository of the model hub, or to a folder.

The bundle is checked before anything leaves. A repository is brought to hold the bundle and nothing else by one commit;
files that it holds already are not sent again, so an interrupted upload goes on where it stopped, and a second run does
nothing. A repository or folder with content that no bundle brought there is refused, and so is a bundle without the
sign-off that the configuration may require (scripts/sign_off.py). The token is read from the
environment variable that the configuration names, and is written nowhere. --dry-run shows what would be done.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tabulate import tabulate

from day0.base.artefacts import digest_of_file, read_json
from day0.base.cli import EXIT_FAILED_CHECK, UnusableInput, json_argument, run_cli
from day0.records.failure_class import Decision
from day0.records.publication import Publication
from day0.records.sign_off import SIGN_OFF, SignOff, find_sign_off
from day0.release.damage import hashed_before
from verify_release import ADDED_BY_HUBS, LINE, SUMS, verify

AGAIN = "run the same command again: what has arrived is not sent again"
UPLOAD, KEEP, DELETE = "upload", "keep", "delete"


class Plan(NamedTuple):
    """What publishing would do: an action for each file, and the commit that the destination is at."""

    actions: dict[str, str]
    commit: str | None
    note: str

    def names(self, action: str) -> list[str]:
        """Files with an action."""
        return [name for name, chosen in sorted(self.actions.items()) if chosen == action]


class BrokenBundle(Exception):
    """The bundle does not pass its own check."""


class Unsigned(BrokenBundle):
    """Nobody answers for the bundle, though the configuration asks for that."""


def check_bundle(folder: Path, full: bool = False) -> dict[str, str]:
    """Digest of each file of a sound bundle; what is as it was when it was bundled is not read again, unless ``full``.

    Raises:
        BrokenBundle: with what is wrong.
    """
    problems, digests = verify(folder, known={} if full else hashed_before(folder))
    if problems:
        raise BrokenBundle("; ".join(problems))
    return digests


def plan_actions(
    local: Mapping[str, Any], remote: Mapping[str, bool], sums: bytes | None, place: str
) -> dict[str, str]:
    """An action for each file.

    Args:
        local: the bundle's files.
        remote: the destination's files, and whether each is the bundle's own.
        sums: SHA256SUMS at the destination, which names what an earlier bundle brought there.
        place: the destination, for the message.

    Raises:
        UnusableInput: the destination holds files that no bundle brought there.
    """
    known = {match[2].decode("utf-8", "replace") for match in LINE.finditer(sums or b"")} | {SUMS}
    others = [name for name, is_own in remote.items() if not is_own and not ADDED_BY_HUBS.fullmatch(name)]
    foreign = sorted(name for name in others if name not in known)
    # Where a repository was made by hand, its first card may be there.
    if foreign and foreign != ["README.md"]:
        raise UnusableInput(
            f"{place}: holds files that no release brought there ({len(foreign)}, such as {foreign[0]}); "
            "expected nothing, or an earlier release; remove them or choose another destination"
        )
    stale = [name for name in others if name not in local]
    actions = {name: KEEP if remote.get(name) else UPLOAD for name in local}
    return actions | {name: DELETE for name in stale}


def why_unsigned(bundle: Path, digests: Mapping[str, str]) -> str:
    """What is missing, and what to do."""
    path = bundle.parent / SIGN_OFF
    found = f"there is no {path}"
    if path.is_file():
        signed = SignOff.read(path)
        found = (
            f"{path} is of another bundle: {signed.signed_by} signed SHA256SUMS {signed.sums_sha256} "
            f"on {signed.signed}, and its digest is {digests[SUMS]} now"
        )
    return (
        f"it is not signed off, which publish.sign_off requires: {found}; look at the report, then run "
        f"python scripts/sign_off.py {bundle.parent} --by NAME"
    )


def say_sign_off(bundle: Path, digests: Mapping[str, str], is_required: bool) -> str:
    """Whether a bundle may be published as far as its sign-off goes."""
    signed = find_sign_off(bundle, digests[SUMS])
    if signed is not None:
        return f"{bundle}: signed off by {signed.signed_by}, {signed.signed}"
    return (
        f"{bundle}: would be refused: {why_unsigned(bundle, digests)}" if is_required else f"{bundle}: not signed off"
    )


class Hub:
    """A repository of the model hub."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.repository, self.branch, self.private = settings["hub"], settings["branch"], settings["private"]
        self.variable = settings["token_variable"]
        token = os.environ.get(self.variable)
        self.has_token = bool(token)
        self.api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token or False)
        self.place = f"{self.repository} at {self.branch}"

    def plan(self, bundle: Path, digests: Mapping[str, str]) -> Plan:
        """Compare the repository with the bundle."""
        try:
            commit = self.api.repo_info(self.repository, revision=self.branch).sha
        except RepositoryNotFoundError:
            note = f"a {'private' if self.private else 'public'} repository is made"
            return Plan(dict.fromkeys(digests, UPLOAD), None, note)
        except RevisionNotFoundError:
            return Plan(dict.fromkeys(digests, UPLOAD), None, "the branch is made")
        remote, own = {}, {}
        for entry in self.api.list_repo_tree(self.repository, recursive=True, revision=self.branch):
            if not hasattr(entry, "blob_id"):
                continue
            remote[entry.path] = entry
            own[entry.path] = entry.path in digests and _is_same(bundle / entry.path, digests[entry.path], entry)
        sums = None
        if SUMS in remote:
            sums = (bundle / SUMS).read_bytes() if own[SUMS] else self._download(SUMS)
        actions = plan_actions(digests, own, sums, self.place)
        return Plan(actions, commit, "")

    def _download(self, name: str) -> bytes:
        try:
            return Path(self.api.hf_hub_download(self.repository, name, revision=self.branch)).read_bytes()
        except EntryNotFoundError:
            return b""

    def publish(self, bundle: Path, digests: Mapping[str, str], message: str) -> dict[str, Any]:
        """Bring the repository to hold the bundle, by one commit where anything differs.

        Raises:
            UnusableInput: there is no token.
            BrokenBundle: the repository does not hold what was sent.
        """
        if not self.has_token:
            raise UnusableInput(
                f"{self.variable}: not set; expected a token that may write to {self.repository}; set the environment "
                "variable, or name another under publish.token_variable"
            )
        plan = self.plan(bundle, digests)
        if plan.commit is None:
            self.api.create_repo(self.repository, private=self.private, exist_ok=True)
            if self.branch != "main":
                self.api.create_branch(self.repository, branch=self.branch, exist_ok=True)
            plan = self.plan(bundle, digests)
        operations = [CommitOperationAdd(name, bundle / name) for name in plan.names(UPLOAD)]
        operations += [CommitOperationDelete(name) for name in plan.names(DELETE)]
        if operations:
            self.api.create_commit(
                self.repository, operations, commit_message=message, revision=self.branch, parent_commit=plan.commit
            )
        after = self.plan(bundle, digests)
        wrong = after.names(UPLOAD) + after.names(DELETE)
        if wrong:
            raise BrokenBundle(
                f"{self.place} does not hold the bundle after the upload; it differs in {', '.join(wrong)}"
            )
        return {
            "hub": self.repository,
            "branch": self.branch,
            "commit": after.commit,
            "url": f"{self.api.endpoint}/{self.repository}/tree/{after.commit}",
            "uploaded": plan.names(UPLOAD),
            "deleted": plan.names(DELETE),
        }


def _is_same(path: Path, digest: str, entry: Any) -> bool:
    """Whether the hub's file is this one: by sha256 where it is in large-file storage, else by git's own digest."""
    if entry.size != path.stat().st_size:
        return False
    if entry.lfs:
        return entry.lfs.sha256 == digest
    content = path.read_bytes()
    return entry.blob_id == hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()


class Folder:
    """A folder, such as one of a shared file system."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.folder = Path(settings["folder"])
        self.place = str(self.folder)

    def plan(self, bundle: Path, digests: Mapping[str, str]) -> Plan:
        """Compare the folder with the bundle."""
        if self.folder.exists() and not self.folder.is_dir():
            raise UnusableInput(f"{self.folder}: is a file; expected a folder, or nothing")
        if not self.folder.exists():
            return Plan(dict.fromkeys(digests, UPLOAD), None, "the folder is made")
        there = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]
        own = {name: name in digests and digest_of_file(self.folder / name) == digests[name] for name in there}
        sums = (self.folder / SUMS).read_bytes() if SUMS in own else None
        return Plan(plan_actions(digests, own, sums, self.place), None, "")

    def publish(self, bundle: Path, digests: Mapping[str, str], message: str) -> dict[str, Any]:
        """Copy the bundle beside the folder, check the copy, and put it in the folder's place.

        Raises:
            BrokenBundle: the copy is not the bundle.
        """
        plan = self.plan(bundle, digests)
        if plan.names(UPLOAD) or plan.names(DELETE):
            unfinished = self.folder.with_name(f".{self.folder.name}.unfinished")
            if unfinished.exists():  # of an interrupted run, perhaps of another release
                for path in unfinished.rglob("*"):
                    if not path.is_dir() and path.relative_to(unfinished).as_posix() not in digests:
                        path.unlink()
            for name, digest in digests.items():
                target = unfinished / name
                if not (target.is_file() and digest_of_file(target) == digest):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.unlink(missing_ok=True)
                    shutil.copy2(bundle / name, target)
                    target.chmod(target.stat().st_mode | 0o200)  # the bundle's weights may be read-only
            problems, _ = verify(unfinished)
            if problems:
                shutil.rmtree(unfinished)
                raise BrokenBundle(f"{unfinished} is not the bundle after the copy: {'; '.join(problems)}")
            previous = self.folder.with_name(f".{self.folder.name}.previous")
            shutil.rmtree(previous, ignore_errors=True)
            if self.folder.exists():
                self.folder.rename(previous)
            unfinished.rename(self.folder)
            shutil.rmtree(previous, ignore_errors=True)
        return {
            "folder": self.place,
            "url": self.folder.resolve().as_uri(),
            "uploaded": plan.names(UPLOAD),
            "deleted": plan.names(DELETE),
        }


def show_plan(bundle: Path, place: str, plan: Plan) -> str:
    """What would be done, as a table."""
    sizes = {name: (bundle / name).stat().st_size for name in plan.actions if plan.actions[name] != DELETE}
    rows = [(action, name, f"{sizes.get(name, 0):,}") for name, action in sorted(plan.actions.items())]
    sent = sum(sizes[name] for name in plan.names(UPLOAD))
    lines = [f"{bundle} to {place}: dry run, nothing was sent{f'; {plan.note}' if plan.note else ''}"]
    lines += [tabulate(rows, headers=["action", "file", "bytes"], colalign=("left", "left", "right"))]
    lines += [f"{len(plan.names(UPLOAD))} files of {sent:,} bytes would be sent; set publish.dry_run to false to do it"]
    return "\n".join(lines)


def show_published(path: Path) -> str:
    """Where a bundle was published, from its published.json."""
    record = Publication.read(path)
    commit = f" (commit {record.commit})" if record.commit else ""
    return f"{record.bundle}: published at {record.url}{commit}, {record.published}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--destination", help="JSON: hub, branch, private and token_variable, or folder")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, do nothing")
    parser.add_argument(
        "--verify", choices=("quick", "full"), default="quick", help="full: hash every file of the bundle again"
    )
    parser.add_argument("--output", type=Path, help="published.json to write")
    parser.add_argument("--show", type=Path, help="print where a bundle was published, from its published.json")
    arguments = parser.parse_args()
    if arguments.show:
        print(show_published(arguments.show))
        return 0
    if not (arguments.bundle and arguments.destination):
        parser.error("give --bundle and --destination, or --show")

    settings = json_argument("--destination", arguments.destination)
    if bool(settings.get("hub")) == bool(settings.get("folder")):
        raise UnusableInput(f"--destination: expected one of hub and folder, found {settings}")
    if settings.get("folder") and Path(settings["folder"]).resolve().is_relative_to(arguments.bundle.resolve()):
        raise UnusableInput(
            f"--destination: {settings['folder']} is the bundle itself or within it; choose another folder"
        )
    verdict = read_json(arguments.bundle / "evidence" / "verdict.json")
    if verdict.get("decision") != Decision.ACCEPT:
        raise UnusableInput(
            f"{arguments.bundle}: only an accepted release is published; found {verdict.get('decision')!r}"
        )
    try:
        digests = check_bundle(arguments.bundle, arguments.verify == "full")
        if settings.get("hub"):
            defaults = {"branch": "main", "private": True, "token_variable": "HF_TOKEN"}
            destination: Hub | Folder = Hub({**defaults, **settings})
        else:
            destination = Folder(settings)
        if arguments.dry_run:
            print(say_sign_off(arguments.bundle, digests, settings.get("sign_off") == "required"))
            print(show_plan(arguments.bundle, destination.place, destination.plan(arguments.bundle, digests)))
            if isinstance(destination, Hub) and not destination.has_token:
                print(f"{destination.variable} is not set: the hub was asked without a token, and takes no upload so")
            return 0
        signed = find_sign_off(arguments.bundle, digests[SUMS])
        if signed is None and settings.get("sign_off") == "required":
            raise Unsigned(f"{arguments.bundle}: {why_unsigned(arguments.bundle, digests)}")
        message = f"{verdict['model']} {verdict['release']}: {verdict['decision']}, SHA256SUMS {digests[SUMS]}"
        sent = destination.publish(arguments.bundle, digests, message)
    except BrokenBundle as error:
        print(f"error: not published: {error}")
        return EXIT_FAILED_CHECK
    except OfflineModeIsEnabled as error:
        raise UnusableInput(f"{settings['hub']}: the hub is not asked while HF_HUB_OFFLINE is set: {error}") from error
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code >= 500:
            print(f"error: {settings['hub']}: the hub failed: {error}; {AGAIN}")
            return EXIT_FAILED_CHECK
        raise UnusableInput(
            f"{settings['hub']}: the hub refused: {error}; check the repository and the rights of the token"
        ) from error
    except (HTTPError, ConnectionError) as error:
        print(f"error: {settings['hub']}: the hub cannot be reached: {error}; {AGAIN}")
        return EXIT_FAILED_CHECK
    except OSError as error:
        place = settings.get("hub") or settings["folder"]
        raise UnusableInput(f"{place}: cannot be read or written: {error}; check the path and its rights") from error
    except RuntimeError as error:
        # How the hub's client reports that a file did not arrive.
        print(f"error: {settings['hub']}: {error} {error.__cause__ or ''}; {AGAIN}")
        return EXIT_FAILED_CHECK
    record = Publication(
        **sent,
        bundle=str(arguments.bundle),
        sums_sha256=digests[SUMS],
        files=len(digests),
        signed_by=signed.signed_by if signed else None,
        signed=signed.signed if signed else None,
        published=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if arguments.output:
        record.write(arguments.output)
    print(f"{arguments.bundle}: {len(record.uploaded)} of {len(digests)} files sent; now at {record.url}")
    return 0


if __name__ == "__main__":
    run_cli(main)
