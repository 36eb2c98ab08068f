"""Config files: unknown names get the nearest known one; every shipped YAML loads against the models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from padd_artifacts.errors import UsageError
from padd_cli.flags.config import SECTIONS, load_config, load_method, method_names, preset_names
from padd_cli.flags.resolve import RawSettings, resolve
from padd_cli.pipeline.runner import Runner, load_commands
from padd_cli.pipeline.steps import PipelineSettings, pipeline_settings, pipeline_steps

Padd = Callable[..., Any]
REQUIRED = {
    "split-data": ["problems"],
    "cluster": ["teacher"],
    "warmup": ["teacher", "student", "clusters", "split"],
    "train": ["student", "split", "teacher"],
    "teacher-grpo": ["student", "split"],
    "eval": ["model", "problems"],
    "analyze-experts": ["student"],
}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


@pytest.mark.usefixtures("fake_stage")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "cluster: {learning_rat: 1}",
            ["'learning_rat'", "did you mean 'learning_rate'?", "section 'cluster:'"],
        ),
        ("cluster: {out-dir: x}", ["'out_dir'", "which is no option there"]),
        ("clusters: {xi: 1}", ["'clusters:'", "did you mean 'cluster'?"]),
        ("cluster: 3", ["section 'cluster:'", "is 3 where option names"]),
        ("- cluster", ["is a list where a mapping is needed"]),
        ("", ["is empty where a mapping is needed"]),
        ("cluster: {xi: 1\ntrain: [", ["is not valid YAML at line 2"]),
        ("cluster: !!python/object/apply:os.getcwd []", ["is not valid YAML at line 1"]),
    ],
)
def test_a_wrong_file_is_one_sentence(padd: Padd, tmp_path: Path, text: str, words: list[str]) -> None:
    path = write(tmp_path, text)
    result = padd("cluster", "--teacher", "t", "--config", path, "--out", tmp_path / "o")
    assert result.code == 2
    assert result.err.count("\n") == 1
    for word in [*words, str(path)]:
        assert word in result.err
    assert not (tmp_path / "o").exists()


def test_an_unknown_preset_gets_the_nearest_name() -> None:
    with pytest.raises(
        UsageError, match=r"'toi' is neither a file nor a preset of padd \(did you mean 'toy'\?\)"
    ):
        load_config("toi")
    with pytest.raises(UsageError, match=r"did you mean 'grpo'\?.*there are .*online-kd.*padd"):
        load_method("grpoo", "train", [])


def test_sections_and_keys_may_be_written_either_way(tmp_path: Path) -> None:
    config = load_config(str(write(tmp_path, "split_data: {problem-column: q}\n")))
    assert config.section("split-data", ["problem_column"]) == {"problem_column": "q"}


def test_the_presets_are_there() -> None:
    assert {"toy", "paper-qwen", "paper-deepseek"} <= set(preset_names())
    assert {"grpo", "online-kd", "padd", "literal"} <= set(method_names())


@pytest.mark.parametrize(
    ("command", "name"), [(c, n) for c in ("cluster", "warmup", "train") for n in method_names(c)]
)
def test_every_method_preset_loads(command: str, name: str) -> None:
    model = load_commands({command})[command].options
    values = load_method(name, command, model.model_fields)
    options = model(**values)
    assert values
    assert {key: getattr(options, key) for key in values} == values


def test_a_method_preset_with_nothing_for_the_command_is_refused(padd: Padd, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'grpo' is neither .* there are literal"):
        load_method("grpo", "cluster", [])
    mine = write(tmp_path, "train: {phi: fixed}\n")
    with pytest.raises(UsageError, match=r"no section 'warmup:' .* the presets that do are literal"):
        load_method(str(mine), "warmup", [])


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("section", sorted(REQUIRED))
def test_every_section_of_every_preset_loads(name: str, section: str) -> None:
    config = load_config(name)
    command = load_commands({SECTIONS[section]})[SECTIONS[section]]
    given = RawSettings(
        flags=dict.fromkeys(REQUIRED[section], "x"),
        environ={},
        config=config,
        section=section,
        presets_allowed=command.method_presets,
    )
    resolved = resolve(command.inputs, command.options, given)
    for key in set(config.sections.get(section, {})) - {"preset", "out", *REQUIRED[section]}:
        assert resolved.sources[key] == f"file:{name}"


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_makes_a_pipeline(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    steps = pipeline_steps(pipeline_settings(config), tmp_path)
    Runner(config, load_commands({step.command for step in steps})).check(steps)
    assert [step.name for step in steps if step.command == "eval"] == [
        "eval/teacher",
        "eval/base",
        "eval/stage1",
        "eval/trained",
    ]


def test_stage_0_is_plain_grpo_without_being_told(tmp_path: Path) -> None:
    config = load_config(str(write(tmp_path, "pipeline: {teacher: t, student: s, problems: p}\n")))
    command = load_commands({"train"})["train"]
    given = RawSettings(
        flags={"student": "t", "split": "s"},
        environ={},
        config=config,
        section="teacher-grpo",
        presets_allowed=True,
    )
    resolved = resolve(command.inputs, command.options, given)
    assert (resolved.options.kd_weight, resolved.options.drift_lambda) == (0.0, 0.0)
    assert resolved.sources["kd_weight"] == "preset:grpo"


class TestPipelineSection:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("cluster: {}", "has no section 'pipeline:'"),
            ("pipeline: {teachers: x}", r"did you mean 'teacher'\?"),
            ("pipeline: {source: toys}", "'source' in section 'pipeline:'"),
            ("pipeline: {teacher: x}", "names no student"),
        ],
    )
    def test_refused(self, tmp_path: Path, text: str, words: str) -> None:
        with pytest.raises(UsageError, match=words):
            pipeline_settings(load_config(str(write(tmp_path, text))))

    def test_stage_0_feeds_the_rest(self, tmp_path: Path) -> None:
        settings = PipelineSettings(teacher="T", student="S", problems="P")
        steps = {step.name: step for step in pipeline_steps(settings, tmp_path)}
        assert steps["teacher-grpo"].inputs["student"] == "T"
        assert steps["cluster"].inputs["teacher"] == str(tmp_path / "teacher-grpo")
        tuned = {
            s.name: s for s in pipeline_steps(settings.model_copy(update={"teacher_tuned": True}), tmp_path)
        }
        assert "teacher-grpo" not in tuned
        assert tuned["cluster"].inputs["teacher"] == "T"
