"""An artifact is whole or absent, and says of itself exactly what it is."""

import json
from pathlib import Path
from typing import Annotated

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from padd_artifacts.artifact import open_artifact
from padd_artifacts.errors import PaddError
from padd_artifacts.manifest import Parent, canonical_json, recipe_key
from padd_artifacts.plan import Plan
from padd_artifacts.work import create, find
from padd_artifacts.writer import ArtifactWriter, Output
from padd_stages.lib.options.base import Method, Options, Run


class FakeOptions(Options):
    size: Annotated[int, Method("Changes the result.")] = 3
    batch: Annotated[int, Run("Does not.")] = 8


def write(
    out: Path, options: FakeOptions | None = None, *, text: str = "x", timing: str = "1", **output
) -> None:
    plan = Plan(
        "split", options or FakeOptions(), {"data": Parent(kind="file", digest="d" * 64, path="here")}
    )
    with ArtifactWriter(Output(out, **output), plan) as writer:
        writer.write_json("report.json", {"text": text})
        writer.write_json("timings.json", {"seconds": timing}, volatile=True)
        writer.write_tensors("t.safetensors", {"a": torch.arange(6.0).view(2, 3)})
        writer.summary["rows"] = 1


def digest(out: Path) -> str:
    return open_artifact(out).manifest.digest


def test_what_was_written_is_read(tmp_path):
    write(tmp_path / "a")
    artifact = open_artifact(tmp_path / "a", "split")
    assert artifact.report == {"text": "x"}
    assert torch.equal(artifact.tensors("t.safetensors")["a"], torch.arange(6.0).view(2, 3))
    assert artifact.manifest.summary == {"rows": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with pytest.raises(PaddError, match="holds no 'other'"):
        artifact.file("other")


def test_the_digest_follows_method_content_and_seed_only(tmp_path):
    write(tmp_path / "a")
    write(
        tmp_path / "same", FakeOptions(batch=9), timing="2", command="other", option_sources={"size": "flag"}
    )
    assert digest(tmp_path / "same") == digest(tmp_path / "a")
    for name, keywords in {
        "option": {"options": FakeOptions(size=4)},
        "seed": {"options": FakeOptions(seed=1)},
        "content": {"text": "y"},
    }.items():
        write(tmp_path / name, **keywords)
        assert digest(tmp_path / name) != digest(tmp_path / "a"), name


@pytest.mark.parametrize("name", ["report.json", "timings.json", "t.safetensors"])
def test_one_changed_byte_is_noticed(tmp_path, name):
    write(tmp_path / "a")
    path = tmp_path / "a" / name
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(PaddError, match=f"{name} has changed"):
        open_artifact(tmp_path / "a")


def test_missing_files_edited_manifests_and_newer_schemas_are_refused(tmp_path):
    write(tmp_path / "a")
    manifest = tmp_path / "a" / "manifest.json"
    original = manifest.read_text()
    values = json.loads(original)
    for change, message in (
        ({"schema_version": 99}, "schema 99"),
        ({"options": {"size": 5}}, "edited by hand"),
        ({"seed": 7}, "edited by hand"),
        ({"files": None}, "lacks or misstates 'files'"),
    ):
        manifest.write_text(json.dumps(values | change))
        with pytest.raises(PaddError, match=message):
            open_artifact(tmp_path / "a")
    manifest.write_text("{")
    with pytest.raises(PaddError, match="not valid JSON"):
        open_artifact(tmp_path / "a")
    manifest.write_text(original)
    with pytest.raises(PaddError, match="kind 'split' where one of kind 'student'"):
        open_artifact(tmp_path / "a", "student")
    (tmp_path / "a" / "report.json").unlink()
    with pytest.raises(PaddError, match="is missing"):
        open_artifact(tmp_path / "a")
    with pytest.raises(PaddError, match="does not exist"):
        open_artifact(tmp_path / "nothing")
    with pytest.raises(PaddError, match="not a padd artifact"):
        open_artifact(tmp_path)


def test_an_existing_output_is_kept_unless_forced(tmp_path):
    write(tmp_path / "a")
    before = digest(tmp_path / "a")
    with pytest.raises(PaddError, match="exists"):
        write(tmp_path / "a", text="y")
    assert digest(tmp_path / "a") == before
    write(tmp_path / "a", text="y", force=True)
    assert digest(tmp_path / "a") != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_a_failure_leaves_nothing_and_keeps_the_old(tmp_path):
    write(tmp_path / "a")
    before = digest(tmp_path / "a")
    plan = Plan("split", FakeOptions(), {})
    for keep in (False, True):
        with pytest.raises(ValueError, match="broken"):
            fail_while_writing(tmp_path / "a", plan, keep=keep)
        assert [folder.marker.key for folder in find(tmp_path / "a")] == ([plan.key] if keep else [])
        assert (Output(tmp_path / "a").unfinished() is not None) == keep
        assert digest(tmp_path / "a") == before


def fail_while_writing(out: Path, plan: Plan, *, keep: bool) -> None:
    with ArtifactWriter(Output(out, force=True), plan) as writer:
        writer.write_json("report.json", {})
        if keep:
            writer.keep()
        raise ValueError("broken")


def test_what_only_an_interrupted_run_needs_is_not_in_the_artifact(tmp_path):
    plan = Plan("split", FakeOptions(), {})

    def write_with_scratch(out: Path, *, interrupted: bool = False, resume: bool = False) -> None:
        with ArtifactWriter(Output(out, resume=resume), plan) as writer:
            writer.scratch.add("checkpoints")
            writer.path("checkpoints/step-1/state.json").write_text("{}")
            writer.keep()
            writer.write_json("report.json", {})
            writer.path("manifest.json.tmp").write_text("half a mani")  # as a kill leaves it
            if interrupted:
                raise KeyboardInterrupt

    write_with_scratch(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        write_with_scratch(tmp_path / "cut", interrupted=True)
    [left] = find(tmp_path / "cut")
    assert (left.artifact / "checkpoints" / "step-1" / "state.json").is_file()
    write_with_scratch(tmp_path / "cut", resume=True)
    for name in ("whole", "cut"):
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["manifest.json", "report.json"]
        open_artifact(tmp_path / name)
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")


def test_a_run_that_kept_nothing_is_not_resumed(tmp_path):
    create(tmp_path / "a", "split", "k").release()
    with pytest.raises(PaddError, match="nothing to resume"):
        Output(tmp_path / "a", resume=True).check()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=4), json_values, max_size=5), st.randoms())
def test_the_key_does_not_depend_on_the_order_of_options(options, random):
    items = list(options.items())
    random.shuffle(items)
    parents = {"b": Parent(kind="file", digest="2"), "a": Parent(kind="file", digest="1", path="x")}
    moved = {"a": Parent(kind="file", digest="1", path="y"), "b": Parent(kind="file", digest="2")}
    assert recipe_key("k", options, 0, parents) == recipe_key("k", dict(items), 0, moved)
    assert json.loads(canonical_json(options)) == options
