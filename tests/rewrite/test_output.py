# SPDX-License-Identifier: Apache-2.0
"""A target is the old model or the new one, whole, wherever a conversion ends."""

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import stat
from functools import partial
from pathlib import Path

import pytest

from sirius_tf.bundle import files, marks
from sirius_tf.errors import SiriusError
from sirius_tf.rewrite import output
from tests.support import faults

OLD, NEW = "old", "new"


def model(path, text):
    """A SavedModel, or what looks like one, with some text in each file."""
    (path / "assets").mkdir(parents=True)
    for name in ("saved_model.pb", "assets/words", "assets/bundle.so"):
        (path / name).write_text(text)
    return path


def content(path):
    """The text in all files of a model; None without one."""
    if not os.path.lexists(path):
        return None
    texts = {p.name: p.read_text() for p in path.rglob("*") if p.is_file()}
    assert texts.keys() == {"saved_model.pb", "words", "bundle.so"}
    (text,) = set(texts.values())
    return text


class Proto:
    def SerializeToString(self, deterministic):  # noqa: N802
        assert deterministic
        return NEW.encode()


def convert(source, target):
    """What a conversion does to files."""
    output.prepare(source, target, replace=True)
    with output.workplace(source, target) as work:
        marks.replace_file(work / "assets" / "bundle.so", [NEW.encode()])
        output.write_saved_model(work, Proto())
        output.publish(work, target, replace=True)


def failing(number):
    raise OSError(number, os.strerror(number))


def interrupting():
    raise KeyboardInterrupt


ENDS = {
    "ENOSPC": partial(failing, errno.ENOSPC),
    "EEXIST": partial(failing, errno.EEXIST),
    "Ctrl-C": interrupting,
}
CASES = [(OLD, end) for end in (*ENDS, "SIGKILL")] + [(None, "SIGKILL")]


@pytest.fixture(autouse=True)
def no_disk(monkeypatch):
    """It takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda opened: None)


@pytest.fixture(params=["exchange", "two renames"])
def how(request, monkeypatch):
    """With a file system that lets two directories change places, and one that does not."""
    if request.param == "two renames":
        monkeypatch.setattr(files, "_renameat2", lambda *arguments: False)
    return request.param


def ended(act, source, target, number):
    """Whether a conversion ended before the event of a number was there."""
    suppressed = contextlib.suppress(KeyboardInterrupt, SiriusError, OSError)
    with faults.at(target.parent, number, act) as count, suppressed:
        convert(source, target)
    return count[0] <= number


def killed(source, target, number):
    """The same, if the process is killed there."""
    child = os.fork()
    if child == 0:
        kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
        os._exit(0 if ended(kill, source, target, number) else 1)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status == 0


@pytest.mark.parametrize(("before", "end"), CASES)
def test_the_old_model_or_the_new_one(how, before, end, tmp_path) -> None:
    source = model(tmp_path / "model", NEW)
    folder = tmp_path / "models"
    target, seen, number, done = folder / "target", [], 0, False
    while not done:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if before:
            model(target, before)
        find = killed if end == "SIGKILL" else partial(ended, ENDS[end])
        done = find(source, target, number)
        if (how, end) != ("two renames", "SIGKILL"):  # there, the next conversion puts it back
            assert content(target) in (before, NEW)
        output.prepare(source, target, replace=True)
        seen.append(content(target))
        assert os.listdir(folder) == [target.name] * (seen[-1] is not None)
        number += 1
    assert number > 30 and seen[-1] == NEW
    assert set(seen) == {before, NEW}
    if end in ("Ctrl-C", "SIGKILL"):  # errors of what is not needed are ignored
        assert seen == sorted(seen, key=[before, NEW].index)


@pytest.mark.parametrize("end", [*ENDS, "SIGKILL"])
def test_the_old_bundle_or_the_new_one(end, tmp_path, monkeypatch) -> None:
    """The file that a frozen GraphDef has, and the bundle that is stamped."""
    target = tmp_path / "bundle.so"

    def write(source, target):
        output.prepare_file(target, replace=True)
        with output.written(target, replace=True) as work:
            work.write_text(NEW)

    def stamp(source, target):
        marks.replace_file(target, [NEW.encode()])

    for make in (write, stamp):
        monkeypatch.setattr("tests.rewrite.test_output.convert", make)
        seen, number, done = [], 0, False
        while not done:
            target.write_text(OLD)
            find = killed if end == "SIGKILL" else partial(ended, ENDS[end])
            done = find(None, target, number)
            seen.append(target.read_text())
            output.prepare_file(target, replace=True)
            left = [p.name for p in tmp_path.iterdir() if p != target]
            assert not left or (make is stamp and end == "SIGKILL"), left
            for name in left:
                (tmp_path / name).unlink()
            number += 1
        assert set(seen) == {OLD, NEW}


def test_a_folder_in_use_is_not_cleared_away(tmp_path) -> None:
    source, target = model(tmp_path / "model", NEW), tmp_path / "models" / "target"
    others = model(tmp_path / "models" / ".target.1", OLD)  # that of somebody else
    with output.workplace(source, target) as first:
        killed(source, target, 20)
        assert len(os.listdir(target.parent)) == 3
        output.prepare(source, target, replace=False)
        assert sorted(target.parent.iterdir()) == sorted([others, first.parent])
        with output.workplace(source, target) as second:  # two at once: the last one remains
            (second / "assets" / "words").write_text("second")
            output.publish(first, target, replace=True)
            output.publish(second, target, replace=True)
    assert (target / "assets" / "words").read_text() == "second"
    assert sorted(target.parent.iterdir()) == sorted([others, target])


def test_without_locks_nothing_is_cleared_away(tmp_path, monkeypatch) -> None:
    source, target = model(tmp_path / "model", NEW), tmp_path / "models" / "target"
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: failing(errno.ENOLCK))
    with output.workplace(source, target):
        output.prepare(source, target, replace=True)
        convert(source, target)
        assert len(os.listdir(target.parent)) == 2
    assert content(target) == NEW and os.listdir(target.parent) == ["target"]


def test_an_output_that_came_meanwhile_is_not_replaced(how, tmp_path) -> None:
    source, target = model(tmp_path / "model", NEW), tmp_path / "target"
    exists = pytest.raises(SiriusError, match=r"cannot write .*target: File exists")
    with exists, output.workplace(source, target) as work:
        model(target, OLD)
        output.publish(work, target, replace=False)
    assert content(target) == OLD


def test_what_cannot_be_put_back_is_not_lost(tmp_path, monkeypatch) -> None:
    source, target = model(tmp_path / "model", NEW), model(tmp_path / "models" / "target", OLD)
    monkeypatch.setattr(files, "_renameat2", lambda *arguments: False)
    rename = Path.rename
    monkeypatch.setattr(
        Path, "rename", lambda a, b: rename(a, b) if a == target else failing(errno.EIO)
    )
    with pytest.raises(SiriusError, match=r"which was .*target, cannot be put back: Input/output"):
        convert(source, target)
    assert not target.exists()
    monkeypatch.undo()
    output.prepare(source, target, replace=True)
    assert content(target) == OLD and os.listdir(target.parent) == ["target"]


def test_an_output_around_the_input_or_inside_of_it(tmp_path) -> None:
    source = model(tmp_path / "a" / "b" / "model", OLD)
    link = tmp_path / "link"
    link.symlink_to(source.parent.parent)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "model").symlink_to("../link/b/model")
    names = sorted(tmp_path.rglob("*"))

    def refused(source, target, match):
        with pytest.raises(SiriusError, match=match):
            output.prepare(source, target, replace=True)

    for outer in (source, source.parent, tmp_path / "a", link, link / "b", tmp_path, Path("/")):
        for inner in (source, link / "b" / "model", tmp_path / "c" / "model"):
            refused(inner, outer, "is, or contains, the input")
    refused(tmp_path / "c" / "model", tmp_path / "c", "is, or contains, the input")  # by its link
    for inner in (source / "out", link / "b" / "model" / "out", source / "assets" / "x" / "y"):
        refused(source, inner, "is inside of the input")
    assert sorted(tmp_path.rglob("*")) == names and content(source) == OLD
    output.prepare(source, source / ".." / "out", replace=True)


def test_only_models_are_replaced(tmp_path) -> None:
    source = model(tmp_path / "model", NEW)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("letters", "letters/mine", "dangling"):
        with pytest.raises(SiriusError, match="is no SavedModel: it is not replaced"):
            output.prepare(source, tmp_path / name, replace=True)
        with pytest.raises(SiriusError, match="exists; name another output"):
            output.prepare(source, tmp_path / name, replace=False)
    (tmp_path / "letters" / "mine").unlink()
    convert(source, tmp_path / "letters")
    assert content(tmp_path / "letters") == NEW


def test_a_link_is_replaced_and_not_what_it_leads_to(how, tmp_path) -> None:
    source, old = model(tmp_path / "model", NEW), model(tmp_path / "old", OLD)
    target = tmp_path / "current"
    target.symlink_to(old)
    convert(source, target)
    assert content(target) == NEW and not target.is_symlink() and content(old) == OLD


def test_a_path_without_a_name(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(model(tmp_path / "model", OLD))
    assert output.named(Path(".")) == tmp_path / "model"
    assert output.named(Path("assets/..")) == tmp_path / "model"
    assert output.named(Path("../model")) == Path("../model")


def test_two_who_write_a_file(tmp_path) -> None:
    """Each writes a whole one, and it keeps the rights that it had."""
    path = tmp_path / "bundle.so"
    path.write_text("before")
    path.chmod(0o640)

    def others():
        yield b"first "
        marks.replace_file(path, [b"second"])
        assert path.read_bytes() == b"second"
        yield b"first"

    marks.replace_file(path, others())
    assert path.read_bytes() == b"first first"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["bundle.so"]


def test_all_is_on_the_disk_before_it_is_published(how, tmp_path, monkeypatch) -> None:
    source, target = model(tmp_path / "model", NEW), model(tmp_path / "target", OLD)
    synced = set()

    def fsync(opened):
        path = Path(os.readlink(f"/proc/self/fd/{opened}"))
        if path == tmp_path:
            assert content(target) == NEW and content(work) == (OLD if how == "exchange" else None)
        else:
            assert content(target) == OLD
            synced.add(path.relative_to(work))

    with output.workplace(source, target) as work:
        monkeypatch.setattr(os, "fsync", fsync)
        output.publish(work, target, replace=True)
        monkeypatch.undo()
    names = (".", "assets", "assets/bundle.so", "assets/words", "saved_model.pb")
    assert synced == {Path(p) for p in names}
