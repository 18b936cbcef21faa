"""No edit of a recorded folder goes unseen while it is loaded, whatever the files' times are set to."""

import os
import shutil
import threading
import time

import pytest

from day0.base.artefacts import digest_of_file
from day0.base.cli import UnusableInput
from day0.records.file_states import FILE_NAME, FileState, read_states_beside
from day0.records.source import FolderLocation
from day0.source import recorded_files
from day0.source.model_folder import describe_source, model_files, open_source
from day0.source.recorded_files import RecordedFiles, WrittenFiles, hash_files, write_states_beside

WEIGHTS, OTHERS = "model.safetensors", ("config.json", "tokenizer.json", "additional_chat_templates/tools.jinja")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of one large file and some small ones; what was just written counts as settled."""
    monkeypatch.setattr(recorded_files, "SMALL_BYTES", 100)
    monkeypatch.setattr(recorded_files, "SETTLED_NS", -(10**18))
    folder = tmp_path / "model"
    (folder / "additional_chat_templates").mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(bytes(range(256)) * 40)
    for name in OTHERS:
        (folder / name).write_text("{}")
    return folder


def edit(path, keeps_times=True, change=lambda content: content[:-1] + b"~"):
    """Change a file in place, and set its times back."""
    before = path.stat()
    path.write_bytes(change(path.read_bytes()))
    if keeps_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path):
    """Put another file of the same size and times in a file's place, as by cp -p and mv."""
    other = path.with_name(".other")
    shutil.copy2(path, other)
    edit(other)
    os.replace(other, path)


def through_link(path):
    """Make the name a link to another file of the same size and times, as in a cache."""
    target = path.with_name(".blob")
    shutil.copy2(path, target)
    edit(target)
    path.unlink()
    path.symlink_to(target)


EDITS = {
    "in place, times kept": edit,
    "in place": lambda path: edit(path, keeps_times=False),
    "replaced, times kept": replace,
    "through a link, times kept": through_link,
    "longer": lambda path: edit(path, change=lambda content: content + b"0"),
    "removed": lambda path: path.unlink(),
}


def recorded(folder, is_trusted=True):
    """The files as a stage compares them, with a record and states made before."""
    record = folder.parent / "source.json"
    if not record.exists():
        files, states = hash_files(folder)
        record.write_text("")
        write_states_beside(record, states)
        recorded.files = files
    return RecordedFiles(folder, recorded.files, record, model_files(folder, False), is_trusted)


def load(files, during=lambda: None):
    try:
        files.begin()
        during()
        files.check_digests()
        files.finish()
    finally:
        files.stop()


@pytest.mark.parametrize("is_trusted", [True, False], ids=["states", "digests"])
def test_what_did_not_change_is_what_was_recorded(folder, is_trusted):
    load(recorded(folder, is_trusted))


@pytest.mark.parametrize("name", [WEIGHTS, *OTHERS])
@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("is_trusted", [True, False], ids=["states", "digests"])
def test_an_edit_before_loading_is_refused(folder, kind, name, is_trusted):
    recorded(folder)
    EDITS[kind](folder / name)
    with pytest.raises(UnusableInput, match=rf"{name}: .*; .*source\.json is of other files: put them back"):
        load(recorded(folder, is_trusted))


@pytest.mark.parametrize("name", [WEIGHTS, *OTHERS])
@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("is_trusted", [True, False], ids=["states", "digests"])
def test_an_edit_while_it_is_loaded_is_refused(folder, kind, name, is_trusted):
    files = recorded(folder, is_trusted)
    with pytest.raises(UnusableInput, match=name):
        load(files, lambda: EDITS[kind](folder / name))


@pytest.mark.parametrize("is_trusted", [True, False], ids=["states", "digests"])
def test_an_edit_that_is_undone_while_it_is_loaded_is_refused(folder, is_trusted):
    def there_and_back():
        content = (folder / WEIGHTS).read_bytes()
        edit(folder / WEIGHTS)
        edit(folder / WEIGHTS, change=lambda _: content)

    with pytest.raises(UnusableInput, match=r"was replaced or written to while it was loaded|its sha256 is not"):
        load(recorded(folder, is_trusted), there_and_back)


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "chat_template.jinja"])
def test_a_file_that_is_not_recorded_is_refused(folder, name):
    recorded(folder)
    (folder / name).write_text("{}")
    with pytest.raises(UnusableInput, match=f"{name}: is not recorded"):
        load(recorded(folder))


def copy_over(folder):
    """Put a copy of the folder with the same times in its place, as from another machine."""
    shutil.copytree(folder, folder.parent / "copy")
    shutil.rmtree(folder)
    (folder.parent / "copy").rename(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: os.utime(folder / WEIGHTS),
        lambda folder: (folder / WEIGHTS).chmod(0o400),
        lambda folder: os.link(folder / WEIGHTS, folder.parent / "bundle"),
        lambda folder: (
            shutil.copytree(folder, folder.parent / "b")
            and (shutil.rmtree(folder), (folder.parent / "b").rename(folder))
        ),
        lambda folder: (folder.parent / FILE_NAME).unlink(),
        lambda folder: (folder.parent / FILE_NAME).write_text("{"),
    ],
    ids=["touched", "chmod", "linked", "copied", "states lost", "states broken"],
)
def test_the_same_bytes_in_another_state_are_hashed_again_and_no_failure(folder, monkeypatch, change):
    recorded(folder)
    hashed = []
    digest = recorded_files._digest
    monkeypatch.setattr(recorded_files, "_digest", lambda path, stop: hashed.append(path.name) or digest(path, stop))
    load(recorded(folder))
    assert hashed == []
    change(folder)
    load(recorded(folder))
    assert hashed == [WEIGHTS]


@pytest.mark.parametrize("is_trusted", [True, False], ids=["states", "digests"])
def test_a_hard_link_that_a_bundle_makes_meanwhile_is_no_failure(folder, is_trusted):
    load(recorded(folder, is_trusted), lambda: os.link(folder / WEIGHTS, folder.parent / "bundle"))


def test_a_file_system_without_lasting_inodes_is_hashed_again(folder, monkeypatch):
    files = recorded(folder)
    of = FileState.of
    load(files, lambda: monkeypatch.setattr(FileState, "of", lambda path: of(path)._replace(inode=7)))
    load(recorded(folder))


def test_a_file_that_was_only_just_written_is_not_known_by_its_state(folder, monkeypatch):
    """A change within the same tick of the file system's clock would leave the state as it is."""
    monkeypatch.setattr(recorded_files, "SETTLED_NS", 10**12)
    files, states = hash_files(folder)
    assert states.files == {} and set(files) == {WEIGHTS, *OTHERS}
    content = (folder / WEIGHTS).read_bytes()
    state = FileState.of(folder / WEIGHTS)
    monkeypatch.setattr(FileState, "of", lambda path: state if path.name == WEIGHTS else FileState(2, 1, 1, 1, 1))
    with pytest.raises(UnusableInput, match="its sha256 is not"):
        load(recorded(folder), lambda: (folder / WEIGHTS).write_bytes(content[::-1]))


def test_a_file_that_changes_while_it_is_hashed_is_refused(folder, monkeypatch):
    list_files = recorded_files.list_files

    def slow(*arguments):
        files = list_files(*arguments)
        edit(folder / WEIGHTS)
        return files

    monkeypatch.setattr(recorded_files, "list_files", slow)
    with pytest.raises(UnusableInput, match="changed while it was hashed"):
        hash_files(folder)


def test_hashing_stops_when_it_is_no_longer_wanted(folder):
    files = recorded(folder, False)
    files.begin()
    files.stop()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hash")]


def test_a_source_is_compared_by_its_record_and_a_bare_folder_with_nothing(folder, tmp_path):
    header = b'{"w":{"dtype":"BF16","shape":[8],"data_offsets":[0,16]}}'
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    source, states = describe_source(folder, "m", FolderLocation(path=str(folder)))
    record = tmp_path / "source.json"
    source.write(record)
    write_states_beside(record, states)
    assert set(read_states_beside(record)) == set(source.files) == {WEIGHTS, *OTHERS}
    load(open_source(record).recorded_files())
    edit(folder / WEIGHTS)
    with pytest.raises(UnusableInput, match="sha256"):
        load(open_source(record).recorded_files())
    load(open_source(folder).recorded_files())


@pytest.fixture
def written(folder, monkeypatch):
    """Watches the folder; what it has hashed so far, once it has hashed the weights."""
    monkeypatch.setattr(recorded_files, "LOOKS_SECONDS", 0.01)
    files = WrittenFiles(folder)
    deadline = time.monotonic() + 60
    while WEIGHTS not in files._hashed and time.monotonic() < deadline:
        time.sleep(0.01)
    yield files
    files.stop()


def hashed_again(monkeypatch, folder, known):
    """The record of a folder, and the files that were read for it."""
    read = []
    list_files = recorded_files.list_files
    monkeypatch.setattr(recorded_files, "list_files", lambda root, names: read.extend(names) or list_files(root, names))
    return *hash_files(folder, known=known), sorted(read)


def test_large_files_are_hashed_while_others_are_written(folder, written, monkeypatch):
    expected, _ = hash_files(folder)
    (folder / "later.json").write_text("[]")
    known = written.stop()
    assert set(known) == {WEIGHTS}
    files, states, read = hashed_again(monkeypatch, folder, known)
    assert read == sorted([*OTHERS, "later.json"]) and list(files) == sorted(files)
    assert {name: files[name] for name in expected} == expected and set(states.files) == set(files)


@pytest.mark.parametrize("kind", EDITS)
def test_a_file_that_is_written_again_is_hashed_again(folder, written, monkeypatch, kind):
    known = written.stop()
    EDITS[kind](folder / WEIGHTS)
    files, _, read = hashed_again(monkeypatch, folder, known)
    assert (WEIGHTS in read) == (WEIGHTS in files) == (kind != "removed")
    if WEIGHTS in files:
        assert files[WEIGHTS].sha256 == digest_of_file(folder / WEIGHTS) != known[WEIGHTS].sha256


def test_a_folder_that_vanishes_ends_nothing(folder, written):
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(b"0" * 1000)
    deadline = time.monotonic() + 60
    while written._hashed[WEIGHTS].bytes != 1000 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert written.stop()[WEIGHTS].sha256 == digest_of_file(folder / WEIGHTS)
