"""Precedence, sources, and one sentence for every refused value."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Padd = Callable[..., Any]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text("cluster:\n  xi: 3\n  learning-rate: 1e-3\n  teacher: from-file\n")
    return path


def dry(padd: Padd, *argv: object) -> dict[str, Any]:
    result = padd("cluster", "--dry-run", "--json", *argv)
    assert result.code == 0, result.err
    return json.loads(result.out)


@pytest.mark.usefixtures("fake_stage")
class TestPrecedence:
    def test_flag_over_environment_over_file_over_default(
        self, padd: Padd, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def xi(*argv: object) -> tuple[float, str]:
            plan = dry(padd, "--teacher", "t", *argv)
            return plan["options"]["xi"], plan["sources"]["xi"]

        assert xi() == (1.0, "default")
        assert xi("--config", config) == (3.0, f"file:{config}")
        monkeypatch.setenv("PADD_XI", "4")
        assert xi("--config", config) == (4.0, "environment")
        assert xi("--config", config, "--xi", "5") == (5.0, "flag")

    def test_method_preset_is_below_the_file(self, padd: Padd, tmp_path: Path, config: Path) -> None:
        preset = tmp_path / "method.yaml"
        preset.write_text("cluster: {xi: 7, steps: 8}\n")
        plan = dry(padd, "--config", config, "--preset", preset)
        assert (plan["options"]["xi"], plan["options"]["steps"]) == (3.0, 8)
        assert plan["sources"]["steps"] == f"preset:{preset}"
        assert plan["sources"]["device"] == "default"

    def test_a_section_may_name_the_method_preset_and_the_folder(self, padd: Padd, tmp_path: Path) -> None:
        (tmp_path / "method.yaml").write_text("cluster: {xi: 7}\n")
        path = tmp_path / "c.yaml"
        path.write_text(
            f"cluster: {{teacher: t, preset: {tmp_path / 'method.yaml'}, out: {tmp_path / 'o'}}}\n"
        )
        plan = dry(padd, "--config", path)
        assert plan["options"]["xi"] == 7.0
        assert plan["out"] == str(tmp_path / "o")

    def test_inputs_come_from_the_same_places(
        self, padd: Padd, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert dry(padd, "--config", config)["parents"]["teacher"]["path"] == "from-file"
        monkeypatch.setenv("PADD_TEACHER", "from-environment")
        plan = dry(padd, "--config", config)
        assert plan["parents"]["teacher"]["path"] == "from-environment"
        assert plan["sources"]["teacher"] == "environment"

    def test_a_flag_and_a_file_that_say_the_same_give_the_same_key(self, padd: Padd, config: Path) -> None:
        from_file = dry(padd, "--config", config)
        typed = dry(padd, "--teacher", "from-file", "--xi", "3.0", "--learning-rate", "0.001")
        assert typed["key"] == from_file["key"]
        assert typed["key"] != dry(padd, "--teacher", "from-file")["key"]


@pytest.mark.usefixtures("fake_stage")
@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--no-normalize"], "normalize", False),
        (["--ratios", "0.1, 0.2,0.7"], "ratios", [0.1, 0.2, 0.7]),
        (["--limit", "3"], "limit", 3),
        (["--limit", "none"], "limit", None),
        (["--routing", "off"], "routing", "off"),
        (["--learning-rate", "2e-4"], "learning_rate", 2e-4),
    ],
)
def test_shapes_of_flags(padd: Padd, argv: list[str], name: str, value: object) -> None:
    assert dry(padd, "--teacher", "t", *argv)["options"][name] == value


@pytest.mark.usefixtures("fake_stage")
@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("routing: off", "routing", "off"),  # YAML 1.1 reads this as false
        ("ratios: [0.1, 0.2, 0.7]", "ratios", [0.1, 0.2, 0.7]),
        ("ratios: 0.1,0.2,0.7", "ratios", [0.1, 0.2, 0.7]),
        ("limit: null", "limit", None),
        ("learning_rate: 1e-4", "learning_rate", 1e-4),  # PyYAML reads this as text
        ("normalize: no", "normalize", False),
    ],
)
def test_shapes_of_yaml(padd: Padd, tmp_path: Path, text: str, name: str, value: object) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"cluster:\n  teacher: t\n  {text}\n")
    assert dry(padd, "--config", path)["options"][name] == value


def test_lists_by_repeated_flag_and_by_commas(
    padd: Padd, fake_stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from padd_cli.flags.resolve import RawSettings, resolve

    def extras(flags: dict[str, Any], environ: dict[str, str]) -> list[Path]:
        given = RawSettings(flags={"teacher": "t", **flags}, environ=environ)
        return resolve(fake_stage.inputs, fake_stage.options, given).inputs.extras

    assert extras({"extras": ["a", "b,c"]}, {}) == [Path("a"), Path("b,c")]
    assert extras({}, {"PADD_EXTRAS": "a,b"}) == [Path("a"), Path("b")]
    assert extras({}, {"PADD_EXTRAS": "none"}) == []


@pytest.mark.usefixtures("fake_stage")
@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--xi", "0"], "--xi is '0', but it must be greater than 0."),
        (["--xi", "nan"], "--xi is 'nan', but it must be a number."),
        (["--steps", "two"], "--steps is 'two', but it must be a whole number."),
        (["--routing", "new"], "--routing is 'new', but it must be one of off, old."),
        (["--ratios", "0.1,0.9"], "--ratios is '0.1,0.9', but it must be 3 numbers with commas between."),
        (["--limit", "99"], "--limit 99 is more than --steps 10; lower it."),
    ],
)
def test_a_refused_value_is_one_sentence(padd: Padd, tmp_path: Path, argv: list[str], sentence: str) -> None:
    result = padd("cluster", "--teacher", "t", "--out", tmp_path / "o", *argv)
    assert (result.code, result.out, result.err) == (2, "", f"error: {sentence}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fake_stage")
class TestBlame:
    """An error names the place that the value came from."""

    def test_environment(self, padd: Padd, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PADD_STEPS", "many")
        result = padd("cluster", "--teacher", "t", "--dry-run")
        assert (result.code, result.err) == (
            2,
            "error: PADD_STEPS is 'many', but it must be a whole number.\n",
        )

    def test_file(self, padd: Padd, tmp_path: Path) -> None:
        path = tmp_path / "c.yaml"
        path.write_text("cluster: {teacher: t, steps: 0}\n")
        result = padd("cluster", "--config", path, "--dry-run")
        assert result.code == 2
        assert f"'steps' in section 'cluster:' of {path} is '0'" in result.err

    def test_missing_input(self, padd: Padd) -> None:
        result = padd("cluster", "--dry-run")
        assert result.code == 2
        assert result.err.startswith(
            "error: --teacher is needed (Dense teacher); give the flag, set PADD_TEACHER"
        )


def test_an_empty_variable_is_as_if_it_were_not_set(
    padd: Padd, fake_stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PADD_STEPS", "")
    assert dry(padd, "--teacher", "t")["sources"]["steps"] == "default"
